"""Test data for the comparisons: reads `../shared/data` and prepares images the way each network expects."""
import csv
import pathlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """RGB image to float NCHW: resize the short side (None: leave), crop the centre, (x / scale − mean) / std."""

    size: int
    resize: int | None = None
    scale: float = 255.0
    mean: tuple = IMAGENET_MEAN
    std: tuple = IMAGENET_STD
    filter: int = Image.Resampling.BILINEAR

    def __call__(self, image):
        if self.resize:
            width, height = image.size
            ratio = self.resize / min(width, height)
            image = image.resize((round(width * ratio), round(height * ratio)), self.filter)
        width, height = image.size
        left, top = (width - self.size) // 2, (height - self.size) // 2
        image = image.crop((left, top, left + self.size, top + self.size))
        x = np.asarray(image, np.float32) / np.float32(self.scale)
        x = (x - np.float32(self.mean)) / np.float32(self.std)
        return x.transpose(2, 0, 1)


CIFAR10 = Preprocess(size=32)
MOBILENET = Preprocess(size=224)
EFFICIENTNET_LITE = Preprocess(size=224, scale=1.0, mean=(127.0,) * 3, std=(128.0,) * 3)

# Networks of `../shared/models`: how their input is prepared, and which data they know.
NETWORKS = {
    "resnet20_cifar10": (CIFAR10, "cifar10"),
    "mobilenetv2": (MOBILENET, "imagenet_sample"),
    "efficientnet_lite0": (EFFICIENTNET_LITE, "imagenet_sample"),
}


def cifar10_images(folder, split, count=None):
    """Images (lazily) and labels of CIFAR-10 mosaics: 25 rows of 40 tiles of 32×32 a file."""
    labels = [int(line) for line in (folder / f"{split}_labels.txt").read_text().split()]
    count = min(count or len(labels), len(labels))

    def tiles():
        for i in range(-(-count // 1000)):
            sheet = Image.open(folder / f"{split}_{i:02}.webp").convert("RGB")
            for j in range(min(1000, count - 1000 * i)):
                left, top = j % 40 * 32, j // 40 * 32
                yield sheet.crop((left, top, left + 32, top + 32))

    return tiles(), np.array(labels[:count])


def folder_images(folder, keep=lambda index: True):
    """Images (lazily) and labels of a folder with `labels.csv`; `keep` chooses by position in the list."""
    rows = [row for i, row in enumerate(csv.DictReader(open(folder / "labels.csv"))) if keep(i)]
    return (Image.open(folder / row["file"]).convert("RGB") for row in rows), np.array([int(row["class"]) for row in rows])


def held_out_for_calibration(index):
    """Every tenth image of `imagenet_sample` calibrates (50), the other 450 evaluate."""
    return index % 10 == 0


def calibration_batch(network, data, count=128):
    """Float inputs [n,3,h,w] for calibrating `network`, or None where the data is absent."""
    preprocess, dataset = NETWORKS[network]
    folder = pathlib.Path(data) / dataset
    if not folder.is_dir():
        return None
    if dataset == "cifar10":
        images, _ = cifar10_images(folder, "train", count)
    else:
        images, _ = folder_images(folder, held_out_for_calibration)
    return np.stack([preprocess(image) for image in images])
