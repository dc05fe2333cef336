#!/usr/bin/env python3
"""Checks that ONNX Runtime opens a network that `qing lighten` wrote and computes what qing computes from it.

    python suite/oracle/lightened.py fashion-w4a8.onnx --qing target/release/qing

Outputs on random inputs may differ by 5 % of their root mean square: ONNX Runtime rounds additions in another place.
"""
import argparse
import pathlib
import subprocess
import tempfile

import numpy
import onnxruntime

TOLERANCE = 0.05


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--qing", type=pathlib.Path, required=True)
    parser.add_argument("--samples", type=int, default=64)
    args = parser.parse_args()
    qing = args.qing.resolve()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(args.model), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    shape = [d if isinstance(d, int) else args.samples for d in entry.shape]
    x = numpy.random.default_rng(0).normal(0, 1, shape).astype(numpy.float32)
    want = session.run(None, {entry.name: x})[0].astype(numpy.float64)
    with tempfile.TemporaryDirectory() as folder:
        numpy.save(f"{folder}/x.npy", x)
        command = [qing, "run", args.model, f"{folder}/x.npy", "--top", "0", "--output", f"{folder}/y.npz"]
        subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL)
        outputs = numpy.load(f"{folder}/y.npz")
        got = outputs[session.get_outputs()[0].name].astype(numpy.float64)
    apart = numpy.sqrt(numpy.mean((got - want) ** 2) / numpy.mean(want**2))
    same = numpy.mean(got.argmax(-1) == want.argmax(-1))
    print(f"{args.model.name}: ONNX Runtime {onnxruntime.__version__} opens it; deviation {apart:.1e}, same class {100 * same:.0f} %")
    raise SystemExit(not apart <= TOLERANCE)


if __name__ == "__main__":
    main()
