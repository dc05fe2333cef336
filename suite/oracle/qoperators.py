#!/usr/bin/env python3
"""Random cases of the quantized ONNX operators, computed by onnxruntime: the outside oracle of qing's integers.

    pip install numpy onnx==1.21.0 onnxruntime==1.32.0
    python suite/oracle/qoperators.py OUT            # writes the cases, a few seconds
    python suite/oracle/qoperators.py OUT --verify   # and prints how often qing's formula differs, per operator

A case is a folder OUT/NAME with model.onnx, input_0.npy … and output_0.npy …; OUT/cases.tsv lists them: name,
operator, rule, number of outputs, outputs where qing's arithmetic differs, largest difference. The rule says what a test may demand:
`exact` (equality to the bit) or `step` (at most one quantization step apart: onnxruntime computes this operator in float, and its
addition rounds after adding the zero point, which turns halves the other way where that is odd).
The seed is fixed, so the cases are the same everywhere; cases an onnxruntime cannot run are counted and left out.
"""
import argparse
import pathlib
import shutil
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import arithmetic as qing

F32, U8, I8, I32 = np.float32, np.uint8, np.int8, np.int32
MICROSOFT = "com.microsoft"
random = np.random.default_rng(20261123)


class Model:
    """A graph under construction; inputs and constants are given as arrays, outputs get their type from inference."""

    def __init__(self, opset=21):
        self.nodes, self.weights, self.inputs, self.feeds, self.opset = [], [], [], {}, opset

    def input(self, array):
        name = f"x{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape))
        self.feeds[name] = array
        return name

    def constant(self, array):
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def packed(self, values, element):
        """A constant of an element numpy does not have (INT4, UINT2 …)."""
        name = f"c{len(self.weights)}"
        values = np.asarray(values)
        self.weights.append(helper.make_tensor(name, element, values.shape, values.ravel().tolist()))
        return name

    def node(self, op, inputs, outputs=1, **attributes):
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"n{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def quantize(self, x, scale, zero):
        return self.node("QuantizeLinear", [x, self.constant(F32(scale)), self.constant(zero)])

    def dequantize(self, x, scale, zero, **attributes):
        return self.node("DequantizeLinear", [x, self.constant(np.asarray(scale, F32)), self.constant(zero)], **attributes)

    def build(self, outputs, types, shapes):
        values = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(t)), s)
                  for name, t, s in zip(outputs, types, shapes)]
        graph = helper.make_graph(self.nodes, "case", self.inputs, values, self.weights)
        return helper.make_model(graph, ir_version=13 if self.opset > 23 else 10, opset_imports=[
            helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)])


# --- drawing quantized tensors ---------------------------------------------------------------------------------

def draw_scale(low, high, shape=()):
    """Scales in [low, high); all powers of two in a case drawn to have halves, where rounding modes differ."""
    scale = random.uniform(low, high, shape)
    return np.asarray(2.0 ** np.round(np.log2(scale)) if Case.halves else scale, F32)[()]


class Case:
    """State of the case being drawn: whether its scales are powers of two."""

    halves = False
    # Whether right sides are half as large, because onnxruntime is not exact otherwise.
    saturates = False


def integers(dtype, shape, margin=0):
    low, high = qing.RANGE[np.dtype(dtype)]
    return random.integers(low + margin, high + 1, shape).astype(dtype)


def activation(shape, dtype):
    """Values, scale, zero point of an activation."""
    low, high = qing.RANGE[np.dtype(dtype)]
    scale = draw_scale(0.004, 0.1)
    zero = dtype(random.choice([low, 0 if dtype is I8 else 128, int(random.integers(low, high + 1))]))
    return integers(dtype, shape), scale, zero


