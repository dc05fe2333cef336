#!/usr/bin/env python3
"""What lightening costs in accuracy, without labels: `qing lighten` beside ONNX Runtime's static quantization, on the same samples.

    python3 bench/lighten/run.py                               # all rows: an hour on two cores
    python3 bench/lighten/run.py --rows resnet20 --bits w4a4
    python3 bench/lighten/run.py --write                       # … and puts it into bench/RESULTS.md

Samples that calibrate are never those that judge: ResNet-20 takes 1,000 training images without their labels and is judged on all 10,000 test
images; of the ImageNet sample every fifth image calibrates and the other 400 judge. Rows that were measured by the same program are not
measured again.
"""
import argparse
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
from markdown import commit, cpu_name, table, write_section  # noqa: E402

SHARED = ROOT.parent / "shared"
SAMPLE = SHARED / "data/imagenet_sample"
CIFAR = SHARED / "data/cifar10"
# Name: model, preprocessing, calibration, its limit, evaluation; for each setting the flags and the points that may be lost.
ROWS = {
    "resnet20": ("resnet20_cifar10.onnx", "imagenet", f"{CIFAR}:train@0::50", 1000, f"{CIFAR}:test", {
        "w8a8": ([], None), "w4a8": ([], 0.33), "w4a4": (["--effort", "thorough"], 1.13), "w3a4": (["--effort", "thorough"], 2.23),
        "w2a4": (["--effort", "thorough", "--rate", "0.02"], 5.73),
    }),
    "mobilenetv2": ("mobilenetv2.onnx", "imagenet", f"{SAMPLE}@0::5", 100, f"{SAMPLE}@!0::5", {
        "w8a8": ([], 0.4), "w4a8": (["--effort", "thorough"], 1.2), "w4a4": (["--effort", "thorough"], 4.5),
        "size<=1860kB": (["--effort", "thorough"], 0.6),
    }),
    "efficientnet_lite0": ("efficientnet_lite0.onnx", "lite0", f"{SAMPLE}@0::5", 100, f"{SAMPLE}@!0::5", {
        "w8a8": ([], 0.4), "w4a8": (["--effort", "thorough"], 1.2), "w4a4": (["--effort", "thorough"], 4.5),
        "size<=2470kB": (["--effort", "thorough"], 0.6),
    }),
}


