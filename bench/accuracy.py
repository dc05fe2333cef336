#!/usr/bin/env python3
"""The table of README: accuracy and size of the networks of `../shared` as floats, lightened, and as imported; with
--speed also latency, load time and memory beside ONNX Runtime, interleaved in one run.

    cargo build --release
    python bench/accuracy.py ../shared --speed --write

Every tenth image of `imagenet_sample` calibrates, the other 450 are judged; CIFAR-10 calibrates on 250 training images and is judged
on all 10,000 test images. --write replaces the measured part of README.md.
"""
import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "bench/peers"))

import engines  # noqa: E402
import report  # noqa: E402

# Networks to lighten: file, preset, calibration, evaluation, what is judged.
LIGHTEN = [
    ("resnet20_cifar10", "cifar10", "cifar10:train@::200", "cifar10", "CIFAR-10 test, 10,000"),
    ("mobilenetv2", "imagenet", "imagenet_sample@0::10", "imagenet_sample@!0::10", "`imagenet_sample`, 450"),
    ("efficientnet_lite0", "lite0", "imagenet_sample@0::10", "imagenet_sample@!0::10", "`imagenet_sample`, 450"),
]
# Networks that come quantized: float file, int8 file, flags of each, data, what is judged. The keyword features are int8 of the scale
# and zero point that the quantized network takes.
IMPORTED = [
    ("mlperf_tiny/kws_dscnn_fp32.tflite", "mlperf_tiny/kws_dscnn_int8.tflite", True, "kws01", "`kws01`, 1,000"),
    ("mlperf_tiny/ic_resnet8_fp32.tflite", "mlperf_tiny/ic_resnet8_int8.tflite", False, "cifar10", "CIFAR-10 test, 10,000"),
]


def run(qing, *arguments):
    done = subprocess.run([str(qing), *map(str, arguments), "--json"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"qing {' '.join(map(str, arguments))}\n{done.stderr}")
    return json.loads(done.stdout)


def percent(share):
    return f"{100 * share:.2f} %"


def size(path):
    n = os.path.getsize(path)
    return f"{n / 1e6:.2f} MB" if n >= 1e6 else f"{n / 1e3:.0f} kB"


def lightened(qing, shared, out, network):
    name, preset, calibrate, evaluate, judged = network
    model, row, sizes = shared / f"models/{name}.onnx", [], []
    for bits in ("w8a8", "w4a8"):
        files = [out / f"{name}_{bits}_int8.onnx", out / f"{name}_{bits}.qing"]
        report = run(qing, "lighten", model, "--bits", bits, "--preset", preset, "--calibrate", shared / f"data/{calibrate}",
                     "--evaluate", shared / f"data/{evaluate}", "--seconds", 0, "-o", files[0], "-o", files[1])
        row = row[:1] or [percent(report["before"]["accuracy"]["top1"])]
        sizes.append((percent(report["after"]["accuracy"]["top1"]), size(files[1])))
    cells = [row[0], *(f"{accuracy} ({bytes_})" for accuracy, bytes_ in sizes)]
    return f"| {name} ({size(model)}) | {judged} | {' | '.join(cells)} |"


def imported(qing, shared, network):
    float_file, int8_file, features, data, judged = network
    data = shared / "data" / data
    flags = ["--preset", "raw"]
    if features:
        # The input type of the quantized network reads i8[…]×scale−zero.
        text = run(qing, "inspect", shared / "models" / int8_file)["inputs"][0]
        scale, _, zero = text.rsplit("×", 1)[1].partition("−")
        flags = ["--scale", 1 / float(scale), f"--mean={float(scale) * float(zero or 0)}", "--std", 1]
    # A quantized input takes the features as they are.
    of_int8 = run(qing, "evaluate", shared / "models" / int8_file, "--data", data, *(["--preset", "raw"] if not features else []))
    of_float = run(qing, "evaluate", shared / "models" / float_file, "--data", data, *flags)
    name = int8_file.split("/")[1].removesuffix("_int8.tflite")
    sizes = [size(shared / "models" / f) for f in (float_file, int8_file)]
    return f"| {name} ({sizes[0]}) | {judged} | {percent(of_float['top1'])} | {percent(of_int8['top1'])} ({sizes[1]}), as imported | – |"


def beside_onnxruntime(qing, model, precision, folder, rounds, seconds, shuffle):
    """Interleaved pairs of measurements, and how far both are apart with what is allowed: as `peers/run.py` does, for any one file."""
    import numpy as np
    import onnx

    import check
    import networks

    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "inputs.npz", **networks.feeds(networks.closed(onnx.load(model))))

    def onnxruntime(seconds, engine="onnxruntime"):
        """What it measures and what it computes."""
        command = engines.child(engine, model, folder.resolve(), 1, seconds, folder / "theirs.bin")
        return json.loads(engines.run(command)), np.fromfile(folder / "theirs.bin", np.float32)

    engines.run([qing, "run", model, folder / "inputs.npz", "--output", folder / "ours.npz", "--top", 0])
    ours = np.load(folder / "ours.npz")
    _, theirs = onnxruntime(0)
    apart, allowed = check.apart(ours[ours.files[0]], theirs), check.FP32
    if precision == "int8":
        allowed = max(check.INT8, 1.5 * check.apart(onnxruntime(0, "onnxruntime_plain")[1], theirs))
    if not apart <= allowed:
        raise SystemExit(f"{model}: qing deviates from ONNX Runtime by {apart:.1e}, more than {allowed:.1e}")
    sides = {"theirs": lambda: onnxruntime(seconds)[0], "ours": lambda: run(qing, "bench", model, "--seconds", seconds)}
    return [{side: sides[side]() for side in shuffle.sample(list(sides), 2)} for _ in range(rounds)], apart, allowed