def output_quantization(acc, unit, dtype):
    """Scale and zero point under which `acc·unit` fills the output range and saturates a little."""
    low, high = qing.RANGE[np.dtype(dtype)]
    real = acc.astype(np.float64) * unit
    spread = max(float(np.quantile(np.abs(real), 0.97)), 1e-6)
    scale = spread / random.uniform(90, 140)
    if Case.halves:
        scale = 2.0 ** np.round(np.log2(scale))
    return F32(scale), dtype(random.integers(low + 40, high - 40))


def right_side(dtype, shape):
    """The right side of a product. Half as large where onnxruntime adds products of bytes with saturation, so that it is exact there too."""
    b = integers(dtype, shape, margin=1)
    if not Case.saturates:
        return b
    middle = 0 if np.dtype(dtype) == I8 else 128
    return (middle + (b.astype(np.int64) - middle) // 2).astype(dtype)


def saturates():
    """Whether onnxruntime's products of bytes are not exact on this machine: x86 without VNNI multiplies by `vpmaddubsw`."""
    m = Model()
    y = m.node("MatMulInteger", [m.input(np.full((16, 64), 255, U8)), m.constant(np.full((64, 16), 127, I8))])
    outputs = run(m.build([y], [np.dtype(I32)], [(16, 16)]), m.feeds)
    return bool((outputs[0] != 64 * 255 * 127).any())


def weights(shape, dtype, per_channel):
    """Signed weights are symmetric; unsigned ones carry a zero point."""
    w = right_side(dtype, shape)
    count = shape[0]
    scale = draw_scale(0.002, 0.02, count if per_channel else ())
    zero = np.zeros(count if per_channel else (), dtype) if dtype is I8 else np.full(count if per_channel else (), random.integers(100, 156), dtype)
    return w, scale, zero


def conv_shape():
    """Input shape, weight shape and attributes: dense, pointwise, depthwise, grouped, strided, dilated, unevenly padded."""
    kind = random.choice(["dense", "pointwise", "depthwise", "grouped"])
    group = {"dense": 1, "pointwise": 1, "depthwise": int(random.integers(1, 40)), "grouped": int(random.integers(2, 5))}[kind]
    depth = {"depthwise": 1}.get(kind, int(random.integers(1, 24)))
    outputs = group * (1 if kind == "depthwise" else int(random.integers(1, 20)))
    kernel = [1, 1] if kind == "pointwise" else [int(k) for k in random.choice([1, 2, 3, 5], 2)]
    attributes = dict(kernel_shape=kernel, group=group, strides=[int(s) for s in random.integers(1, 3, 2)],
                      dilations=[int(d) for d in random.choice([1, 1, 2], 2)],
                      pads=[int(p) for p in random.integers(0, 3, 4)])
    reach = [d * (k - 1) + 1 for d, k in zip(attributes["dilations"], kernel)]
    size = [int(random.integers(r, r + 12)) for r in reach]
    return (int(random.integers(1, 3)), group * depth, *size), (outputs, depth, *kernel), attributes


def accumulate(x, x_zero, w, w_zero, attributes, bias=None):
    return qing.conv_accumulate(x, x_zero, w, w_zero, attributes["pads"], attributes["strides"],
                                attributes["dilations"], attributes["group"], bias)


# --- one function an operator: returns (model, output names, expected arrays by qing's arithmetic) --------------

def qlinear_conv():
    x_shape, w_shape, attributes = conv_shape()
    dtype = random.choice([U8, I8])
    w_dtype = I8 if dtype is I8 else random.choice([I8, I8, U8])
    x, x_scale, x_zero = activation(x_shape, dtype)
    w, w_scale, w_zero = weights(w_shape, w_dtype, random.random() < 0.7)
    bias = random.integers(-20000, 20000, w_shape[0]).astype(I32) if random.random() < 0.7 else None
    acc = accumulate(x, x_zero, w, w_zero, attributes, bias)
    y_scale, y_zero = output_quantization(acc, float(x_scale) * float(np.mean(w_scale)), dtype)
    m = Model()
    operands = [m.input(x), m.constant(x_scale), m.constant(x_zero), m.constant(w), m.constant(w_scale),
                m.constant(w_zero), m.constant(y_scale), m.constant(y_zero)]
    y = m.node("QLinearConv", operands + ([m.constant(bias)] if bias is not None else []), **attributes)
    scale = (x_scale * w_scale / y_scale).reshape(-1, 1, 1)
    return m, [y], [qing.requantize(acc, scale, y_zero, dtype)]


def matmul_operands(w_dtypes):
    batch = [(), (), (2,), (2, 3)][random.integers(4)]
    rows, depth, columns = (int(v) for v in random.integers(1, 40, 3))
    dtype = random.choice([U8, I8])
    a, a_scale, a_zero = activation((*batch, rows, depth), dtype)
    shared = random.random() < 0.6
    b = right_side(random.choice(w_dtypes), (depth, columns) if shared or not batch else (*batch, depth, columns))
    return a, a_scale, a_zero, b


def qlinear_matmul():
    a, a_scale, a_zero, b = matmul_operands([I8, I8, U8])
    if a.dtype == I8:
        b = (b.astype(np.int64) - (128 if b.dtype == U8 else 0)).astype(I8)
    per_column = b.ndim == 2 and random.random() < 0.5
    count = b.shape[-1]
    b_scale = draw_scale(0.002, 0.02, count if per_column else ())
    zero = 0 if b.dtype == I8 else int(random.integers(100, 156))
    b_zero = np.full(count if per_column else (), zero, b.dtype)
    acc = (np.matmul(a.astype(np.int64) - int(a_zero), b.astype(np.int64) - b_zero)).astype(I32)
    y_scale, y_zero = output_quantization(acc, float(a_scale) * float(np.mean(b_scale)), a.dtype.type)
    m = Model()
    first = m.input(a)
    second = m.constant(b) if per_column or random.random() < 0.6 else m.input(b)
    y = m.node("QLinearMatMul", [first, m.constant(a_scale), m.constant(a_zero), second, m.constant(b_scale),
                                 m.constant(b_zero), m.constant(y_scale), m.constant(y_zero)])
    return m, [y], [qing.requantize(acc, a_scale * b_scale / y_scale, y_zero, a.dtype)]


def conv_integer():
    x_shape, w_shape, attributes = conv_shape()
    x, _, x_zero = activation(x_shape, U8)
    w, _, w_zero = weights(w_shape, random.choice([U8, I8]), False)
    m = Model()
    operands = [m.input(x), m.constant(w)]
    if random.random() < 0.8:
        operands += [m.constant(x_zero)]
        if w.dtype == U8:
            operands += [m.constant(w_zero)]
        else:
            w_zero = 0
    else:
        x_zero, w_zero = 0, 0
    y = m.node("ConvInteger", operands, **attributes)
    return m, [y], [accumulate(x, x_zero, w, w_zero, attributes)]


def matmul_integer():
    a, _, a_zero, b = matmul_operands([I8, U8])
    if a.dtype == I8 and b.dtype == U8:
        b = (b.astype(np.int64) - 128).astype(I8)
    m = Model()
    operands = [m.input(a), m.constant(b) if random.random() < 0.6 else m.input(b)]
    b_zero = 0
    if random.random() < 0.8:
        operands.append(m.constant(a_zero))
        if b.dtype == U8:
            b_zero = integers(U8, b.shape[-1:] if b.ndim == 2 and random.random() < 0.5 else ())
            operands.append(m.constant(b_zero))
    else:
        a_zero = 0
    y = m.node("MatMulInteger", operands)
    acc = np.matmul(a.astype(np.int64) - int(a_zero), b.astype(np.int64) - np.asarray(b_zero, np.int64))
    return m, [y], [acc.astype(I32)]


def dynamic_quantize_linear():
    shape = tuple(int(v) for v in random.integers(1, 12, random.integers(1, 5)))
    x = (random.normal(random.uniform(-2, 2), random.uniform(0.1, 10), shape)).astype(F32)
    kind = random.integers(4)
    x = np.abs(x) if kind == 0 else -np.abs(x) if kind == 1 else x
    low, high = min(F32(0), x.min()), max(F32(0), x.max())
    scale = F32(1) if high == low else (high - low) / F32(255)
    zero = np.clip(np.rint(F32(0) - low / scale), 0, 255).astype(U8)
    m = Model()
    names = m.node("DynamicQuantizeLinear", [m.input(x)], outputs=3)
    return m, names, [qing.quantize(x, scale, int(zero), 0, 255).astype(U8), np.asarray(scale, F32), zero]


def quantize_linear():
    dtype = random.choice([U8, I8])
    low, high = qing.RANGE[np.dtype(dtype)]
    shape = tuple(int(v) for v in random.integers(1, 9, random.integers(1, 5)))
    axis = int(random.integers(len(shape)))
    per_axis = random.random() < 0.5
    count = shape[axis] if per_axis else ()
    scale = np.asarray(random.uniform(0.01, 0.2, count), F32)
    if random.random() < 0.3:
        scale = np.asarray(np.full(count, 0.125), F32)
    zero = integers(dtype, count)
    x = random.normal(0, 8, shape).astype(F32)
    if random.random() < 0.5:  # halves exactly
        x = (np.round(x * 16) / 16).astype(F32)
    view = [1] * len(shape)
    if per_axis:
        view[axis] = -1
    m = Model()
    y = m.node("QuantizeLinear", [m.input(x), m.constant(scale), m.constant(zero)], axis=axis)
    expected = qing.quantize(x, scale.reshape(view) if per_axis else scale, (zero.reshape(view) if per_axis else zero).astype(np.int64), low, high)
    return m, [y], [expected.astype(dtype)]


def dequantize_linear():
    dtype = random.choice([U8, I8, I32])
    shape = tuple(int(v) for v in random.integers(1, 9, random.integers(1, 5)))
    axis = int(random.integers(len(shape)))
    per_axis = random.random() < 0.5
    count = shape[axis] if per_axis else ()
    scale = np.asarray(random.uniform(0.001, 0.2, count), F32)
    q = random.integers(-(2**20), 2**20, shape).astype(I32) if dtype is I32 else integers(dtype, shape)
    zero = np.zeros(count, I32) if dtype is I32 else integers(dtype, count)
    view = [1] * len(shape)
    if per_axis:
        view[axis] = -1
    m = Model()
    y = m.node("DequantizeLinear", [m.input(q), m.constant(scale), m.constant(zero)], axis=axis)
    real = (q.astype(I32) - zero.reshape(view).astype(I32)).astype(F32) * scale.reshape(view) if per_axis else \
        (q.astype(I32) - I32(zero)).astype(F32) * scale
    return m, [y], [real.astype(F32)]


NARROW = {"int4": (TensorProto.INT4, -8, 7, 21), "uint4": (TensorProto.UINT4, 0, 15, 21),
          "int2": (getattr(TensorProto, "INT2", None), -2, 1, 25), "uint2": (getattr(TensorProto, "UINT2", None), 0, 3, 25)}


def narrow_round_trip(kind):
    """QuantizeLinear to a packed element and back; numpy cannot hold the element itself, so it stays inside."""
    element, low, high, opset = NARROW[kind]
    shape = tuple(int(v) for v in random.integers(3, 12, random.integers(1, 4)))
    axis = int(random.integers(len(shape)))
    per_axis = random.random() < 0.5
    count = shape[axis] if per_axis else ()
    scale = np.asarray(random.uniform(0.2, 0.9, count), F32)
    zero = random.integers(low, high + 1, count)
    x = random.normal(0, 2.5, shape).astype(F32)
    view = [1] * len(shape)
    if per_axis:
        view[axis] = -1
    scale_v, zero_v = (scale.reshape(view), zero.reshape(view)) if per_axis else (scale, zero)
    m = Model(opset)
    s, z = m.constant(scale), m.packed(zero, element)
    q = m.node("QuantizeLinear", [m.input(x), s, z], axis=axis)
    y = m.node("DequantizeLinear", [q, s, z], axis=axis)
    integer = qing.quantize(x, scale_v, zero_v, low, high)
    return m, [y], [((integer - zero_v).astype(F32) * scale_v).astype(F32)]


def narrow_weights(kind):
    """A packed constant dequantized, per axis or in blocks of it, and added to an input."""
    element, low, high, opset = NARROW[kind]
    rows, columns, block = int(random.integers(1, 7)), 4 * int(random.integers(1, 6)), 4
    q = random.integers(low, high + 1, (rows, columns))
    blocked = random.random() < 0.5
    scale = random.uniform(0.1, 0.9, (rows, columns // block) if blocked else rows).astype(F32)
    zero = random.integers(low, high + 1, scale.shape)
    wide_scale = np.repeat(scale, block, 1) if blocked else scale[:, None]
    wide_zero = np.repeat(zero, block, 1) if blocked else zero[:, None]
    x = random.normal(0, 1, (rows, columns)).astype(F32)
    m = Model(opset)
    attributes = dict(axis=1, block_size=block) if blocked else dict(axis=0)
    y = m.node("DequantizeLinear", [m.packed(q, element), m.constant(scale), m.packed(zero, element)], **attributes)
    y = m.node("Add", [m.input(x), y])
    return m, [y], [x + (q - wide_zero).astype(F32) * wide_scale]


def qlinear_add():
    dtype = random.choice([U8, I8])
    shape = tuple(int(v) for v in random.integers(1, 17, random.integers(1, 5)))
    a, a_scale, a_zero = activation(shape, dtype)
    b, b_scale, b_zero = activation(shape, dtype)
    y_scale, y_zero = draw_scale(0.5, 0.9) * (a_scale + b_scale if not Case.halves else max(a_scale, b_scale)), integers(dtype, ())
    m = Model()
    first, second = m.input(a), m.input(b)
    y = m.node("QLinearAdd", [first, m.constant(a_scale), m.constant(a_zero), second, m.constant(b_scale), m.constant(b_zero),
                              m.constant(y_scale), m.constant(y_zero)], domain=MICROSOFT)
    return m, [y], [qing.add(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero, dtype)]


def qlinear_global_average_pool():
    dtype = random.choice([U8, I8])
    shape = tuple(int(v) for v in random.integers(1, 15, 4))
    x, x_scale, x_zero = activation(shape, dtype)
    y_scale, y_zero = x_scale * draw_scale(0.3, 1.1), integers(dtype, ())
    m = Model()
    y = m.node("QLinearGlobalAveragePool", [m.input(x), m.constant(x_scale), m.constant(x_zero), m.constant(y_scale), m.constant(y_zero)],
               domain=MICROSOFT, channels_last=0)
    sums = (x.astype(np.int64) - int(x_zero)).sum((2, 3), keepdims=True)
    return m, [y], [qing.pool(sums, shape[2] * shape[3], x_scale, y_scale, y_zero, dtype)]


def qlinear_average_pool():
    dtype = random.choice([U8, I8])
    kernel, stride = int(random.integers(1, 4)), int(random.integers(1, 3))
    shape = (*(int(v) for v in random.integers(1, 6, 2)), *(int(v) for v in random.integers(kernel, 12, 2)))
    x, x_scale, x_zero = activation(shape, dtype)
    y_scale, y_zero = x_scale * draw_scale(0.5, 1.1), integers(dtype, ())
    m = Model()
    y = m.node("QLinearAveragePool", [m.input(x), m.constant(x_scale), m.constant(x_zero), m.constant(y_scale), m.constant(y_zero)],
               domain=MICROSOFT, kernel_shape=[kernel] * 2, strides=[stride] * 2)
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.int64) - int(x_zero), (kernel, kernel), (2, 3))
    return m, [y], [qing.pool(windows[:, :, ::stride, ::stride].sum((4, 5)), kernel**2, x_scale, y_scale, y_zero, dtype)]


# --- QDQ models as onnxruntime's static quantizer writes them ----------------------------------------------------

class Chain:
    """A QDQ graph and, beside it, its integers by qing's arithmetic."""

    def __init__(self, shape, dtype):
        self.m, self.dtype = Model(), dtype
        scale, zero = draw_scale(0.01, 0.04), integers(dtype, ())
        x = random.normal(0, 1, shape).astype(F32)
        low, high = qing.RANGE[np.dtype(dtype)]
        name = self.m.dequantize(self.m.quantize(self.m.input(x), scale, zero), scale, zero)
        self.value = (name, qing.quantize(x, scale, int(zero), low, high).astype(dtype), scale, zero)

    def requantized(self, name, acc, scale, y_scale, y_zero):
        q = qing.requantize(acc, scale, y_zero, self.dtype)
        return self.m.dequantize(self.m.quantize(name, y_scale, y_zero), y_scale, y_zero), q, y_scale, y_zero

    def conv(self, value, outputs, kernel=3, stride=1, group=1, relu=True):
        name, x, x_scale, x_zero = value
        w, w_scale, w_zero = weights((outputs, x.shape[1] // group, kernel, kernel), I8, True)
        bias = random.integers(-3000, 3000, outputs).astype(I32)
        attributes = dict(kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4, dilations=[1, 1], group=group)
        acc = accumulate(x, x_zero, w, w_zero, attributes, bias)
        y_scale, y_zero = output_quantization(acc, float(x_scale) * float(w_scale.mean()), self.dtype)
        if relu:  # the quantizer calibrates after the activation: zero is the lowest code
            y_zero = self.dtype(qing.RANGE[np.dtype(self.dtype)][0])
        unit = x_scale * w_scale
        operands = [name, self.m.dequantize(self.m.constant(w), w_scale, w_zero, axis=0),
                    self.m.dequantize(self.m.constant(bias), unit, np.zeros(outputs, I32), axis=0)]
        y = self.m.node("Conv", operands, **attributes)
        y = self.m.node("Relu", [y]) if relu else y
        return self.requantized(y, acc, (unit / y_scale).reshape(-1, 1, 1), y_scale, y_zero)

    def add(self, a, b, relu):
        (name_a, q_a, s_a, z_a), (name_b, q_b, s_b, z_b) = a, b
        y_scale, y_zero = F32((float(s_a) + float(s_b)) * 0.7), integers(self.dtype, ())
        y = self.m.node("Add", [name_a, name_b])
        if relu:
            y_zero = self.dtype(qing.RANGE[np.dtype(self.dtype)][0])
            y = self.m.node("Relu", [y])
        q = qing.add(q_a, s_a, z_a, q_b, s_b, z_b, y_scale, y_zero, self.dtype)
        return self.m.dequantize(self.m.quantize(y, y_scale, y_zero), y_scale, y_zero), q, y_scale, y_zero

    def gemm(self, value, outputs):
        """Fully connected layer whose result stays real, as a classifier's logits do."""
        name, x, x_scale, x_zero = value
        w, w_scale, w_zero = weights((outputs, x.shape[1]), I8, True)
        bias = random.integers(-3000, 3000, outputs).astype(I32)
        unit = x_scale * w_scale
        y = self.m.node("Gemm", [name, self.m.dequantize(self.m.constant(w), w_scale, w_zero, axis=0),
                                 self.m.dequantize(self.m.constant(bias), unit, np.zeros(outputs, I32), axis=0)], transB=1)
        acc = ((x.astype(np.int64) - int(x_zero)) @ w.astype(np.int64).T + bias).astype(I32)
        return y, acc, unit

    def result(self, value):
        name, q, scale, zero = value
        return self.m, [name], [qing.dequantize(q, scale, zero)]


def chain():
    depth, size = int(random.integers(1, 12)), int(random.integers(5, 14))
    return Chain((1, depth, size, size), random.choice([U8, I8]))


def qdq_conv():
    c = chain()
    return c.result(c.conv(c.value, int(random.integers(1, 24)), int(random.choice([1, 3, 5])), int(random.integers(1, 3)), relu=random.random() < 0.5))


def qdq_separable():
    """Pointwise, depthwise, pointwise: an inverted residual without its addition."""
    c = chain()
    wide = 8 * int(random.integers(1, 5))
    v = c.conv(c.value, wide, 1)
    v = c.conv(v, wide, 3, int(random.integers(1, 3)), group=wide)
    return c.result(c.conv(v, int(random.integers(2, 12)), 1, relu=False))


def qdq_add():
    c = chain()
    width = int(random.integers(1, 16))
    a, b = c.conv(c.value, width, 1, relu=False), c.conv(c.value, width, 3, relu=False)
    return c.result(c.add(a, b, relu=random.random() < 0.5))


def qdq_classifier():
    """Convolution, flatten, fully connected to real logits."""
    c = chain()
    name, q, scale, zero = c.conv(c.value, 4, 3, 2)
    flat = c.m.node("Flatten", [name], axis=1)
    flat = c.m.dequantize(c.m.quantize(flat, scale, zero), scale, zero)
    y, acc, unit = c.gemm((flat, q.reshape(1, -1), scale, zero), int(random.integers(2, 20)))
    return c.m, [y], [acc.astype(F32) * unit]


def qdq_max_pool():
    c = chain()
    name, q, scale, zero = c.conv(c.value, 6, 3)
    y = c.m.node("MaxPool", [name], kernel_shape=[2, 2], strides=[2, 2])
    y = c.m.dequantize(c.m.quantize(y, scale, zero), scale, zero)
    best = np.lib.stride_tricks.sliding_window_view(q, (2, 2), (2, 3))[:, :, ::2, ::2].max((4, 5))
    return c.result((y, best, scale, zero))


def qdq_concat():
    """Concatenation of values with scales of their own: one tap each."""
    c = chain()
    a, b = c.conv(c.value, 5, 1), c.conv(c.value, 7, 3, relu=False)
    y_scale, y_zero = max(a[2], b[2]), integers(c.dtype, ())
    y = c.m.node("Concat", [a[0], b[0]], axis=1)
    y = c.m.dequantize(c.m.quantize(y, y_scale, y_zero), y_scale, y_zero)
    taps = [qing.requantize((q.astype(I32) - I32(z)), s / y_scale, y_zero, c.dtype) for _, q, s, z in (a, b)]
    return c.result((y, np.concatenate(taps, 1), y_scale, y_zero))


def qdq_sigmoid():
    """A unary function between quantized values: a table of 256 entries."""
    c = chain()
    name, q, scale, zero = c.conv(c.value, 5, 1, relu=False)
    y_scale, y_zero = F32(1 / 256), c.dtype(qing.RANGE[np.dtype(c.dtype)][0])
    y = c.m.node("Sigmoid", [name])
    y = c.m.dequantize(c.m.quantize(y, y_scale, y_zero), y_scale, y_zero)
    return c.result((y, qing.table(q, lambda v: 1 / (1 + np.exp(-v)), scale, zero, y_scale, y_zero, c.dtype), y_scale, y_zero))


# operator, how many cases, what a test may demand, generator
OPERATORS = [
    ("QLinearConv", 50, "exact", qlinear_conv),
    ("QLinearMatMul", 20, "exact", qlinear_matmul),
    ("ConvInteger", 15, "exact", conv_integer),
    ("MatMulInteger", 15, "exact", matmul_integer),
    ("DynamicQuantizeLinear", 10, "exact", dynamic_quantize_linear),
    ("QuantizeLinear", 15, "exact", quantize_linear),
    ("DequantizeLinear", 10, "exact", dequantize_linear),
    *[(f"{kind}_round_trip", 4, "exact", lambda kind=kind: narrow_round_trip(kind)) for kind in NARROW],
    *[(f"{kind}_weights", 4, "exact", lambda kind=kind: narrow_weights(kind)) for kind in NARROW],
    ("QDQ_conv", 15, "exact", qdq_conv),
    ("QDQ_separable", 5, "exact", qdq_separable),
    ("QDQ_classifier", 5, "exact", qdq_classifier),
    ("QDQ_max_pool", 4, "exact", qdq_max_pool),
    ("QDQ_concat", 4, "step", qdq_concat),
    ("QDQ_add", 8, "step", qdq_add),
    ("QDQ_sigmoid", 4, "step", qdq_sigmoid),
    ("QLinearAdd", 10, "step", qlinear_add),
    ("QLinearGlobalAveragePool", 6, "step", qlinear_global_average_pool),
    ("QLinearAveragePool", 6, "step", qlinear_average_pool),
]


def run(model, feeds):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def steps(got, want):
    """Differences in quantization steps (integers), or in units of the smallest gap for real results."""
    if got.dtype == F32:
        gap = np.abs(got.astype(np.float64) - want)
        unit = np.diff(np.unique(got))
        return gap / unit.min() if len(unit) and gap.any() else gap
    return np.abs(got.astype(np.int64) - want.astype(np.int64))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--verify", action="store_true", help="print per operator how many outputs qing's formula gives otherwise")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    lines, broken, refused = [], [], {}
    Case.saturates = saturates()
    if Case.saturates:
        print("onnxruntime saturates sums of products on this machine: weights are half as large as elsewhere")
    for operator, count, rule, generate in OPERATORS:
        total = differing = 0
        largest = 0.0
        for i in range(count):
            Case.halves = i % 3 == 2
            model, names, expected = generate()
            proto = model.build(names, [e.dtype for e in expected], [e.shape for e in expected])
            try:
                outputs = run(proto, model.feeds)
            except Exception as error:  # an element or type pair this onnxruntime has no kernel for
                refused.setdefault(operator, str(error).split("\n")[0][:160])
                continue
            name = f"{operator}_{i:02}"
            folder = args.out / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            onnx.save(proto, folder / "model.onnx")
            for k, array in enumerate(model.feeds.values()):
                np.save(folder / f"input_{k}.npy", array)
            for k, array in enumerate(outputs):
                np.save(folder / f"output_{k}.npy", array)
            gaps = [steps(got, want) for got, want in zip(outputs, expected)]
            assert all(got.dtype == want.dtype and got.shape == want.shape for got, want in zip(outputs, expected)), name
            size, apart, gap = sum(g.size for g in gaps), sum(int((g > 0).sum()) for g in gaps), max(float(g.max(initial=0)) for g in gaps)
            lines.append(f"{name}\t{operator}\t{rule}\t{size}\t{apart}\t{gap:g}")
            total, differing, largest = total + size, differing + apart, max(largest, gap)
            if rule == "exact" and apart:
                broken.append(f"{name}: {apart} of {size}, largest {gap:g}")
        if args.verify:
            print(f"{operator:28} {rule:6} {total:7,} outputs, {differing:5,} differ, by at most {largest:g} steps"
                  + (f"   refused: {refused[operator]}" if operator in refused else ""))
    (args.out / "cases.tsv").write_text("name\toperator\trule\toutputs\tdiffer\tlargest\n" + "\n".join(lines) + "\n")
    print(f"{len(lines)} cases in {args.out}")
    for line in broken:
        print("not exact:", line, file=sys.stderr)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
