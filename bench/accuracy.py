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
import subprocess

import compare

ROOT = pathlib.Path(__file__).resolve().parents[1]

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


def speed(qing, shared, out, rounds, seconds):
    models = [path for name, *_ in LIGHTEN for path in (shared / f"models/{name}.onnx", out / f"{name}_w8a8_int8.onnx", out / f"{name}_w4a8_int8.onnx")]
    shuffle = random.Random(0)
    lines = ["", f"ONNX Runtime / qing on {compare.cpu_name()}, batch 1, one thread, the same ONNX file, {rounds} interleaved pairs of "
             f"fresh processes, medians; load {os.getloadavg()[0]:.1f}: where that is above the number of cores, CPU time says more than wall time. A ratio below 1 means that qing is faster.", "",
             "| network | threads | ms | ratio | best ms | CPU ms | ratio | load ms | memory MB | deviation (allowed) |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for model in models:
        apart, allowed = compare.deviation(qing, model)
        line = compare.row(model, 1, compare.measure(qing, model, 1, rounds, seconds, shuffle), apart, allowed)
        print(line, flush=True)
        lines.append(line.replace("_int8 |", " |"))
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
        compare.write_section(ROOT / "README.md", "measured", "\n".join(lines))


if __name__ == "__main__":
    main()
