"""Int8 files of the networks: ONNX Runtime's static quantization, which every engine that reads ONNX runs, and OpenVINO's own (NNCF).

Trained networks calibrate on the images of `../shared/data` where those are there, all others on noise: right for speed, wrong for
accuracy.
"""
import pathlib
import sys
import tempfile

from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import networks

class Feeds(CalibrationDataReader):
    def __init__(self, samples):
        self.items = iter(samples)

    def get_next(self):
        return next(self.items, None)


def static(source, target, samples):
    """ONNX Runtime's static quantization with its defaults for x86 with VNNI: QDQ, uint8 activations, int8 weights per channel.

    Of transformers the matrix products alone: OpenVINO runs that a fifth faster than everything quantized, ONNX Runtime as fast.
    """
    operators = ["MatMul", "Gemm"] if "input_ids" in samples[0] else None
    with tempfile.TemporaryDirectory() as folder:
        prepared = f"{folder}/prepared.onnx"
        quant_pre_process(str(source), prepared, skip_symbolic_shape=True)
        unfinished = f"{target}.part"
        quantize_static(prepared, unfinished, Feeds(samples), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=False,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=operators)
        pathlib.Path(unfinished).rename(target)


def nncf_quantized(source, target, samples):
    """OpenVINO's post-training quantization with its defaults, as an .xml beside its .bin."""
    import nncf
    import openvino

    nncf.set_log_level("ERROR")
    model = openvino.Core().read_model(str(source))
    kind = nncf.ModelType.TRANSFORMER if "input_ids" in samples[0] else None
    quantized = nncf.quantize(model, nncf.Dataset(samples), model_type=kind, subset_size=len(samples))
    unfinished = target.with_name(f"{target.stem}_part.xml")
    openvino.save_model(quantized, str(unfinished), compress_to_fp16=False)
    unfinished.with_suffix(".bin").rename(target.with_suffix(".bin"))
    unfinished.rename(target)


if __name__ == "__main__":
    method, source, target, folder = sys.argv[1], *map(pathlib.Path, sys.argv[2:])
    {"static": static, "nncf": nncf_quantized}[method](source, target, networks.calibration(source, folder))
