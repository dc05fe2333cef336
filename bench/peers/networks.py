"""The networks that all engines run: exact architectures; weights are random where `../shared/models` has none trained.

Speed does not depend on weights, so nothing is downloaded. BatchNormalization is folded, shapes are fixed and the batch is 1, because some
peers need that; all engines get the same file, or what their own converter makes of it.
"""
import pathlib
import sys
from dataclasses import dataclass
from typing import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import data  # noqa: E402

OPSET, IR = 17, 8
# Which of the images that a trained network calibrates on it is compared on.
IMAGE = 7
# Samples of noise that the others calibrate on.
NOISE = 8


class Builder:
    """Collects nodes and weights of a network with random weights."""

    def __init__(self, seed):
        self.nodes, self.weights, self.random = [], [], np.random.default_rng(seed)

    def node(self, op, inputs, outputs=1, **attributes):
        """Adds a node; returns its output, or the list of them where there are several."""
        name = f"{op.lower()}_{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=name, **attributes))
        return name if outputs == 1 else names

    def constant(self, array, element=np.float32):
        name = f"w_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, element), name))
        return name

    def integers(self, *values):
        return self.constant(values, np.int64)

    def conv(self, x, inputs, outputs, kernel, stride=1, gain=1.0, groups=1, pads=None):
        """He-initialized convolution; `gain` below 1 keeps the sums of residual branches bounded."""
        height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        scale = gain * np.sqrt(2 / (inputs // groups * height * width))
        weight = self.random.normal(0, scale, (outputs, inputs // groups, height, width))
        bias = self.random.normal(0, 0.1, outputs)
        return self.node("Conv", [x, self.constant(weight), self.constant(bias)], kernel_shape=[height, width], strides=[stride] * 2,
                         pads=pads or [height // 2, width // 2] * 2, group=groups)

    def relu(self, x):
        return self.node("Relu", [x])

    def model(self, name, inputs, output, shape):
        """The checked model; `inputs` are (name, element, shape). The value `output` is renamed `output`."""
        for node in self.nodes:
            node.output[:] = ["output" if o == output else o for o in node.output]
        graph = helper.make_graph(
            self.nodes, name, [helper.make_tensor_value_info(n, element, s) for n, element, s in inputs],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
        onnx.checker.check_model(model)
        # Strict, so that a wrong architecture is found here and not in a peer; intermediate shapes are kept for counting.
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def image(*shape):
    return [("image", TensorProto.FLOAT, list(shape))]


def resnet(depth):
    """torchvision's ResNet-18 (basic blocks) or ResNet-50 (bottlenecks, stride in the 3×3)."""
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
    x = b.node("Gemm", [x, b.constant(weight), b.constant(np.zeros(1000))], transB=1)
    return b.model(f"resnet{depth}", image(1, 3, 224, 224), x, [1, 1000])


def yolov8n(size=320, classes=80):
    """Ultralytics' YOLOv8n as it exports itself to ONNX: boxes (x, y, w, h) and class probabilities, no suppression."""
    b = Builder(seed=8)

    def conv(x, inputs, outputs, kernel=1, stride=1):
        y = b.conv(x, inputs, outputs, kernel, stride)
        return b.node("Mul", [y, b.node("Sigmoid", [y])])

    def c2f(x, inputs, outputs, repeats, shortcut):
        half = outputs // 2
        x = conv(x, inputs, outputs)
        parts = b.node("Split", [x, b.integers(half, half)], outputs=2, axis=1)
        for _ in range(repeats):
            y = conv(conv(parts[-1], half, half, 3), half, half, 3)
            parts.append(b.node("Add", [parts[-1], y]) if shortcut else y)
        return conv(b.node("Concat", parts, axis=1), (2 + repeats) * half, outputs)

    def twice(x):
        return b.node("Resize", [x, "", b.constant([1, 1, 2, 2])], mode="nearest", coordinate_transformation_mode="asymmetric",
                      nearest_mode="floor")

    x = conv(conv("image", 3, 16, 3, 2), 16, 32, 3, 2)
    x = c2f(x, 32, 32, 1, True)
    p3 = c2f(conv(x, 32, 64, 3, 2), 64, 64, 2, True)
    p4 = c2f(conv(p3, 64, 128, 3, 2), 128, 128, 2, True)
    x = c2f(conv(p4, 128, 256, 3, 2), 256, 256, 1, True)
    pools = [conv(x, 256, 128)]
    for _ in range(3):
        pools.append(b.node("MaxPool", [pools[-1]], kernel_shape=[5, 5], strides=[1, 1], pads=[2, 2, 2, 2]))
    p5 = conv(b.node("Concat", pools, axis=1), 512, 256)
    n4 = c2f(b.node("Concat", [twice(p5), p4], axis=1), 384, 128, 1, False)
    n3 = c2f(b.node("Concat", [twice(n4), p3], axis=1), 192, 64, 1, False)
    n4 = c2f(b.node("Concat", [conv(n3, 64, 64, 3, 2), n4], axis=1), 192, 128, 1, False)
    n5 = c2f(b.node("Concat", [conv(n4, 128, 128, 3, 2), p5], axis=1), 384, 256, 1, False)

    levels, anchors, strides = [], [], []
    for x, channels, stride in ((n3, 64, 8), (n4, 128, 16), (n5, 256, 32)):
        box = b.conv(conv(conv(x, channels, 64, 3), 64, 64, 3), 64, 64, 1)
        kind = b.conv(conv(conv(x, channels, 80, 3), 80, 80, 3), 80, classes, 1, gain=0.5)
        side = size // stride
        level = b.node("Concat", [box, kind], axis=1)
        levels.append(b.node("Reshape", [level, b.integers(1, 64 + classes, side * side)]))
        y, x = np.mgrid[:side, :side] + 0.5
        anchors.append(np.stack([x.ravel(), y.ravel()]))
        strides.append(np.full(side * side, stride))
    count = sum(s.size for s in strides)
    box, kind = b.node("Split", [b.node("Concat", levels, axis=2), b.integers(64, classes)], outputs=2, axis=1)
    # Distribution focal loss: each side of a box is the mean of a distribution over 16 distances.
    box = b.node("Transpose", [b.node("Reshape", [box, b.integers(1, 4, 16, count)])], perm=[0, 2, 1, 3])
    box = b.node("Softmax", [box], axis=1)
    distances = b.constant(np.arange(16).reshape(1, 16, 1, 1))
    box = b.node("Reshape", [b.node("Conv", [box, distances], kernel_shape=[1, 1]), b.integers(1, 4, count)])
    near, far = b.node("Split", [box, b.integers(2, 2)], outputs=2, axis=1)
    anchor = b.constant(np.concatenate(anchors, 1)[None])
    low, high = b.node("Sub", [anchor, near]), b.node("Add", [anchor, far])
    centre = b.node("Mul", [b.node("Add", [low, high]), b.constant([0.5])])
    box = b.node("Concat", [centre, b.node("Sub", [high, low])], axis=1)
    box = b.node("Mul", [box, b.constant(np.concatenate(strides).reshape(1, 1, count))])
    x = b.node("Concat", [box, b.node("Sigmoid", [kind])], axis=1)
    return b.model("yolov8n", image(1, 3, size, size), x, [1, 4 + classes, count])


def espcn(height=360, width=640, factor=2):
    """Shi et al. 2016 on the luminance, in the four layers of PyTorch's example."""
    b = Builder(seed=2)
    x = b.relu(b.conv("image", 1, 64, 5))
    x = b.relu(b.conv(x, 64, 64, 3))
    x = b.relu(b.conv(x, 64, 32, 3))
    x = b.node("DepthToSpace", [b.conv(x, 32, factor * factor, 3)], blocksize=factor, mode="CRD")
    return b.model("espcn", image(1, 1, height, width), x, [1, 1, factor * height, factor * width])


def srvgg(size=128, factor=4, features=64, layers=16):
    """Real-ESRGAN's SRVGGNetCompact (animevideov3): convolutions with PReLU, pixel shuffle, the enlarged image added."""
    b = Builder(seed=4)

    def prelu(x):
        return b.node("PRelu", [x, b.constant(b.random.uniform(0.05, 0.4, (features, 1, 1)))])

    x = prelu(b.conv("image", 3, features, 3))
    for _ in range(layers):
        x = prelu(b.conv(x, features, features, 3))
    x = b.node("DepthToSpace", [b.conv(x, features, 3 * factor * factor, 3, gain=0.3)], blocksize=factor, mode="CRD")
    base = b.node("Resize", ["image", "", b.constant([1, 1, factor, factor])], mode="nearest", coordinate_transformation_mode="asymmetric",
                  nearest_mode="floor")
    return b.model("srvgg", image(1, 3, size, size), b.node("Add", [x, base]), [1, 3, factor * size, factor * size])


def dscnn(classes=12):
    """The keyword network of MLPerf Tiny (Zhang et al. 2017, DS-CNN small): 49 frames of 10 coefficients."""
    b = Builder(seed=5)
    # TensorFlow's SAME padding of 49×10 with a 10×4 window and stride 2: one more below and to the right where it is odd.
    x = b.relu(b.conv("image", 1, 64, (10, 4), 2, pads=[4, 1, 5, 1]))
    for _ in range(4):
        x = b.relu(b.conv(x, 64, 64, 3, groups=64))
        x = b.relu(b.conv(x, 64, 64, 1))
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x])], axis=1)
    x = b.node("Gemm", [x, b.constant(b.random.normal(0, 0.3, (classes, 64))), b.constant(np.zeros(classes))], transB=1)
    return b.model("dscnn", image(1, 1, 49, 10), b.node("Softmax", [x], axis=1), [1, classes])


def minilm(tokens=128, layers=6, width=384, heads=12, inner=1536, vocabulary=30522, first=False):
    """all-MiniLM-L6-v2 (BERT): token embeddings out, as sentence-transformers exports it, without the pooling after it. If `first`, its
    normalizations come before attention and the functions of tokens, as in GPT, rather than after the sums."""
    b = Builder(seed=6)
    depth = width // heads

    def dense(x, inputs, outputs):
        y = b.node("MatMul", [x, b.constant(b.random.normal(0, inputs**-0.5, (inputs, outputs)))])
        return b.node("Add", [b.constant(b.random.normal(0, 0.02, outputs)), y])

    def norm(x):
        scale, bias = b.random.uniform(0.8, 1.2, width), b.random.normal(0, 0.05, width)
        return b.node("LayerNormalization", [x, b.constant(scale), b.constant(bias)], axis=-1, epsilon=1e-12)

    def split(x, axes):
        return b.node("Transpose", [b.node("Reshape", [x, b.integers(1, tokens, heads, depth)])], perm=axes)

    words = b.node("Gather", [b.constant(b.random.normal(0, 0.05, (vocabulary, width))), "input_ids"], axis=0)
    types = b.node("Gather", [b.constant(b.random.normal(0, 0.02, (2, width))), "token_type_ids"], axis=0)
    places = b.constant(b.random.normal(0, 0.02, (1, tokens, width)))
    x = b.node("Add", [b.node("Add", [words, types]), places])
    x = x if first else norm(x)
    mask = b.node("Cast", [b.node("Unsqueeze", ["attention_mask", b.integers(1, 2)])], to=TensorProto.FLOAT)
    mask = b.node("Mul", [b.node("Sub", [b.constant(1.0), mask]), b.constant(-10000.0)])
    for _ in range(layers):
        read = norm(x) if first else x
        query, key, value = (split(dense(read, width, width), axes) for axes in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
        scores = b.node("Div", [b.node("MatMul", [query, key]), b.constant(np.sqrt(depth))])
        weights = b.node("Softmax", [b.node("Add", [scores, mask])], axis=-1)
        y = b.node("Transpose", [b.node("MatMul", [weights, value])], perm=[0, 2, 1, 3])
        y = dense(b.node("Reshape", [y, b.integers(1, tokens, width)]), width, width)
        x = b.node("Add", [y, x])
        x = x if first else norm(x)
        y = dense(norm(x) if first else x, width, inner)
        erf = b.node("Erf", [b.node("Div", [y, b.constant(np.sqrt(2))])])
        y = b.node("Mul", [b.node("Mul", [y, b.node("Add", [erf, b.constant(1.0)])]), b.constant(0.5)])
        x = b.node("Add", [dense(y, inner, width), x])
        x = x if first else norm(x)
    x = norm(x) if first else x
    inputs = [(n, TensorProto.INT64, [1, tokens]) for n in ("input_ids", "attention_mask", "token_type_ids")]
    return b.model("minilm", inputs, x, [1, tokens, width])


@dataclass(frozen=True)
class Network:
    """A row of the comparison. `gflop` is what the architecture must come to; `source` names a trained file instead of `build`."""

    title: str
    gflop: float
    build: Callable | None = None
    source: str | None = None


NETWORKS = {
    "mobilenetv2": Network("MobileNetV2 224", 0.60, source="mobilenetv2.onnx"),
    "efficientnet_lite0": Network("EfficientNet-Lite0", 0.77, source="efficientnet_lite0.onnx"),
    "resnet18": Network("ResNet-18", 3.63, lambda: resnet(18)),
    "resnet50": Network("ResNet-50", 8.18, lambda: resnet(50)),
    "yolov8n": Network("YOLOv8n 320", 2.19, yolov8n),
    "espcn": Network("ESPCN ×2, 360×640", 26.7, espcn),
    "srvgg": Network("SRVGGNetCompact ×4, 128²", 20.3, srvgg),
    "dscnn": Network("DS-CNN keyword", 0.0053, dscnn),
    "minilm": Network("MiniLM-L6, 128 tokens", 2.87, minilm),
}


def fixed(model):
    """The image network `closed`, with the shapes of all values inferred, and `image` and `output` for names."""
    names = {model.graph.input[0].name: "image", model.graph.output[0].name: "output"}
    for node in model.graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
    for value in [*model.graph.input, *model.graph.output]:
        value.name = names.get(value.name, value.name)
    weights = {w.name: w for w in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv":
            # Allowed to be left out, but rten wants them.
            given, kernel = {a.name for a in node.attribute}, list(weights[node.input[1]].dims[2:])
            for name, default in (("kernel_shape", kernel), ("dilations", [1] * len(kernel))):
                if name not in given:
                    node.attribute.append(helper.make_attribute(name, default))
    closed(model)
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def closed(model):
    """The model with open dimensions of inputs and outputs set to 1."""
    for value in [*model.graph.input, *model.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.WhichOneof("value") != "dim_value":
                dim.dim_value = 1
    return model


def shapes(model):
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    known = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    return known | {w.name: list(w.dims) for w in model.graph.initializer}


def gflop(model):
    """2 × the multiply–accumulates of convolutions and matrix products, in 10⁹."""
    known, total = shapes(model), 0
    for node in model.graph.node:
        out = int(np.prod(known[node.output[0]])) if node.op_type in ("Conv", "MatMul", "Gemm") else 0
        if node.op_type == "Conv":
            total += out * int(np.prod(known[node.input[1]][1:]))
        elif out:
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            total += out * known[node.input[0]][0 if transposed else -1]
    return 2e-9 * total


def feeds(model, seed=0, images=None):
    """One input for each input of the model: standard normal images (or one of `images`), random tokens, everything attended to."""
    random = np.random.default_rng(seed)
    made = {}
    for value in model.graph.input:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            made[value.name] = random.normal(0, 1, shape).astype(np.float32) if images is None else images[seed % len(images)][None]
        elif value.name == "input_ids":
            made[value.name] = random.integers(0, 30522, shape)
        else:
            made[value.name] = np.full(shape, value.name == "attention_mask", np.int64)
    return made


def calibration(path, folder):
    """Inputs, one dictionary a sample, to calibrate the network in file `path` with; `folder` is `../shared/data`."""
    model = onnx.load(path)
    images = data.calibration_batch(path.stem, folder) if path.stem in data.NETWORKS else None
    return [feeds(model, i, images) for i in range(NOISE if images is None else len(images))]


def build(name, out, shared):
    """Writes OUT/NAME.onnx if it is not there; returns its path, or None if its source is missing."""
    path, network = out / f"{name}.onnx", NETWORKS[name]
    if path.exists():
        return path
    if network.source:
        source = shared / "models" / network.source
        if not source.exists():
            return None
        model = fixed(onnx.load(source))
    else:
        model = network.build()
    counted = gflop(model)
    if abs(counted / network.gflop - 1) > 0.02:
        raise SystemExit(f"{name}: {counted:.4f} GFLOP, should be {network.gflop}")
    unfinished = path.with_suffix(".part")
    onnx.save(model, unfinished)
    unfinished.rename(path)
    return path


def prepare(name, out, folder, shared):
    """The network in OUT and its input in FOLDER/NAME: inputs.npz for most; N.bin and a line `element dim,dim…` in inputs.txt for the rest."""
    path = build(name, out, shared)
    if path and not (folder / name / "inputs.npz").exists():
        (folder / name).mkdir(exist_ok=True)
        # An image as the network knows them where there is one: on noise the steps of int8 are amplified beyond all comparison.
        images = data.calibration_batch(name, shared / "data") if name in data.NETWORKS else None
        made = feeds(onnx.load(path), IMAGE, images)
        lines = []
        for i, value in enumerate(made.values()):
            value.tofile(folder / name / f"{i}.bin")
            lines.append(f"{value.dtype} {','.join(map(str, value.shape))}\n")
        (folder / name / "inputs.txt").write_text("".join(lines))
        np.savez(folder / name / "inputs.npz", **made)
    return path
