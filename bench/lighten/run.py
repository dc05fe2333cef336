#!/usr/bin/env python3
"""What lightening without labels costs in accuracy: `qing lighten` by every rounding, beside the post-training quantization of ONNX Runtime
and of OpenVINO (NNCF) to eight bits, and of AIMET to as many as there are, on the same samples in one run.

    cargo build --release -p qing-cli
    pip install numpy onnx==1.21.0 onnxruntime==1.32.0 pillow openvino==2026.4.1 nncf==3.4.0
    python -m venv target/aimet && target/aimet/bin/pip install aimet-onnx==2.42.0 pillow     # 6 GB
    export AIMET_PYTHON=target/aimet/bin/python
    python bench/lighten/run.py                                      # everything: two hours on two quiet cores
    python bench/lighten/run.py --rows resnet20 --bits w4a4 --roundings reconstruct
    python bench/lighten/run.py --write                              # … and puts the table into bench/RESULTS.md

Samples that calibrate are never those that judge: ResNet-20 takes 1,000 training images without their labels and is judged on the 10,000
test images; of `imagenet_sample` every fifth image of labels.csv (100) calibrates and the other 400 judge. A peer that is not installed is
left out. What the same program was measured at before is not measured again.
"""
import argparse
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "bench/peers")]
from markdown import commit, cpu_name, table, write_section  # noqa: E402

TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
# Name: model, preprocessing, calibration, its limit, evaluation; of each setting (widths, or a budget; with a codebook behind it) the
# points that may be lost.
ROWS = {
    "resnet20": ("resnet20_cifar10", "imagenet", "cifar10:train@0::50", 1000, "cifar10:test",
                 {"w8a8": None, "w4a8": 0.33, "w4a4": 1.13, "w3a4": 2.23, "w2a4": 5.73, "w2a8": None, "w8a8 4x256": None}),
    "mobilenetv2": ("mobilenetv2", "imagenet", "imagenet_sample@0::5", 100, "imagenet_sample@!0::5",
                    {"w8a8": 0.4, "w4a8": 1.2, "w4a4": 4.5, "size<=1860kB": 0.6}),
    "efficientnet_lite0": ("efficientnet_lite0", "lite0", "imagenet_sample@0::5", 100, "imagenet_sample@!0::5",
                           {"w8a8": 0.4, "w4a8": 1.2, "w4a4": 4.5, "size<=2470kB": 0.6}),
}
# Each goes further than the one before it; the last sees fewer than 400 calibration images moved and mirrored as well.
ROUNDINGS = {
    "nearest": ["--rounding", "nearest"],
    "feedback": ["--rounding", "feedback"],
    "bit-split": ["--rounding", "bit-split"],
    "reconstruct, 1 view": ["--rounding", "reconstruct", "--calibration-views", 1],
    "reconstruct": ["--rounding", "reconstruct"],
}
# Those of eight bits alone, and one of any.
EIGHT_BITS = ["ONNX Runtime", "NNCF"]
PEERS = [*EIGHT_BITS, "AIMET"]


def lighten(args, name, bits, rounding):
    """Accuracy before and after, the file's bytes, seconds by the clock and of processors, and peak memory."""
    model, preset, calibrate, limit, evaluate, _ = ROWS[name]
    bits, _, codebook = bits.partition(" ")
    with tempfile.TemporaryDirectory() as folder:
        command = [args.qing, "lighten", args.shared / f"models/{model}.onnx", "--preset", preset,
                   "--calibrate", args.shared / f"data/{calibrate}", "--calibration-limit", limit,
                   "--evaluate", args.shared / f"data/{evaluate}", "--budget" if "<=" in bits else "--bits", bits,
                   *ROUNDINGS[rounding], "--seconds", 0, "--threads", args.threads, "--json", "-o", f"{folder}/light.qing"]
        if codebook:
            command += ["--codebook", codebook]
        if "reconstruct" in rounding and args.iterations:
            command += ["--iterations", args.iterations]
        start = time.monotonic()
        with open(f"{folder}/errors", "w+") as errors:
            process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=errors, text=True)
            text = process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = status
            if status:
                errors.seek(0)
                sys.exit(f"{' '.join(map(str, command))}\n{errors.read()}")
    report = json.loads(text)
    return {
        "before": report["before"]["accuracy"]["top1"], "after": report["after"]["accuracy"]["top1"],
        "samples": report["after"]["accuracy"]["samples"], "bytes": report["after"]["file_bytes"],
        "float_bytes": report["before"]["file_bytes"], "seconds": time.monotonic() - start,
        "cpu_seconds": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss * 1024,
    }


def makes_sense(name, bits, rounding):
    """Code words are not learned; enough images are seen once anyway."""
    return not ((" " in bits and "reconstruct" in rounding) or ("1 view" in rounding and ROWS[name][3] >= 400))


def samples(shared, name):
    """Preprocessing, calibration images, images that judge, and their labels."""
    import data
    import numpy as np

    prepare, dataset = data.NETWORKS[ROWS[name][0]]
    folder = shared / "data" / dataset
    if dataset == "cifar10":
        images, labels = data.cifar10_images(folder, "test")
        train, _ = data.cifar10_images(folder, "train")
        return prepare, [image for i, image in enumerate(train) if i % 50 == 0], images, labels
    images, labels = data.folder_images(folder)
    images, judge = list(images), np.arange(len(labels)) % 5 != 0
    return prepare, images[::5], [image for image, j in zip(images, judge) if j], np.asarray(labels)[judge]


