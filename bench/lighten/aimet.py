#!/usr/bin/env python3
"""Accuracy of AIMET's post-training quantization to few bits, in its simulation: nothing else runs such networks.

    python -m venv target/aimet && target/aimet/bin/pip install aimet-onnx==2.42.0 pillow
    AIMET_PYTHON=target/aimet/bin/python python bench/lighten/run.py …    # which calls this
    target/aimet/bin/python bench/lighten/aimet.py mobilenetv2 w4a8 --iterations 1000

Its recipe for few bits: channels equalized across layers, weights per channel in symmetric steps, roundings learned layer by layer (AdaRound),
ranges of activations by least error of the steps. First and last layer keep eight bits, as ours do; so do sums and the output.
"""
import argparse
import json
import pathlib
import re
import resource
import sys
import time

import run

# Images at a time: what AIMET collects activations of, and simulates.
BATCH = 32


def quantized(source, batches, weight_bits, activation_bits, iterations):
    """A function from an array of images to logits."""
    import aimet_onnx
    import onnx
    from aimet_onnx.common.defs import QuantScheme, qtype
    from aimet_onnx.common.quantsim_config import config_utils
    from aimet_onnx.cross_layer_equalization import equalize_model

    model = onnx.load(source)
    feed = model.graph.input[0].name
    equalize_model(model)
    per_channel = str(pathlib.Path(config_utils.__file__).with_name("default_config_per_channel.json"))
    sim = aimet_onnx.QuantizationSimModel(model, param_type=qtype.int(weight_bits), activation_type=qtype.int(activation_bits),
                                          quant_scheme=QuantScheme.post_training_tf_enhanced, config_file=per_channel)
    widen(sim, min(weight_bits, activation_bits))
    feeds = [{feed: batch} for batch in batches]
    if weight_bits < 8:
        aimet_onnx.apply_adaround(sim, feeds, **({} if iterations is None else {"num_iterations": iterations}))
    sim.compute_encodings(feeds)
    return lambda images: sim.session.run(None, {feed: images})[0]


def widen(sim, bits):
    """Gives eight bits to the weights of the first and the last layer, to what they and sums read, and to the output."""
    graph = sim.model.model.graph
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    names = {name for node in (layers[0], layers[-1]) for name in node.input}
    names |= {output.name for output in graph.output} | {layers[-1].output[0]}
    if bits < 8:
        names |= {name for node in graph.node if node.op_type == "Add" for name in node.input}
    for name, quantizer in sim.qc_quantize_op_dict.items():
        if name in names or any(name + suffix in names for suffix in ("_updated", "_qdq")):
            quantizer.set_bitwidth(8)


def main():
    import numpy as np

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("row", choices=run.ROWS)
    parser.add_argument("bits", help="as w4a8")
    parser.add_argument("--shared", type=pathlib.Path, default=run.ROOT.parent / "shared", help="the folder with models and data")
    parser.add_argument("--iterations", type=int, help="steps of AdaRound for each layer, if not AIMET's default")
    args = parser.parse_args()
    weight_bits, activation_bits = map(int, re.fullmatch(r"w(\d+)a(\d+)", args.bits).groups())
    prepare, calibration, images, labels = run.samples(args.shared, args.row)
    images = list(images)

    def batches(some):
        for first in range(0, len(some), BATCH):
            yield np.stack([prepare(image) for image in some[first:first + BATCH]])

    start = time.monotonic()
    network = quantized(args.shared / f"models/{run.ROWS[args.row][0]}.onnx", list(batches(calibration)), weight_bits, activation_bits,
                        args.iterations)
    seconds = time.monotonic() - start
    answers = np.concatenate([network(batch).argmax(1) for batch in batches(images)])
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"after": float((answers == np.asarray(labels)).mean()), "seconds": seconds, "peak": used.ru_maxrss * 1024,
                      "cpu_seconds": used.ru_utime + used.ru_stime}), file=sys.stdout)


if __name__ == "__main__":
    main()
