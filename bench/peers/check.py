"""Whether an engine computes what qing does. Deviation: root mean square of the difference over that of the reference.

- fp32: from qing by at most 1e-3 (Winograd convolution costs digits; without it 1e-6 is usual).
- int8, the same quantized file: from qing by at most 0.05, or 1.5 times what ONNX Runtime deviates from itself without its graph
  optimizations. Integer engines agree to the bit up to the first residual addition, which ONNX Runtime does in float; single
  steps apart there are amplified by the layers after.
- int8, an engine's own quantization: from the float network by at most 0.05, or twice what qing's int8 deviates from it.
"""
import functools

import numpy as np

from engines import ENGINES, FEEDS, WORK, child, onnx_file, run

FP32, INT8 = 1e-3, 0.05


def apart(got, want):
    got, want = got.astype(np.float64).ravel(), want.astype(np.float64).ravel()
    if got.size != want.size:
        raise ValueError(f"{got.size} outputs, should be {want.size}")
    return float(np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)))


@functools.cache
def of_qing(qing, network, precision, threads):
    """qing's first output."""
    out = WORK / "qing.npz"
    run([qing, "run", onnx_file(network, precision), FEEDS / network / "inputs.npz", "--output", out, "--threads", threads, "--top", 0])
    outputs = np.load(out)
    return outputs[outputs.files[0]]


@functools.cache
def of_onnxruntime(network, precision, engine="onnxruntime"):
    out = WORK / "reference.bin"
    run(child(engine, onnx_file(network, precision), network, 1, 0, out))
    return np.fromfile(out, np.float32)


def deviation(qing, engine, network, precision, threads, output):
    """How far the engine's output is from its reference, the most allowed, and what the reference is."""
    ours = of_qing(qing, network, precision, threads)
    got = np.fromfile(output, np.float32)
    if precision == "fp32":
        want, allowed, of = ours, FP32, "qing"
    elif ENGINES[engine].own:
        want, of = of_onnxruntime(network, "fp32"), "the float network"
        allowed = max(INT8, 2 * apart(ours, want))
    else:
        want, of = ours, "qing"
        allowed = max(INT8, 1.5 * apart(of_onnxruntime(network, "int8", "onnxruntime_plain"), of_onnxruntime(network, "int8")))
    found = apart(got, want)
    if engine == "litert" and ours.ndim == 4 and got.size == ours.size:
        # Its converter leaves images with channels last or puts them first, as it finds better.
        n, c, h, w = ours.shape
        found = min(found, apart(got.reshape(n, h, w, c).transpose(0, 3, 1, 2), want))
    return found, allowed, of