def aimet(args, name, bits):
    """Accuracy of AIMET's network in its simulation; nothing if it is not installed."""
    python = os.environ.get("AIMET_PYTHON")
    if not python:
        print("AIMET is left out: AIMET_PYTHON is not set", file=sys.stderr)
        return None
    command = [python, pathlib.Path(__file__).with_name("aimet.py"), name, bits, "--shared", args.shared]
    command += ["--iterations", args.aimet_iterations] if args.aimet_iterations else []
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peer(args, name, which, bits):
    """Accuracy of a peer's network, of eight bits in its own engine; nothing if it is not installed, or does not do these bits."""
    if which == "AIMET":
        return aimet(args, name, bits) if re.fullmatch(r"w\da\d", bits) else None
    try:
        import numpy as np
        import onnx
        import quantize
        from accuracy_ort import hits
        if which == "NNCF":
            import nncf  # noqa: F401
            import openvino
    except ImportError as missing:
        print(f"{which} is left out: {missing}", file=sys.stderr)
        return None
    prepare, calibration, images, labels = samples(args.shared, name)
    model = args.shared / f"models/{ROWS[name][0]}.onnx"
    feed = onnx.load(model).graph.input[0].name
    feeds = [{feed: prepare(image)[None]} for image in calibration]
    with tempfile.TemporaryDirectory() as folder:
        if which == "ONNX Runtime":
            target = pathlib.Path(folder) / "int8.onnx"
            quantize.static(model, target, feeds)
            return {"after": float(hits(target, images, labels, prepare).mean())}
        target = pathlib.Path(folder) / "int8.xml"
        quantize.nncf_quantized(model, target, feeds)
        network = openvino.Core().compile_model(str(target), "CPU", {"INFERENCE_NUM_THREADS": args.threads})
        answers = [int(np.argmax(network([prepare(image)[None]])[0])) for image in images]
        return {"after": float(np.mean(np.asarray(answers) == labels))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shared", type=pathlib.Path, default=ROOT.parent / "shared", help="the folder with models and data")
    parser.add_argument("--qing", type=pathlib.Path, default=TARGET / "release/qing")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--bits", nargs="+", help="only these settings")
    parser.add_argument("--roundings", nargs="+", choices=ROUNDINGS, default=list(ROUNDINGS))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--iterations", type=int, help="steps of reconstruction, if not the default")
    parser.add_argument("--aimet-iterations", type=int, help="steps of AIMET's AdaRound for each layer, if not its default of 10,000")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="measure nothing, report what is known")
    parser.add_argument("--write", action="store_true", help="write bench/RESULTS.md")
    args = parser.parse_args()
    known_path = TARGET / f"lighten-{hashlib.sha256(args.qing.read_bytes()).hexdigest()[:12]}.json"
    known = json.loads(known_path.read_text()) if known_path.exists() else {}

    def measured(key, measure):
        if key not in known and not args.report:
            found = measure()
            if found is not None:
                known[key] = found
                known_path.write_text(json.dumps(known, indent=1))
                print(key, json.dumps(found), file=sys.stderr, flush=True)
        return known.get(key)

    def percent(found):
        return f"{100 * found['after']:.2f}" if found else "–"

    rows = []
    for name in args.rows:
        for bits, allowed in ROWS[name][5].items():
            if args.bits and bits not in args.bits:
                continue
            got = {r: measured(f"{name} {bits} {r} {args.iterations or ''}".strip(), lambda: lighten(args, name, bits, r))
                   for r in ROUNDINGS if (r in args.roundings or args.report) and makes_sense(name, bits, r)}
            peers = []
            for p in PEERS:
                key = f"{name} {p}" if p in EIGHT_BITS else f"{name} {bits} {p} {args.aimet_iterations or ''}".strip()
                wanted = p in args.peers and (bits == "w8a8" or p not in EIGHT_BITS)
                peers.append(measured(key, lambda: peer(args, name, p, bits)) if wanted else None)
            best = next((got[r] for r in reversed(list(ROUNDINGS)) if got.get(r)), None)
            if best is None:
                continue
            lost = 100 * (best["before"] - best["after"])
            mark = "**" if allowed is not None and lost <= allowed + 1e-9 else ""
            rows.append([
                name, f"`{bits}`", str(best["samples"]), f"{100 * best['before']:.2f}", *(percent(got.get(r)) for r in ROUNDINGS),
                f"{mark}{lost:.2f}{mark}", "" if allowed is None else f"≤ {allowed}", *map(percent, peers),
                f"{best['bytes'] / 1e3:.0f} kB, ÷ {best['float_bytes'] / best['bytes']:.1f}",
                f"{best['seconds'] / 60:.1f} / {best['cpu_seconds'] / 60:.1f}", f"{best['peak'] / 1e9:.2f}",
            ])
    text = "\n".join([
        "## Lightening without labels", "",
        f"{time.strftime('%Y-%m-%d')}, commit {commit()}, {cpu_name()}, {args.threads} threads. Accuracy in percent, qing's by its integer engine.",
        "Samples that calibrate do not judge: `bench/lighten/run.py` says which are which. What was lost, the file, minutes (by the clock / of",
        "processors, evaluation included) and memory are those of the last rounding measured. Bold: as wanted. ONNX Runtime and NNCF quantize to w8a8",
        "alone; AIMET's accuracies are those of its simulation.", "",
        *table(["network", "setting", "images", "float", *ROUNDINGS, "points lost", "wanted", *PEERS, "file", "minutes", "peak GB"], rows),
        "`python bench/lighten/run.py --write`",
    ])
    print(text)
    if args.write:
        write_section(ROOT / "bench/RESULTS.md", "lighten", text)


if __name__ == "__main__":
    main()
