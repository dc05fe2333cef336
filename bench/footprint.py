#!/usr/bin/env python3
"""Load time and memory of networks, beside what the memory budget allows.

    python3 bench/footprint.py MODEL… [--packed] [--write] [--runs 5] [--compact]

Every model is loaded and run in fresh processes of the device's program (the engine and the reader of `.qing`, AVX-512 included). `peak` is
the most resident memory over that before reading, without the pages of the program's own file that have been run since (`program`): these
are bounded by the size of the binary, whatever the model. What is resident of the model's file counts. `bound` is the weights at their own
width and 1.2 times the arena, which holds the largest set of activations alive at once, the input and the scratch of kernels among them.
`--packed` measures each model also as `qing pack` writes it; `--compact` plans with `PlanOptions::compact`.
"""
import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from markdown import commit, cpu_name, write_section


ROOT = pathlib.Path(__file__).resolve().parents[1]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def build():
    """The device's program and qing."""
    cargo = ["cargo", "build", "--release", "--quiet"]
    subprocess.run([*cargo, "-p", "qing", "--no-default-features", "--features", "avx512", "--example", "device"], cwd=ROOT, check=True)
    subprocess.run([*cargo, "-p", "qing-cli"], cwd=ROOT, check=True)


def row(name, model, args):
    command = [TARGET / "release/examples/device", model, str(args.threads), "10"] + ["compact"] * args.compact
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(args.runs)]
    load = [run["load_ms"] for run in runs]
    program = statistics.median(run["program_kib"] for run in runs) * 1024
    peak = statistics.median(run["peak_kib"] - run["base_kib"] for run in runs) * 1024 - program
    weights, arena = runs[0]["weight_bytes"], runs[0]["activation_bytes"]
    bound = weights + 1.2 * arena
    first, each = (min(run[key] for run in runs) for key in ("first_run_ms", "run_ms"))
    return (f"| {name} | {min(load):.1f} | {statistics.median(load):.1f} | {first:.1f} | {each:.2f} | {weights / 1e6:.2f} | {arena / 1e6:.2f} | "
            f"{peak / 1e6:.2f} | {bound / 1e6:.2f} | **{peak / bound:.2f}** | {program / 1e6:.1f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=pathlib.Path, help="files of .qing")
    parser.add_argument("--packed", action="store_true", help="each also with weights packed for this machine")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compact", action="store_true")
    parser.add_argument("--write", action="store_true", help="put the table into bench/RESULTS.md")
    args = parser.parse_args()
    build()
    lines = [
        "## Load time and memory",
        "",
        f"Commit {commit()}, {datetime.date.today().isoformat()}, {cpu_name()}, load {os.getloadavg()[0]:.1f} at the start.",
        f"`bench/footprint.py --help` says what is measured. ms and MB; times are the best of {args.runs} processes, memory the median.",
        "",
        "| model | load | median | first run | run | weights | arena | peak | bound | peak / bound | program |",
        "|---|" + "---|" * 10,
    ]
    with tempfile.TemporaryDirectory() as folder:
        for model in args.models:
            lines.append(row(model.name, model, args))
            print(lines[-1], file=sys.stderr, flush=True)
            if args.packed:
                packed = pathlib.Path(folder) / model.name
                subprocess.run([TARGET / "release/qing", "pack", model, "-o", packed], check=True, capture_output=True)
                lines.append(row(f"{model.name}, packed", packed, args))
                print(lines[-1], file=sys.stderr, flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if args.write:
        write_section(ROOT / "bench/RESULTS.md", "footprint", text)


if __name__ == "__main__":
    main()
