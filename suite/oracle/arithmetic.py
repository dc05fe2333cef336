"""qing's integer arithmetic in numpy, the plainest way: the second opinion of qoperators.py --verify."""
import numpy as np

RANGE = {np.dtype(np.uint8): (0, 255), np.dtype(np.int8): (-128, 127)}


def requantize(acc, scale, zero, dtype):
    """clamp(rint(f32(acc) ⊗ scale) + zero): one f32 product, halves to even."""
    low, high = RANGE[np.dtype(dtype)]
    y = np.rint(acc.astype(np.float32) * np.float32(scale)).astype(np.int64) + int(zero)
    return np.clip(y, low, high).astype(dtype)


def quantize(x, scale, zero, low, high):
    """clamp(rint(x / scale) + zero) as int64."""
    return np.clip(np.rint(x / scale).astype(np.int64) + zero, low, high)


def dequantize(q, scale, zero):
    return (q.astype(np.int32) - np.int32(zero)).astype(np.float32) * scale


def conv_accumulate(x, x_zero, w, w_zero, pads, strides, dilations, group, bias=None):
    """Exact i32 convolution; `w_zero` is a scalar or one per output channel; padding stands for real zero."""
    top, left, bottom, right = pads
    x = np.pad(x.astype(np.int64) - int(x_zero), ((0, 0), (0, 0), (top, bottom), (left, right)))
    w = w.astype(np.int64) - np.asarray(w_zero, np.int64).reshape(-1, 1, 1, 1)
    outputs, depth, kernel_h, kernel_w = w.shape
    height = (x.shape[2] - dilations[0] * (kernel_h - 1) - 1) // strides[0] + 1
    width = (x.shape[3] - dilations[1] * (kernel_w - 1) - 1) // strides[1] + 1
    acc = np.zeros((x.shape[0], outputs, height, width), np.int64)
    each = outputs // group
    for g in range(group):
        part, filters = x[:, g * depth : (g + 1) * depth], w[g * each : (g + 1) * each]
        for i in range(kernel_h):
            for j in range(kernel_w):
                top, left = i * dilations[0], j * dilations[1]
                window = part[:, :, top : top + (height - 1) * strides[0] + 1 : strides[0],
                              left : left + (width - 1) * strides[1] + 1 : strides[1]]
                acc[:, g * each : (g + 1) * each] += np.einsum("nchw,oc->nohw", window, filters[:, :, i, j])
    if bias is not None:
        acc += bias.astype(np.int64).reshape(1, -1, 1, 1)
    assert np.abs(acc).max(initial=0) < 2**31
    return acc.astype(np.int32)


def add(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero, dtype):
    """Residual addition: two taps with 14-bit multipliers relative to the larger scale, then requantize."""
    largest = max(np.float32(a_scale), np.float32(b_scale))
    multiplier_a = np.int64(np.rint(2.0**14 * float(a_scale) / float(largest)))
    multiplier_b = np.int64(np.rint(2.0**14 * float(b_scale) / float(largest)))
    acc = (a.astype(np.int64) - int(a_zero)) * multiplier_a + (b.astype(np.int64) - int(b_zero)) * multiplier_b
    return requantize(acc, largest * np.float32(2.0**-14) / np.float32(y_scale), y_zero, dtype)


def pool(sums, count, x_scale, y_scale, y_zero, dtype):
    """Average of `count` taps whose sum (zero point removed) is `sums`."""
    return requantize(sums, np.float32(x_scale) / (np.float32(count) * np.float32(y_scale)), y_zero, dtype)


def table(q, function, x_scale, x_zero, y_scale, y_zero, dtype):
    """A unary function of a quantized value, in f64 throughout."""
    low, high = RANGE[np.dtype(dtype)]
    real = float(x_scale) * (q.astype(np.float64) - int(x_zero))
    return np.clip(np.rint(function(real) / float(y_scale)) + int(y_zero), low, high).astype(dtype)
