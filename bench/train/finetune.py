#!/usr/bin/env python3
"""Fine-tuning the last block of ResNet-20 within a megabyte, after the camera changed (images are no longer normalized as the network
learnt it): accuracy on all 10,000 CIFAR-10 test images before and after.

    python3 bench/train/finetune.py            # some minutes
    python3 bench/train/finetune.py --write    # … and puts it into bench/RESULTS.md

Activations, gradients, updated parameters and the optimizer's state count; that the allocator agrees with what is planned is a test
(`cargo test -p qing-train --test finetune -- --nocapture`).
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
from markdown import commit, cpu_name, table, write_section  # noqa: E402

SHARED = ROOT.parent / "shared"
MODEL, DATA = SHARED / "models/resnet20_cifar10.onnx", SHARED / "data/cifar10"
CAMERA, USUAL = "unit", "imagenet"


def last_line(command):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout[done.stdout.index("{"):].splitlines()[-1]) if "\n{" in done.stdout else json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--qing", type=pathlib.Path, help="a built qing; default: build it")
    parser.add_argument("--memory", default="1MB")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--write", action="store_true", help="write bench/RESULTS.md")
    args = parser.parse_args()
    if args.qing is None:
        subprocess.run(["cargo", "build", "--release", "-q", "-p", "qing-cli"], cwd=ROOT, check=True)
        args.qing = ROOT / "target/release/qing"
    rows = []
    for preset in (USUAL, CAMERA):
        got = last_line([args.qing, "evaluate", MODEL, "--data", f"{DATA}:test", "--preset", preset, "--json"])
        rows.append([f"as it came, `{preset}` images", "", "", f"{100 * got['top1']:.2f} %"])
    for what, only in (("the last block", ["--only", "layer3.2*"]), ("what contributes most", [])):
        with tempfile.TemporaryDirectory() as folder:
            tuned = last_line([
                args.qing, "finetune", MODEL, "--data", f"{DATA}:train@0::10", "--test", f"{DATA}:test", "--memory", args.memory, *only,
                "--epochs", args.epochs, "--rate", 0.02, "--set", f"data.preset={CAMERA}", "-o", folder, "--threads", 1, "--json",
            ])
        rows.append([
            f"{what} tuned on 5,000 `{CAMERA}` images, {args.epochs} epochs", f"{tuned['memory']:,} bytes of {args.memory}",
            f"{tuned['seconds']:.0f} s", f"{100 * tuned['test_accuracy']:.2f} %",
        ])
    text = "\n".join([
        "## Fine-tuning within a megabyte", "", f"Commit {commit()}, {cpu_name()}, one thread.", "",
        *table(["ResNet-20, CIFAR-10", "activations, gradients, parameters, optimizer", "time", "10,000 test images"], rows), "`python3 bench/train/finetune.py --write`",
    ])
    print(text)
    if args.write:
        write_section(ROOT / "bench/RESULTS.md", "finetune", text)


if __name__ == "__main__":
    main()
