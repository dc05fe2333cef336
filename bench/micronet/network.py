#!/usr/bin/env python3
"""The winner of the MicroNet challenge on CIFAR-100 as an ONNX network: the same function, number by number.

    python bench/micronet/network.py CHECKPOINT OUT.onnx [--precision f16|f32] [--fewer]

CHECKPOINT is `densenet100_w4a4.pth.tar`: a DenseNet-100 (growth 12, bottleneck) whose weights are integers. A layer is
`y = round(clamp(scale · x + bias, 0, 15))`, a convolution of these integers with integers of four bits, and a scale and
bias for each channel again; what a block makes is appended to what it was given. The definition is that of the branch
`cifar100` of github.com/wps712/MicroNetChallenge (quantization/models/densenet_merged.py): `--precision f16`, as published
(80.17 %), does everything but the sums of products in half precision, `f32` in single precision (80.39 %). An operation in
half precision is one in single precision whose result is rounded (`Cast` there and back): the same numbers, by kernels that
every runtime has.

`--fewer` computes the same function of real numbers with fewer operations: what a layer has no weights for is not scaled for it;
averaging 2×2 comes before the 1×1 convolution that it commutes with, where a quarter of the products is left; the last scale
comes behind ReLU and averaging, which it commutes with, being positive. Weights and biases stay what they are; where half precision
rounds is all that changes.

Needs `pip install numpy onnx==1.21.0`.
"""
import argparse

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from checkpoint import load

MEAN, STD = (0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784)
BLOCKS, LAYERS = 3, 16


