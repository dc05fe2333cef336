#!/usr/bin/env python3
"""Speed, load time and memory of qing beside ONNX Runtime, interleaved so that a noisy machine hurts both alike.

    python bench/models.py OUT
    cargo build --release
    python bench/compare.py OUT/mobilenetv2.onnx OUT/mobilenetv2_int8.onnx --rounds 9 --threads 1 2 --write

For every model and thread count a round runs two short processes in random order, each loading the model, warming up
and timing it for --seconds: this script with --child for ONNX Runtime, and

    qing bench MODEL --threads T --seconds S --json

whose JSON must hold latency_ms.median, latency_ms.min, cpu_ms.median, load_ms and peak_memory_bytes (base_memory_bytes,
the resident memory before loading, is subtracted where given). The ratio is taken pair by pair and its median reported.
Before any timing counts, both must compute the same from one random input (`qing run MODEL in.npy --output out.npz`): relative
root-mean-square deviation at most 10⁻⁴ for float. Integer networks agree to the bit up to the first residual addition, which
ONNX Runtime does in float: single steps apart there, and the layers after amplify them. So int8 may deviate by 0.05, or by
1.5 times what ONNX Runtime deviates from itself without its graph optimizations. A model that fails is listed with its
deviation and not timed. --write replaces this run's section of bench/RESULTS.md.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
TOLERANCE = {"float": 1e-4, "int8": 0.05}
MEGABYTE = 1e6


def kind(model):
    return "int8" if model.stem.endswith("_int8") else "float"


# --- the ONNX Runtime side: a child process of its own -----------------------------------------------------------

def resident(key):
    """VmRSS (now) or VmHWM (peak) of this process, in bytes."""
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


def open_session(model, threads, optimize=True):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def random_feed(session, numpy):
    """One fixed standard normal input, symbolic dimensions set to 1."""
    generator = numpy.random.default_rng(0)
    return {i.name: generator.normal(0, 1, [d if isinstance(d, int) else 1 for d in i.shape]).astype(numpy.float32)
            for i in session.get_inputs()}


def child(model, threads, seconds):
    """Measures ONNX Runtime in this fresh process and prints the same JSON as `qing bench --json`."""
    import numpy
    import onnxruntime  # noqa: F401  (so that the base below holds the library)

    base = resident("VmRSS")
    begin = time.perf_counter()
    session = open_session(model, threads)
    load = time.perf_counter() - begin
    feed = random_feed(session, numpy)
    for _ in range(3):
        session.run(None, feed)
    wall, cpu = [], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(wall) < 5:
        c, t = time.process_time(), time.perf_counter()
        session.run(None, feed)
        wall.append(1e3 * (time.perf_counter() - t))
        cpu.append(1e3 * (time.process_time() - c))
    print(json.dumps({
        "latency_ms": {"median": statistics.median(wall), "min": min(wall)}, "cpu_ms": {"median": statistics.median(cpu)},
        "load_ms": 1e3 * load, "peak_memory_bytes": resident("VmHWM"), "base_memory_bytes": base,
    }))


# --- the comparison ------------------------------------------------------------------------------------------------

def run_json(command):
    """Runs a command that prints JSON last; raises with its error output if it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr.strip()}")
    return json.loads(done.stdout[done.stdout.index("{"):])


