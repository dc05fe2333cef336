#!/usr/bin/env python3
"""Post-training quantization by every rounding, with the integer engine, beside ONNX Runtime's static quantization.

    cargo build --release -p qing-cli
    pip install numpy onnx==1.21.0 onnxruntime==1.32.0 pillow
    python bench/lighten/rounding.py [--only resnet20_cifar10] [--bits w4a4] [--write]

ResNet-20 is calibrated on 1,000 training images without their labels and judged on the 10,000 test images; MobileNetV2 and
EfficientNet-Lite0 on every fifth image of `imagenet_sample`, and judged on the other 400. ONNX Runtime gets the same split. --write
puts the table into RESULTS.md.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "bench/peers")]

import markdown  # noqa: E402

# File, preset, calibration, evaluation, widths.
NETWORKS = [
    ("resnet20_cifar10", "imagenet", "cifar10:train@:1000", "cifar10:test", ["w4a8", "w4a4", "w3a4", "w2a4"]),
    ("mobilenetv2", "imagenet", "imagenet_sample@0::5", "imagenet_sample@!0::5", ["w8a8", "w4a8", "w4a4"]),
    ("efficientnet_lite0", "lite0", "imagenet_sample@0::5", "imagenet_sample@!0::5", ["w8a8", "w4a8", "w4a4"]),
]
ROUNDINGS = ["nearest", "feedback", "reconstruct"]


def lighten(args, network, bits, rounding, out):
    """Accuracy before and after, seconds, and peak memory in bytes."""
    name, preset, calibrate, evaluate, _ = network
    command = [args.qing, "lighten", args.shared / f"models/{name}.onnx", "--preset", preset, "--calibrate",
               args.shared / f"data/{calibrate}", "--calibration-limit", 1000, "--evaluate", args.shared / f"data/{evaluate}",
               "--bits", bits, "--rounding", rounding, "--seconds", 0, "--json", "--threads", args.threads, "-o", out / "n.qing"]
    if rounding == "reconstruct" and args.iterations:
        command += ["--iterations", args.iterations]
    begun = time.monotonic()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    text = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        raise SystemExit(f"{' '.join(map(str, command))} failed")
    report = json.loads(text)
    before, after = (report[side]["accuracy"]["top1"] for side in ("before", "after"))
    return before, after, time.monotonic() - begun, used.ru_maxrss * 1024


def onnxruntime_static(args, network, out):
    """Accuracy of ONNX Runtime's static int8 on the same split, judged by ONNX Runtime."""
    import numpy as np
    import data
    import quantize
    from accuracy_ort import hits, load

    name = network[0]
    preprocess, dataset = data.NETWORKS[name]
    images, labels = load(dataset, args.shared / "data")
    images, chosen = list(images), np.zeros(len(labels), bool)
    if dataset == "cifar10":
        train, _ = data.cifar10_images(args.shared / "data/cifar10", "train")
        calibration = [image for _, image in zip(range(1000), train)]
    else:
        chosen[::5] = True
        calibration = [image for image, take in zip(images, chosen) if take]
    import onnx
    path = args.shared / f"models/{name}.onnx"
    feed = onnx.load(path).graph.input[0].name
    quantize.static(path, out / "int8.onnx", [{feed: preprocess(image)[None]} for image in calibration])
    judged = [image for image, take in zip(images, chosen) if not take]
    return hits(out / "int8.onnx", judged, np.asarray(labels)[~chosen], preprocess).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shared", type=pathlib.Path, default=ROOT.parent / "shared")
    parser.add_argument("--qing", type=pathlib.Path, default=ROOT / "target/release/qing")
    parser.add_argument("--only", nargs="+", choices=[n[0] for n in NETWORKS], default=[n[0] for n in NETWORKS])
    parser.add_argument("--bits", nargs="+")
    parser.add_argument("--roundings", nargs="+", choices=ROUNDINGS, default=ROUNDINGS)
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder)
        for network in (n for n in NETWORKS if n[0] in args.only):
            for bits in (b for b in network[4] if not args.bits or b in args.bits):
                cells, before, took = [], None, "–"
                for rounding in ROUNDINGS:
                    if rounding not in args.roundings:
                        cells.append("–")
                        continue
                    before, after, seconds, peak = lighten(args, network, bits, rounding, out)
                    cells.append(f"{100 * after:.2f}")
                    if rounding == "reconstruct":
                        took = f"{seconds / 60:.1f} min, {peak / 2**30:.2f} GiB"
                    print(network[0], bits, rounding, cells[-1], f"{seconds:.0f} s", flush=True)
                peer = "–"
                if bits == "w8a8" and not args.no_peers:
                    peer = f"{100 * onnxruntime_static(args, network, out):.2f}"
                rows.append([network[0], f"{100 * before:.2f}" if before else "–", bits, *cells, peer, took])
    head = ["network", "float %", "widths", *ROUNDINGS, "ONNX Runtime static", "reconstruction took, with evaluation"]
    text = "\n".join([
        "## Quantization after training",
        "",
        f"{time.strftime('%Y-%m-%d')}, commit {markdown.commit()}, {markdown.cpu_name()}, {args.threads} threads. Accuracy in percent, with the",
        "integer engine; `bench/lighten/rounding.py` says on what.",
        "",
        *markdown.table(head, rows),
    ]).rstrip()
    print(text)
    if args.write:
        markdown.write_section(ROOT / "bench/RESULTS.md", "rounding", text)


if __name__ == "__main__":
    main()