class Builder:
    """An ONNX graph under construction; methods add nodes and give the names of their results."""

    def __init__(self, half):
        self.nodes, self.constants, self.half = [], [], half

    def constant(self, name, array, kind=None):
        if kind is None:
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        else:
            self.constants.append(helper.make_tensor(name, kind, array.shape, array.ravel().tolist()))
        return name

    def node(self, op, inputs, name, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def weights(self, name, array, bits):
        """Constant integers as reals: stored in four bits, or as reals that are quantized to more."""
        lo, hi = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        if not ((array == np.rint(array)) & (array >= lo) & (array <= hi)).all():
            raise ValueError(f"{name}: not integers of {bits} bits")
        if bits == 4:
            unit = self.constant(f"{name}.unit", np.float32(1.0))
            ints = self.constant(f"{name}.int", array.astype(np.int8), TensorProto.INT4)
            zero = self.constant(f"{name}.zero", np.zeros((), np.int8), TensorProto.INT4)
            return self.node("DequantizeLinear", [ints, unit, zero], name)
        return self.constant(name, array.astype(np.float32))

    def rounded(self, x, name):
        """`x` in half precision, if that is what the network computes in."""
        if not self.half:
            return x
        x = self.node("Cast", [x], f"{name}.half", to=TensorProto.FLOAT16)
        return self.node("Cast", [x], f"{name}.rounded", to=TensorProto.FLOAT)

    def scale(self, x, name, weight, bias, spatial=True):
        """`weight · x + bias`, channel by channel; a bias of zeros is no addition."""
        shape = (1, -1, 1, 1) if spatial else (1, -1)
        w = self.constant(f"{name}.weight", self.real(weight, shape))
        x = self.rounded(self.node("Mul", [x, w], f"{name}.scaled"), f"{name}.scaled")
        if not bias.any():
            return x
        return self.shifted(x, name, bias, shape)

    def real(self, values, shape):
        """Numbers for channels as they are stored."""
        return values.reshape(shape).astype(np.float16 if self.half else np.float32).astype(np.float32)

    def shifted(self, x, name, bias, shape=(1, -1, 1, 1)):
        """`x + bias`, channel by channel."""
        b = self.constant(f"{name}.bias", self.real(bias, shape))
        return self.rounded(self.node("Add", [x, b], name), name)

    def averaged(self, x, name, unit=1.0):
        """Means of 2×2 integers of four bits, each standing for `unit`: integers of six bits, in quarters of it."""
        x = self.node("AveragePool", [x], name, kernel_shape=[2, 2], strides=[2, 2])
        quarter, zero = self.constant(f"{name}.quarter", np.float32(unit / 4)), self.constant(f"{name}.none", np.uint8(0))
        x = self.node("QuantizeLinear", [x, quarter, zero], f"{name}.int")
        x = self.node("Clip", [x, zero, self.constant(f"{name}.most", np.uint8(63))], f"{name}.six")
        return self.node("DequantizeLinear", [x, quarter, zero], f"{name}.real")

    def quantized(self, x, name):
        """`round(clamp(x, 0, 15))` as four-bit integers that stand for themselves."""
        if "one" not in {c.name for c in self.constants}:
            self.constant("one", np.float32(1.0))
            self.constant("zero", np.zeros((), np.uint8), TensorProto.UINT4)
        q = self.node("QuantizeLinear", [x, "one", "zero"], f"{name}.int")
        return self.node("DequantizeLinear", [q, "one", "zero"], f"{name}.real")


def build(tensors, half, fewer):
    """The network as an ONNX model, from the tensors of the checkpoint. KeyError, ValueError: they are not of this network."""
    g = Builder(half)
    flat = lambda name: tensors[name].reshape(-1)

    def scale(x, name, **kw):
        return g.scale(x, name, flat(f"{name}.weight"), flat(f"{name}.bias"), **kw)

    def convolution(x, name, pad=0):
        w = g.weights(f"{name}.weight", tensors[f"{name}.weight"], 4)
        y = g.node("Conv", [x, w], name, pads=[pad] * 4)
        return g.rounded(y, name)

    def entry(x, name):
        """The integers that a convolution reads, and its weights."""
        weight, bias, w = (tensors[f"{name}.{part}"] for part in ("scale1.weight", "scale1.bias", "conv1.weight"))
        weight, bias = weight.reshape(-1), bias.reshape(-1)
        if fewer:
            used = np.flatnonzero((w != 0).any(axis=(0, 2, 3)))
            x = g.node("Gather", [x, g.constant(f"{name}.channels", used.astype(np.int64))], f"{name}.chosen", axis=1)
            weight, bias, w = weight[used], bias[used], w[:, used]
        x = g.quantized(g.scale(x, f"{name}.scale1", weight, bias), f"{name}.quant1")
        return x, g.weights(f"{name}.conv1.weight", w, 4)

    x = scale(convolution("image", "conv1", 1), "scale1")
    for b in range(1, BLOCKS + 1):
        for i in range(LAYERS):
            name = f"dense{b}.{i}"
            y = g.rounded(g.node("Conv", entry(x, name), f"{name}.conv1"), f"{name}.conv1")
            y = convolution(g.quantized(scale(y, f"{name}.scale2"), f"{name}.quant2"), f"{name}.conv2", 1)
            x = g.node("Concat", [x, scale(y, f"{name}.scale3")], f"{name}.concat", axis=1)
        if b < BLOCKS:
            name = f"trans{b}"
            y, w = entry(x, name)
            if fewer:
                y = g.node("Conv", [g.averaged(y, f"{name}.pool"), w], f"{name}.conv1")
                y = g.rounded(y, f"{name}.conv1")
            else:
                y = g.rounded(g.node("Conv", [y, w], f"{name}.conv1"), f"{name}.conv1")
                y = g.node("AveragePool", [y], f"{name}.pool", kernel_shape=[2, 2], strides=[2, 2])
                y = g.rounded(y, f"{name}.pool")
            x = scale(y, f"{name}.scale2")
    weight, bias = flat("scale2.weight"), flat("scale2.bias")
    if fewer and (weight <= 0).any():
        raise ValueError("scale2: a scale that is not positive does not commute with ReLU")
    x = g.shifted(x, "scale2", bias / weight) if fewer else scale(x, "scale2")
    x = g.rounded(g.node("GlobalAveragePool", [g.node("Relu", [x], "relu")], "pool"), "pool")
    x = g.node("Flatten", [x], "features", axis=1)
    if fewer:
        x = g.scale(x, "scale2", weight, np.zeros(1), spatial=False)
    fc = g.weights("fc.weight", tensors["fc.weight"].T, 6)
    x = g.rounded(g.node("MatMul", [x, fc], "fc"), "fc")
    x = scale(x, "scale3", spatial=False)
    # The network was trained on images that were normalized, then divided by 255 once more.
    return finish(g, x, "densenet100_micronet", [s * 255 for s in STD])


def finish(g, output, name, std):
    """The model of what was built; images are normalized by MEAN and `std`."""
    graph = helper.make_graph(
        g.nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 100])],
        g.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    numbers = lambda values: ",".join(repr(float(np.float32(v))) for v in values)
    for key, value in {"size": "", "crop": "", "scale": "255", "mean": numbers(MEAN), "std": numbers(std)}.items():
        model.metadata_props.add(key=f"qing.input.{key}", value=value)
    onnx.checker.check_model(model)
    return onnx.shape_inference.infer_shapes(model)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("output")
    parser.add_argument("--precision", choices=["f16", "f32"], default="f16")
    parser.add_argument("--fewer", action="store_true", help="the same function of real numbers with fewer operations")
    args = parser.parse_args()
    model = build(load(args.checkpoint), args.precision == "f16", args.fewer)
    onnx.save(model, args.output)


if __name__ == "__main__":
    main()
