#!/usr/bin/env python3
"""Load time and memory of networks, beside what the memory budget allows.

    cargo build --release -p qing --example device
    python3 bench/footprint.py MODEL… [--device target/release/examples/device] [--runs 5] [--compact]

Every model is loaded and run in fresh processes. `peak` is the most resident memory over that before reading; `program` is how much of
that at the end are pages of files, which is the code that has been run since: its size is the binary's, whatever the model, so `own` is the
peak without it. `bound` is the model's file (its weights) and 1.2 times the arena, which holds the largest set of activations alive at
once, the input and the scratch of kernels among them. `--compact` plans with `PlanOptions::compact`.
"""
import argparse
import json
import pathlib
import statistics
import subprocess


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--device", default="target/release/examples/device")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compact", action="store_true")
    args = parser.parse_args()
    print("| model | file MB | load ms, best | median | first run ms | run ms | arena MB | peak MB | program MB | own MB | bound MB | own / bound |")
    print("|---|" + "---|" * 11)
    for model in args.models:
        command = [args.device, model, str(args.threads), "10"] + ["compact"] * args.compact
        runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(args.runs)]
        load = [run["load_ms"] for run in runs]
        peak = statistics.median(run["peak_kib"] - run["base_kib"] for run in runs) * 1024
        program = statistics.median(run["file_kib"] for run in runs) * 1024
        own = peak - program
        size, arena = model.stat().st_size, runs[0]["activation_bytes"]
        bound = size + 1.2 * arena
        first, each = (min(run[key] for run in runs) for key in ("first_run_ms", "run_ms"))
        print(f"| {model.name} | {size / 1e6:.1f} | {min(load):.1f} | {statistics.median(load):.1f} | {first:.1f} | {each:.2f} | "
              f"{arena / 1e6:.2f} | {peak / 1e6:.1f} | {program / 1e6:.1f} | {own / 1e6:.1f} | {bound / 1e6:.1f} | {own / bound:.2f} |", flush=True)


if __name__ == "__main__":
    main()
