#!/usr/bin/env python3
"""Makes the networks of the comparison and those whose accuracy is measured; nothing it writes is committed.

    pip install numpy onnx==1.21.0 onnxruntime==1.32.0 pillow
    python bench/models.py OUT [--only resnet18 dscnn] [--shared ../shared]

The architectures are in peers/networks.py. The int8 files are ONNX Runtime's own static quantization (peers/quantize.py), so that
all runtimes run one file. `peers/run.py` makes its own.
"""
import argparse
import pathlib
import shutil
import sys

import onnx

sys.path.append(str(pathlib.Path(__file__).resolve().parent / "peers"))

import data  # noqa: E402
import networks  # noqa: E402
import quantize  # noqa: E402

# Without images in the shared folder: right for speed, wrong for accuracy.
NOISE = 8


def samples(name, path, folder):
    """Inputs that calibrate a network."""
    images = data.calibration_batch(name, folder) if name in data.NETWORKS else None
    model = onnx.load(path)
    if images is not None:
        return [{model.graph.input[0].name: image[None]} for image in images]
    return [networks.feeds(networks.closed(model), seed) for seed in range(NOISE)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    names = list(dict.fromkeys([*networks.NETWORKS, *data.NETWORKS]))
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=" ".join(names))
    parser.add_argument("--shared", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2] / "shared")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        path = args.out / f"{name}.onnx"
        try:
            # Networks that are judged keep their open batch and their names.
            if name in data.NETWORKS:
                shutil.copyfile(args.shared / f"models/{name}.onnx", path)
            else:
                networks.build(name, args.out, args.shared)
        except FileNotFoundError as error:
            print(f"{name} is left out: {error}")
            continue
        quantize.static(path, args.out / f"{name}_int8.onnx", samples(name, path, args.shared / "data"))
        print(path.name, flush=True)


if __name__ == "__main__":
    main()
