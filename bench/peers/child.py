"""One measurement of one Python peer in this fresh process; prints one line of JSON like `qing bench --json`.

    child.py ENGINE MODEL FEEDS --threads T --seconds S --output FILE

FEEDS is a folder written by `run.py`: inputs.npz. FILE gets the first output as raw float32. Memory is counted from
after the import of the library and the reading of the inputs, so that Python itself is not.
"""
import argparse
import importlib
import json
import os
import statistics
import time

import numpy as np

# Runs before timing, and the fewest that are timed.
WARM, FEWEST = 2, 3


def onnxruntime(model, feeds, threads, optimize=True):
    import onnxruntime as ort

    options = ort.SessionOptions()
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)[0]


def onnxruntime_plain(model, feeds, threads):
    return onnxruntime(model, feeds, threads, optimize=False)


def openvino(model, feeds, threads):
    import openvino as ov

    # bf16 would be taken by itself where the processor has it: another precision is another row.
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    tensors = {name: ov.Tensor(value) for name, value in feeds.items()}
    for name, tensor in tensors.items():
        request.set_tensor(name, tensor)
    return lambda: request.infer(share_outputs=True)[0]


def ncnn(model, feeds, threads):
    import ncnn as n

    net = n.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    if net.load_param(model) or net.load_model(model.removesuffix(".param") + ".bin"):
        raise SystemExit(f"ncnn cannot load {os.path.basename(model)}")
    # A ncnn blob has no batch axis.
    mats = [n.Mat(value[0] if value.dtype == np.float32 else value[0].astype(np.int32)) for value in feeds.values()]

    def run():
        extractor = net.create_extractor()
        for i, mat in enumerate(mats):
            extractor.input(f"in{i}", mat)
        code, out = extractor.extract("out0")
        if code:
            raise SystemExit(f"ncnn cannot run {model}: {code}")
        return out

    return run


def mnn(model, feeds, threads):
    import MNN

    runtime = MNN.nn.create_runtime_manager(({"backend": "CPU", "numThread": threads, "precision": "normal", "memory": "normal"},))
    module = MNN.nn.load_module_from_file(model, list(feeds), ["output"], runtime_manager=runtime)
    inputs = []
    for value in feeds.values():
        value = value if value.dtype == np.float32 else value.astype(np.int32)
        variable = MNN.expr.placeholder(list(value.shape), MNN.expr.NCHW, MNN.expr.float if value.dtype == np.float32 else MNN.expr.int)
        variable.write(value)
        if value.ndim == 4:
            variable = MNN.expr.convert(variable, MNN.expr.NC4HW4)
        inputs.append(variable)
    # Reading makes the lazy expression run.
    return lambda: module.onForward(inputs)[0].read()


def litert(model, feeds, threads):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=model, num_threads=threads)
    interpreter.allocate_tensors()
    out = interpreter.get_output_details()[0]
    for detail in interpreter.get_input_details():
        (value,) = [v for n, v in feeds.items() if len(feeds) == 1 or n in detail["name"]]
        if list(value.shape) != list(detail["shape"]):
            value = value.transpose(0, 2, 3, 1)
        scale, zero = detail["quantization"]
        if scale:
            value = np.clip(np.rint(value / scale) + zero, *limits(detail["dtype"]))
        interpreter.set_tensor(detail["index"], np.ascontiguousarray(value.astype(detail["dtype"])))

    def run():
        interpreter.invoke()
        return fetch

    def fetch():
        (scale, zero), value = out["quantization"], interpreter.get_tensor(out["index"])
        return (value.astype(np.float32) - zero) * scale if scale else value

    return run


def limits(element):
    return np.iinfo(element).min, np.iinfo(element).max


ENGINES = {f.__name__: f for f in (onnxruntime, onnxruntime_plain, openvino, ncnn, mnn, litert)}
LIBRARIES = {"onnxruntime_plain": "onnxruntime", "mnn": "MNN", "litert": "ai_edge_litert.interpreter"}


def resident(key):
    """VmRSS (now) or VmHWM (peak) of this process, in bytes."""
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


def forget_peak():
    """Starts VmHWM anew, so that what the import needed for a moment does not count."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("model")
    parser.add_argument("feeds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--output")
    args = parser.parse_args()

    importlib.import_module(LIBRARIES.get(args.engine, args.engine))
    feeds = dict(np.load(f"{args.feeds}/inputs.npz"))
    forget_peak()
    base = resident("VmRSS")
    begin = time.perf_counter()
    run = ENGINES[args.engine](args.model, feeds, args.threads)
    load = time.perf_counter() - begin
    for _ in range(WARM):
        out = run()
    wall, cpu = [], []
    end = time.perf_counter() + args.seconds
    while time.perf_counter() < end or len(wall) < FEWEST:
        c, t = time.process_time(), time.perf_counter()
        run()
        wall.append(1e3 * (time.perf_counter() - t))
        cpu.append(1e3 * (time.process_time() - c))
    peak = resident("VmHWM")
    if args.output:
        # Where asking for the output copies it, that is not timed.
        np.asarray(out() if callable(out) else out, np.float32).tofile(args.output)
    print(json.dumps({
        "latency_ms": {"median": statistics.median(wall), "min": min(wall)}, "cpu_ms": {"median": statistics.median(cpu), "min": min(cpu)},
        "runs": len(wall), "load_ms": 1e3 * load, "peak_memory_bytes": peak, "base_memory_bytes": base,
    }))


if __name__ == "__main__":
    main()