def deviation(qing, model):
    """Root mean square of the difference to ONNX Runtime over that of ONNX Runtime's output, and the most allowed."""
    import numpy

    session = open_session(model, 2)
    feed = random_feed(session, numpy)
    want = session.run(None, feed)[0].astype(numpy.float64)

    def apart(other):
        return float(numpy.sqrt(numpy.mean((other - want) ** 2) / numpy.mean(want**2)))

    with tempfile.TemporaryDirectory() as folder:
        numpy.save(f"{folder}/in.npy", next(iter(feed.values())))
        command = [str(qing), "run", str(model), f"{folder}/in.npy", "--output", f"{folder}/out.npz"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        outputs = numpy.load(f"{folder}/out.npz")
        name = session.get_outputs()[0].name
        got = outputs[name if name in outputs else outputs.files[0]].astype(numpy.float64).reshape(want.shape)
    allowed = TOLERANCE[kind(model)]
    if kind(model) == "int8":
        itself = open_session(model, 2, optimize=False).run(None, feed)[0].astype(numpy.float64)
        allowed = max(allowed, 1.5 * apart(itself))
    return apart(got), allowed


def measure(qing, model, threads, rounds, seconds, shuffle):
    """Pairs (ONNX Runtime, qing) of measurements, each pair in random order."""
    sides = [
        [sys.executable, __file__, model, "--child", "--threads", threads, "--seconds", seconds],
        [qing, "bench", model, "--threads", threads, "--seconds", seconds, "--json"],
    ]
    pairs = []
    for _ in range(rounds):
        pair = [None, None]
        for side in shuffle.sample([0, 1], 2):
            pair[side] = run_json(sides[side])
        pairs.append(pair)
    return pairs


def row(model, threads, pairs, apart, allowed):
    def middle(side, read):
        return statistics.median(read(pair[side]) for pair in pairs)

    def both(read, digits):
        return " / ".join(f"{middle(side, read):.{digits}f}" for side in (0, 1))

    def ratio(read):
        return statistics.median(read(ours) / read(theirs) for theirs, ours in pairs)

    latency = lambda r: r["latency_ms"]["median"]
    cpu = lambda r: r["cpu_ms"]["median"]
    memory = lambda r: (r["peak_memory_bytes"] - r.get("base_memory_bytes", 0)) / MEGABYTE
    digits = 2 if middle(0, latency) >= 1 else 3
    return (f"| {model.stem} | {threads} | {both(latency, digits)} | **{ratio(latency):.2f}** | {both(lambda r: r['latency_ms']['min'], digits)} "
            f"| {both(cpu, digits)} | {ratio(cpu):.2f} | {both(lambda r: r['load_ms'], 1)} | {both(memory, 1)} | {apart:.0e} ({allowed:.0e}) |")


def cpu_name():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def write_section(path, name, text):
    """Replaces the text between this section's markers, or appends the section."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    old = path.read_text() if path.exists() else "# Results\n\nWritten by the scripts beside this file; compare only numbers of one table.\n"
    section = f"{begin}\n{text}\n{end}"
    if begin in old and end in old:
        old = old[: old.index(begin)] + section + old[old.index(end) + len(end):]
    else:
        old = f"{old.rstrip()}\n\n{section}\n"
    path.write_text(old)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", type=pathlib.Path, nargs="+")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--qing", type=pathlib.Path, default=target / "release/qing")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--section", default="onnxruntime", help="name of the section in RESULTS.md")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.models[0], args.threads[0], args.seconds)

    import onnxruntime

    shuffle = random.Random(0)
    lines = [
        f"## qing and ONNX Runtime {onnxruntime.__version__}", "",
        f"{datetime.date.today().isoformat()}, {cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start. "
        f"Batch 1; {args.rounds} interleaved pairs of {args.seconds} s; medians, ONNX Runtime / qing. A ratio below 1 means qing is faster. "
        "Memory: peak resident less what the process held before loading.", "",
        "| model | threads | ms | ratio | best ms | CPU ms | ratio | load ms | memory MB | deviation (allowed) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    failures = 0
    for model in args.models:
        try:
            apart, allowed = deviation(args.qing, model)
            if not apart <= allowed:
                raise RuntimeError(f"deviates by {apart:.1e}, more than {allowed:.1e}")
            for threads in args.threads:
                lines.append(row(model, threads, measure(args.qing, model, threads, args.rounds, args.seconds, shuffle), apart, allowed))
                print(lines[-1], flush=True)
        except (RuntimeError, OSError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
            failures += 1
            print(f"{model.name}: {error}", file=sys.stderr)
            reason = (str(error).splitlines() or [type(error).__name__])[-1].replace("|", "\\|")
            lines.append(f"| {model.stem} | | not measured: {reason} | | | | | | | |")
    text = "\n".join(lines)
    print(text)
    if args.write:
        write_section(ROOT / "bench/RESULTS.md", args.section, text)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