def qing_row(args, name, bits):
    model, preset, calibrate, limit, evaluate, settings = ROWS[name]
    flags, _ = settings[bits]
    width = ["--budget" if "<=" in bits else "--bits", bits]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            args.qing, "lighten", SHARED / "models" / model, "--preset", preset, "--calibrate", calibrate, "--calibration-limit", limit,
            "--evaluate", evaluate, *width, *flags, "--seconds", 0, "-o", f"{folder}/light.qing", "--threads", args.threads, "--json",
        ]
        start = time.monotonic()
        done = subprocess.run(["/usr/bin/env", "python3", "-c", MEASURE, *map(str, command)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        text, _, peak = done.stdout.rpartition("peak ")
        report = json.loads(text[text.index("{\n"):])
    return {
        "before": report["before"]["accuracy"]["top1"], "after": report["after"]["accuracy"]["top1"], "bytes": report["after"]["file_bytes"],
        "float_bytes": report["before"]["file_bytes"], "samples": report["after"]["accuracy"]["samples"],
        "seconds": time.monotonic() - start, "peak": int(peak) * 1024,
    }


# Runs a command and says how much memory it took at most.
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def onnxruntime_row(name):
    """Static quantization with eight bits, per channel, on the same samples; nothing if onnxruntime is not there."""
    try:
        import numpy as np
        sys.path.insert(0, str(ROOT / "bench/peers"))
        import data
        from accuracy_ort import hits
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as missing:
        print(f"onnxruntime is left out: {missing}", file=sys.stderr)
        return None
    model = ROWS[name][0]
    prepare = {"resnet20": data.CIFAR10, "mobilenetv2": data.MOBILENET, "efficientnet_lite0": data.EFFICIENTNET_LITE}[name]
    if name == "resnet20":
        images, labels = data.cifar10_images(CIFAR, "test")
        calibration, _ = data.cifar10_images(CIFAR, "train")
        calibration = [image for i, image in enumerate(calibration) if i % 50 == 0]
    else:
        images, labels = data.folder_images(SAMPLE)
        calibration = [image for i, image in enumerate(images) if i % 5 == 0]
        labels = np.array([label for i, label in enumerate(labels) if i % 5])
        images = [image for i, image in enumerate(images) if i % 5]

    class Reader(CalibrationDataReader):
        def __init__(self, name):
            self.items = iter([{name: prepare(image)[None]} for image in calibration])

        def get_next(self):
            return next(self.items, None)

    with tempfile.TemporaryDirectory() as folder:
        ready, target = f"{folder}/ready.onnx", f"{folder}/int8.onnx"
        quant_pre_process(str(SHARED / "models" / model), ready, skip_symbolic_shape=True)
        import onnx
        quantize_static(ready, target, Reader(onnx.load(ready).graph.input[0].name), quant_format=QuantFormat.QDQ, per_channel=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
        return {"after": float(np.mean(hits(target, images, np.array(labels), prepare)))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--qing", type=pathlib.Path, help="a built qing; default: build it")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--bits", nargs="+", help="only these settings")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="measure nothing, report what is known")
    parser.add_argument("--write", action="store_true", help="write bench/RESULTS.md")
    args = parser.parse_args()
    if args.qing is None:
        subprocess.run(["cargo", "build", "--release", "-q", "-p", "qing-cli"], cwd=ROOT, check=True)
        args.qing = ROOT / "target/release/qing"
    known_path = ROOT / "target" / f"lighten-{hashlib.sha256(args.qing.read_bytes()).hexdigest()[:12]}.json"
    known = json.loads(known_path.read_text()) if known_path.exists() else {}

    def measured(key, measure):
        if key not in known and not args.report:
            found = measure()
            if found is not None:
                known[key] = found
                known_path.write_text(json.dumps(known, indent=1))
                print(key, json.dumps(found), file=sys.stderr)
        return known.get(key)

    rows = []
    for name in args.rows:
        for bits, (_, allowed) in ROWS[name][5].items():
            if args.bits and bits not in args.bits:
                continue
            got = measured(f"{name} {bits}", lambda: qing_row(args, name, bits))
            peer = measured(f"{name} onnxruntime", lambda: onnxruntime_row(name)) if bits == "w8a8" else None
            if got is None:
                continue
            lost = 100 * (got["before"] - got["after"])
            wanted = "" if allowed is None else f"≤ {allowed}"
            mark = "**" if allowed is not None and lost <= allowed + 1e-9 else ""
            rows.append([
                name, f"`{bits}`", str(got["samples"]), f"{100 * got['before']:.2f} %", f"{100 * got['after']:.2f} %", f"{mark}{lost:.2f}{mark}", wanted,
                "" if peer is None else f"{100 * peer['after']:.2f} %", f"{got['bytes'] / 1e3:.0f} kB, ÷ {got['float_bytes'] / got['bytes']:.1f}",
                f"{got['seconds']:.0f}", f"{got['peak'] / 1e9:.2f}",
            ])
    text = "\n".join([
        "## Lightening without labels", "",
        f"Commit {commit()}, {cpu_name()}, {args.threads} threads. Measured by the integer engine; samples that calibrate do not judge. Bold: as wanted.", "",
        *table(["network", "setting", "images", "float", "lighter", "points lost", "wanted", "ONNX Runtime w8a8", "file", "seconds", "peak GB"], rows),
        "`python3 bench/lighten/run.py --write`",
    ])
    print(text)
    if args.write:
        write_section(ROOT / "bench/RESULTS.md", "lighten", text)


if __name__ == "__main__":
    main()
