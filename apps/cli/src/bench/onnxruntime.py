"""The ONNX Runtime side of `qing bench --against onnxruntime`: runs in a fresh process and prints JSON last.

    python onnxruntime.py versions
    python onnxruntime.py check MODEL INPUTS.npz OUTPUTS.npz     what it computes, with and without graph optimizations
    python onnxruntime.py measure MODEL INPUTS.npz THREADS SECONDS

Arrays are called by their number: 0 is the first input or output. Outputs without optimizations are `plain0`, and so on.
"""
import json
import os
import statistics
import sys
import time


def resident(key):
    """VmRSS (now) or VmHWM (peak) of this process in bytes; 0 where /proc is missing."""
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith(key):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def open_session(model, threads, optimize=True):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def feed(session, path):
    arrays = numpy.load(path)
    names = [i.name for i in session.get_inputs()]
    if len(names) != len(arrays.files):
        raise ValueError(f"it takes {len(names)} inputs, qing {len(arrays.files)}")
    return {name: arrays[str(i)] for i, name in enumerate(names)}


def check(model, inputs, outputs):
    results = {}
    for prefix, optimize in (("", True), ("plain", False)):
        session = open_session(model, 1, optimize)
        for i, value in enumerate(session.run(None, feed(session, inputs))):
            if isinstance(value, numpy.ndarray):
                results[f"{prefix}{i}"] = value
    numpy.savez(outputs, **results)
    return {"outputs": len(results) // 2}


def measure(model, inputs, threads, seconds):
    base = resident("VmRSS")
    begin = time.perf_counter()
    session = open_session(model, threads)
    load = time.perf_counter() - begin
    fed = feed(session, inputs)
    for _ in range(3):
        session.run(None, fed)
    wall, cpu = [], []
    end = time.perf_counter() + seconds
    while len(wall) < 5 or time.perf_counter() < end:
        c, t = time.process_time(), time.perf_counter()
        session.run(None, fed)
        wall.append(1e3 * (time.perf_counter() - t))
        cpu.append(1e3 * (time.process_time() - c))
    return {
        "latency_ms": {"median": statistics.median(wall), "min": min(wall)},
        "cpu_ms": {"median": statistics.median(cpu)},
        "load_ms": 1e3 * load, "peak_memory_bytes": resident("VmHWM"), "base_memory_bytes": base,
    }


try:
    import numpy
    import onnxruntime

    task, arguments = sys.argv[1], sys.argv[2:]
    if task == "versions":
        result = {"engine": onnxruntime.__version__, "python": sys.version.split()[0]}
    elif task == "check":
        result = check(*arguments)
    else:
        result = measure(arguments[0], arguments[1], int(arguments[2]), float(arguments[3]))
except Exception as error:  # noqa: BLE001  (whatever it is, one line says it)
    text = " ".join(str(error).split()) or "no message"
    print(f"{type(error).__name__}: {text}", file=sys.stderr)
    sys.stderr.flush()
    # Without the clean-up of a library that has already failed.
    os._exit(1)
print(json.dumps(result))
