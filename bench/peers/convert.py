"""Converts an ONNX file to what ncnn, MNN and LiteRT run.

    convert.py ENGINE MODEL.onnx TARGET DATA
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


def pad_with_zeros(model):
    """Maximum pooling that TensorFlow's SAME padding does not cover gets zeros, where a ReLU comes before it and zero changes nothing:
    else the converter pads with minus infinity, which the quantizer refuses."""
    makers = {o: n for n in model.graph.node for o in n.output}
    for at, node in reversed(list(enumerate(model.graph.node))):
        attributes = {a.name: list(a.ints) for a in node.attribute if a.ints}
        pads = attributes.get("pads", [])
        if node.op_type == "MaxPool" and attributes.get("strides") != [1, 1] and any(pads) and makers[node.input[0]].op_type == "Relu":
            half = len(pads) // 2
            model.graph.initializer.append(numpy_helper.from_array(np.int64([0, 0, *pads[:half], 0, 0, *pads[half:]]), f"{node.name}_pads"))
            pad = onnx.helper.make_node("Pad", [node.input[0], f"{node.name}_pads"], [f"{node.name}_padded"], name=f"{node.name}_pad")
            node.input[0] = pad.output[0]
            for attribute in node.attribute:
                if attribute.name == "pads":
                    attribute.ints[:] = [0] * len(pads)
            model.graph.node.insert(at, pad)


def litert(source, target):
    """onnx2tf without TensorFlow: channels last, float32. Token inputs keep their shape."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        model = onnx.load(source)
        tokens = [i.name for i in model.graph.input if i.name != "image"]
        keep = ["-kat", *tokens] if tokens else []
        pad_with_zeros(model)
        onnx.save(model, f"{folder}/{source.name}")
        program = pathlib.Path(sys.executable).with_name("onnx2tf")
        subprocess.run([program, "-i", f"{folder}/{source.name}", "-o", folder, "-n", *keep], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        os.replace(f"{folder}/{source.stem}_float32.tflite", target)


def litert_int8(source, target, data):
    """Google's quantizer on the float file beside: int8 activations, int8 weights per channel."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    import networks

    plain = str(target).replace("_int8.tflite", "_fp32.tflite")
    interpreter = Interpreter(plain)
    interpreter.allocate_tensors()
    (signature, names), *_ = list(interpreter.get_signature_list().items()) or [(None, {"inputs": [d["name"] for d in interpreter.get_input_details()]})]
    details = {d["name"]: d for d in interpreter.get_input_details()}

    def sample(feeds):
        made = {}
        for name in names["inputs"]:
            detail = details.get(name) or next(d for d in details.values() if name in d["name"])
            (value,) = [v for n, v in feeds.items() if len(feeds) == 1 or n in name]
            value = value if list(value.shape) == list(detail["shape"]) else value.transpose(0, 2, 3, 1)
            made[name] = np.ascontiguousarray(value).astype(detail["dtype"])
        return made

    made = quantizer.Quantizer(plain)
    made.load_quantization_recipe(recipe.static_wi8_ai8())
    statistics = made.calibrate({signature: [sample(f) for f in networks.calibration(source, data)]})
    unfinished = f"{target}.part"
    made.quantize(statistics).export_model(unfinished, overwrite=True)
    os.replace(unfinished, target)


if __name__ == "__main__":
    engine, source, target, data = sys.argv[1], *map(pathlib.Path, sys.argv[2:])
    if engine == "litert_int8":
        litert_int8(source, target, data)
    else:
        {"ncnn": ncnn, "mnn": mnn, "litert": litert}[engine](source, target)
