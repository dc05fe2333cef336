#!/usr/bin/env python3
"""Makes the networks that bench/compare.py measures; nothing it writes is committed.

    pip install numpy onnx==1.21.0 onnxruntime==1.32.0 pillow
    python bench/models.py OUT [--models ../shared/models] [--data ../shared/data]

ResNet-18 and ResNet-50 have torchvision's architecture with BatchNormalization folded and random weights:
speed does not depend on them, and no download is needed. The int8 files are ONNX Runtime's own static
quantization (QDQ, uint8 activations, int8 weights per channel), so that both runtimes run one file.
"""
import argparse
import pathlib
import shutil
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import data


class Builder:
    """Collects nodes and weights of a convolutional network with random weights."""

    def __init__(self, seed):
        self.nodes, self.weights, self.random = [], [], np.random.default_rng(seed)

    def node(self, op, inputs, **attributes):
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, array):
        name = f"w_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def conv(self, x, inputs, outputs, kernel, stride=1, gain=1.0):
        """He-initialized convolution; `gain` below 1 keeps the sums of residual branches bounded."""
        scale = gain * np.sqrt(2 / (inputs * kernel * kernel))
        weight = self.random.normal(0, scale, (outputs, inputs, kernel, kernel))
        bias = self.random.normal(0, 0.1, outputs)
        return self.node("Conv", [x, self.constant(weight), self.constant(bias)], kernel_shape=[kernel] * 2,
                         strides=[stride] * 2, pads=[kernel // 2] * 4)

    def relu(self, x):
        return self.node("Relu", [x])


def resnet(depth):
    """ResNet-18 (basic blocks) or ResNet-50 (bottlenecks, stride in the 3×3), input [N,3,224,224]."""
    blocks, bottleneck = {18: ([2, 2, 2, 2], False), 50: ([3, 4, 6, 3], True)}[depth]
    b = Builder(seed=depth)
    x = b.relu(b.conv("image", 3, 64, 7, 2))
    x = b.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inputs, expansion = 64, 4 if bottleneck else 1
    for stage, count in enumerate(blocks):
        width = 64 << stage
        for i in range(count):
            stride = 2 if stage > 0 and i == 0 else 1
            outputs = width * expansion
            y = x
            if bottleneck:
                y = b.relu(b.conv(y, inputs, width, 1))
                y = b.relu(b.conv(y, width, width, 3, stride))
                y = b.conv(y, width, outputs, 1, gain=0.5)
            else:
                y = b.relu(b.conv(y, inputs, width, 3, stride))
                y = b.conv(y, width, outputs, 3, gain=0.5)
            if stride != 1 or inputs != outputs:
                x = b.conv(x, inputs, outputs, 1, stride, gain=0.7)
            x, inputs = b.relu(b.node("Add", [y, x])), outputs
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x])], axis=1)
    weight = b.random.normal(0, inputs**-0.5, (1000, inputs))
    b.nodes.append(helper.make_node("Gemm", [x, b.constant(weight), b.constant(np.zeros(1000))], ["logits"], name="classify", transB=1))
    graph = helper.make_graph(
        b.nodes, f"resnet{depth}",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 1000])], b.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


class Batch(CalibrationDataReader):
    """Feeds one array, image by image."""

    def __init__(self, name, images):
        self.items = iter([{name: image[None]} for image in images])

    def get_next(self):
        return next(self.items, None)


def quantize(source, target, images):
    """ONNX Runtime's static int8 quantization with its defaults for x86 with VNNI (no reduced range)."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = f"{folder}/prepared.onnx"
        quant_pre_process(str(source), prepared, skip_symbolic_shape=True)
        name = onnx.load(prepared).graph.input[0].name
        quantize_static(prepared, str(target), Batch(name, images), quant_format=QuantFormat.QDQ, per_channel=True,
                        reduce_range=False, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    root = pathlib.Path(__file__).resolve().parents[1].parent
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--models", type=pathlib.Path, default=root / "shared/models")
    parser.add_argument("--data", type=pathlib.Path, default=root / "shared/data")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    for depth in (18, 50):
        path = args.out / f"resnet{depth}.onnx"
        onnx.save(resnet(depth), path)
        images = np.random.default_rng(0).normal(0, 1, (8, 3, 224, 224)).astype(np.float32)
        quantize(path, args.out / f"resnet{depth}_int8.onnx", images)
        print(path.name, flush=True)
    for name in data.NETWORKS:
        source = args.models / f"{name}.onnx"
        if not source.exists():
            print(f"{source} not found: left out")
            continue
        shutil.copyfile(source, args.out / f"{name}.onnx")
        images = data.calibration_batch(name, args.data)
        if images is None:
            size = 32 if "cifar" in name else 224
            print(f"{name}: no data in {args.data}, calibrated on noise: right for speed, wrong for accuracy")
            images = np.random.default_rng(0).normal(0, 1, (8, 3, size, size)).astype(np.float32)
        quantize(source, args.out / f"{name}_int8.onnx", images)
        print(f"{name}.onnx", flush=True)


if __name__ == "__main__":
    main()
