"""Converts an ONNX file to what ncnn, MNN and LiteRT run, with each one's own converter.

    convert.py ENGINE MODEL.onnx TARGET
"""
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from onnx import numpy_helper


def ncnn(source, target):
    """pnnx: a program in the package of that name. Weights stay float32."""
    program = pathlib.Path(importlib.util.find_spec("pnnx").origin).parent / "pnnx"
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        model = onnx.load(source)
        for weight in model.graph.initializer:
            # pnnx tries the network on indices up to ten: a table of two rows gets more, which are never asked for.
            if len(weight.dims) == 2 and weight.dims[0] == 2:
                weight.CopyFrom(numpy_helper.from_array(np.tile(numpy_helper.to_array(weight), (8, 1)), weight.name))
        onnx.save(model, f"{folder}/model.onnx")
        subprocess.run([program, f"{folder}/model.onnx", "fp16=0"], check=True, cwd=folder, stdout=subprocess.DEVNULL)
        os.replace(f"{folder}/model.ncnn.bin", target.with_suffix(".bin"))
        os.replace(f"{folder}/model.ncnn.param", target)


def mnn(source, target):
    """The converter in MNN's library; its command-line tool around it would report usage over the network."""
    import _tools

    unfinished = f"{target}.part"
    _tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", str(source), "--MNNModel", unfinished, "--bizCode", "bench"])
    os.replace(unfinished, target)


if __name__ == "__main__":
    engine, source, target = sys.argv[1], *map(pathlib.Path, sys.argv[2:])
    {"ncnn": ncnn, "mnn": mnn}[engine](source, target)
