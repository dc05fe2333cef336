#!/usr/bin/env python3
"""Accuracy of the reference networks in ONNX Runtime, float and its static int8: what qing is compared with.

    python bench/accuracy_ort.py MODELS [--data ../shared/data] [--choose-preprocessing]

MODELS is the folder that bench/models.py made. The ImageNet sample is reported over all 500 images and over
the 450 that did not calibrate the int8 file (every tenth did, see bench/data.py).
"""
import argparse
import dataclasses
import pathlib

import numpy as np
import onnxruntime
from PIL import Image

import data


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def hits(path, images, labels, preprocess, batch=50):
    """Whether each image is classified correctly, as a boolean array."""
    network = session(path)
    name = network.get_inputs()[0].name
    correct, pending = [], []

    def flush():
        if pending:
            logits = network.run(None, {name: np.stack(pending)})[0]
            correct.extend(logits.argmax(1))
            pending.clear()

    for image in images:
        pending.append(preprocess(image))
        if len(pending) == batch:
            flush()
    flush()
    return np.array(correct) == labels


def load(dataset, root):
    folder = root / dataset
    return data.cifar10_images(folder, "test") if dataset == "cifar10" else data.folder_images(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[1].parent / "shared/data")
    parser.add_argument("--choose-preprocessing", action="store_true", help="also try resizing the 256×256 sample images")
    args = parser.parse_args()

    for name, (preprocess, dataset) in data.NETWORKS.items():
        variants = {"": preprocess}
        if args.choose_preprocessing and dataset == "imagenet_sample":
            for label, resize, filter in [
                (", resized to 224 bilinear", 224, Image.Resampling.BILINEAR),
                (", resized to 224 bicubic", 224, Image.Resampling.BICUBIC),
                (", resized to 240 bilinear", 240, Image.Resampling.BILINEAR),
            ]:
                variants[label] = dataclasses.replace(preprocess, resize=resize, filter=filter)
        for label, variant in variants.items():
            for suffix in ("", "_int8"):
                path = args.models / f"{name}{suffix}.onnx"
                if not path.exists() or not (args.data / dataset).is_dir():
                    print(f"{path.stem}: left out, model or data absent")
                    continue
                images, labels = load(dataset, args.data)
                correct = hits(path, images, labels, variant)
                line = f"{path.stem}{label}: {100 * correct.mean():.2f} % of {len(correct):,}"
                if dataset == "imagenet_sample":
                    kept = np.array([not data.held_out_for_calibration(i) for i in range(len(correct))])
                    line += f", {100 * correct[kept].mean():.2f} % of the {kept.sum()} not used to calibrate"
                print(line, flush=True)


if __name__ == "__main__":
    main()
