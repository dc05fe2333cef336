#!/usr/bin/env python3
"""What outliers cost a transformer on few bits, and what smoothing (SmoothQuant) and rotation (QuaRot) win back: `qing lighten` on networks
of the size of MiniLM with random weights, which have no outliers of their own, so that some are made.

    cargo build --release -p qing-cli
    pip install numpy onnx==1.21.0
    python bench/lighten/outliers.py                        # both networks at all widths
    python bench/lighten/outliers.py --layers 2 --tokens 32 # smaller ones

Where normalizations come first (`before`, as in GPT and vision transformers), three channels of each one's gain and bias are 30 times as
large and the weights that read them a 30th: the network computes what it did. MiniLM itself normalizes after the sums (`after`), where a larger channel
stays in the residual: there channels are 6 times as large, which makes it another network; it is compared with its own floating point.
Figures are the power of the output over that of its error in decibels, on the first four samples that calibrated.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from onnx import numpy_helper

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "bench/peers")]
import networks  # noqa: E402

TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
CHANNELS = [17, 130, 301]
FACTOR = {"before": 30.0, "after": 6.0, "none": 1.0}
VOCABULARY = 1000
METHODS = {
    "neither": ["--smooth", "off", "--no-rotate"],
    "smoothing": ["--no-rotate"],
    "rotation": ["--smooth", "off"],
    "both": [],
}


def with_outliers(model, factor):
    """The model with larger channels in the results of normalizations, and smaller weights that read them."""
    tensors = {t.name: t for t in model.graph.initializer}

    def scale(name, by):
        array = numpy_helper.to_array(tensors[name]).copy()
        array[CHANNELS] *= by
        tensors[name].CopyFrom(numpy_helper.from_array(array, name))

    for norm in (n for n in model.graph.node if n.op_type == "LayerNormalization"):
        readers = [n for n in model.graph.node if n.op_type == "MatMul" and n.input[0] == norm.output[0]]
        # What the network gives stays as it is.
        for name in norm.input[1:] if readers else []:
            scale(name, factor)
        for reader in readers:
            scale(reader.input[1], 1 / factor)
    return model


def of_words(model, tokens):
    """The model with word numbers for its only input: all of one type, none masked."""
    for name, value in (("token_type_ids", 0), ("attention_mask", 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.full((1, tokens), value, np.int64), name))
    del model.graph.input[1:]
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--qing", type=pathlib.Path, default=TARGET / "release/qing")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--bits", nargs="+", default=["w8a8", "w4a8", "w4a4"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--norms", nargs="+", choices=FACTOR, default=["before", "after"])
    args = parser.parse_args()
    print("| normalizations | widths |", " | ".join(args.methods), "|\n|---|---|" + "---|" * len(args.methods))
    with tempfile.TemporaryDirectory() as folder:
        random = np.random.default_rng(7)
        shape = (args.samples, args.tokens)
        np.savez(f"{folder}/data.npz", x=random.integers(0, VOCABULARY, shape))
        for norms in args.norms:
            model = networks.minilm(args.tokens, args.layers, vocabulary=VOCABULARY, first=norms != "after")
            onnx.save(with_outliers(of_words(model, args.tokens), FACTOR[norms]), f"{folder}/net.onnx")
            for bits in args.bits:
                row = []
                for method in args.methods:
                    command = [args.qing, "lighten", f"{folder}/net.onnx", "--calibrate", f"{folder}/data.npz", "--bits", bits,
                               *METHODS[method], "--seconds", 0, "--json", "-o", f"{folder}/light.qing"]
                    made = subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, text=True)
                    row.append(f"{json.loads(made.stdout)['output_sqnr_db']:.1f}")
                print(f"| {norms} | {bits} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