def speed(qing, shared, out, rounds, seconds):
    shuffle = random.Random(0)
    lines = ["", f"ONNX Runtime / qing on {report.cpu_name()}, batch 1, one thread, the same ONNX file, {rounds} interleaved pairs of "
             f"fresh processes, medians; load {os.getloadavg()[0]:.1f}: where that is above the number of cores, CPU time says more than wall time. "
             "A ratio above 1 means that qing is faster.", "",
             "| network | CPU ms | ratio | wall ms | ratio | load ms | memory MB | deviation (allowed) |",
             "|---|---|---|---|---|---|---|---|"]
    for name, *_ in LIGHTEN:
        files = [(name, "fp32", shared / f"models/{name}.onnx")]
        files += [(f"{name}_{bits}", "int8", out / f"{name}_{bits}_int8.onnx") for bits in ("w8a8", "w4a8")]
        for title, precision, model in files:
            pairs, apart, allowed = beside_onnxruntime(qing, model, precision, out / "feeds", rounds, seconds, shuffle)

            def both(read):
                return " / ".join(report.digits(statistics.median(read(pair[side]) for pair in pairs)) for side in ("theirs", "ours"))

            def ratio(read):
                return f"{statistics.median(read(pair['theirs']) / read(pair['ours']) for pair in pairs):.2f}"

            cpu, wall = lambda m: m["cpu_ms"]["median"], lambda m: m["latency_ms"]["median"]
            memory = lambda m: (m["peak_memory_bytes"] - m["base_memory_bytes"]) / 1e6
            lines.append(f"| {title} | {both(cpu)} | **{ratio(cpu)}** | {both(wall)} | {ratio(wall)} | {both(lambda m: m['load_ms'])} | {both(memory)} "
                         f"| {apart:.0e} ({allowed:.0e}) |")
            print(lines[-1], flush=True)
    lines += ["", "TFLite, qing alone:", "", "| network | ms | load ms | memory MB |", "|---|---|---|---|"]
    for path in [f for network in IMPORTED for f in network[:2]]:
        got = run(qing, "bench", shared / "models" / path, "--seconds", seconds)
        memory = (got["peak_memory_bytes"] - got["base_memory_bytes"]) / 1e6
        name = pathlib.Path(path).stem
        lines.append(f"| {name} | {got['latency_ms']['median']:.3f} | {got['load_ms']:.1f} | {memory:.1f} |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shared", type=pathlib.Path)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--qing", type=pathlib.Path, default=target / "release/qing")
    parser.add_argument("--out", type=pathlib.Path, default=target / "accuracy")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    qing = args.qing.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    lines = ["| network | images judged | float | w8a8 | w4a8 |", "|---|---|---|---|---|"]
    for make, networks in ((lambda n: lightened(qing, args.shared, args.out, n), LIGHTEN), (lambda n: imported(qing, args.shared, n), IMPORTED)):
        for network in networks:
            lines.append(make(network))
            print(lines[-1], flush=True)
    if args.speed:
        lines += speed(qing, args.shared, args.out, args.rounds, args.seconds)
    if args.write:
        report.write_section(ROOT / "README.md", "measured", "\n".join(lines))


if __name__ == "__main__":
    main()
