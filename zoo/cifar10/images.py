#!/usr/bin/env python3
"""Training images that look like the test images, for the recipes beside this file.

    pip install numpy pillow torch onnx
    python zoo/cifar10/images.py            # half an hour on two cores

The CIFAR-10 training images in the shared data were compressed by JPEG (quality 75, chroma at half resolution, every image alone: compressing
them so again changes a value by 0.15 on average, a test image by 5.0). Three folders of mosaics are written here:

- `restored/`: the 50,000 training images with their labels, after a small residual network that was taught, by the mean absolute error, to undo
  that compression. It learns from images that never went through it: the CIFAR-100 test images and pieces of the ImageNet samples.
- `seen/`: the same, after that network has also learned to make the float ResNet-20 and ResNet-56 see in every block what they see in such images
  (Johnson et al., "Perceptual losses", arXiv:1603.08155).
- `crops/`: 30,000 pieces of the ImageNet samples at 32×32, without labels (classes in the file are all 0), for a teacher to speak of
  (Asano and Saeed, "The augmented image prior", arXiv:2112.00725).

No test image is read.
"""
import argparse
import io
import pathlib
import queue
import threading

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
ROWS, COLUMNS, SIDE = 25, 40, 32
BATCH = 64


def sheet(path):
    """The images of a mosaic."""
    values = np.asarray(Image.open(path).convert("RGB"))
    return values.reshape(ROWS, SIDE, COLUMNS, SIDE, 3).transpose(0, 2, 1, 3, 4).reshape(-1, SIDE, SIDE, 3)


def write_sheet(images, path):
    values = images.reshape(ROWS, COLUMNS, SIDE, SIDE, 3).transpose(0, 2, 1, 3, 4).reshape(ROWS * SIDE, COLUMNS * SIDE, 3)
    Image.fromarray(values).save(path, lossless=True)


def compressed(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=75, subsampling=2)
    return np.asarray(Image.open(buffer).convert("RGB"))


def piece(photograph, random, share, stretch):
    """A part of a photograph, `share` of its area, scaled to 32×32."""
    side = photograph.size[0]
    edge, stretch = side * np.sqrt(random.uniform(*share)), np.exp(random.uniform(-stretch, stretch))
    width, height = min(side, edge * stretch), min(side, edge / stretch)
    x, y = random.uniform(0, side - width), random.uniform(0, side - height)
    return np.asarray(photograph.resize((SIDE, SIDE), Image.BICUBIC, box=(x, y, x + width, y + height)))


class Pairs:
    """Batches of images as they were and as compression left them, made on a thread of their own."""

    def __init__(self, images, photographs):
        self.images, self.photographs, self.random = images, photographs, np.random.default_rng(0)
        self.ready = queue.Queue(8)
        threading.Thread(target=self.feed, daemon=True).start()

    def one(self):
        random = self.random
        if random.random() < 0.25:
            image = piece(self.photographs[random.integers(len(self.photographs))], random, (0.12, 1.0), 0.0)
        else:
            image = self.images[random.integers(len(self.images))]
            if random.random() < 0.5:
                padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), "reflect")
                y, x = random.integers(9, size=2)
                image = padded[y:y + SIDE, x:x + SIDE]
        if random.random() < 0.5:
            image = image[:, ::-1]
        image = np.ascontiguousarray(image)
        return image, compressed(image)

    def feed(self):
        while True:
            pairs = [self.one() for _ in range(BATCH)]
            self.ready.put(tuple(np.stack(side) for side in zip(*pairs)))


class Restorer(nn.Module):
    """Ten residual convolutions on quarters of the resolution; a learned map of 16×16 pixels tells where blocks are."""

    def __init__(self, width=64, blocks=5):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1, width, 8, 8))
        self.first = nn.Conv2d(12, width, 3, padding=1)
        conv = lambda: nn.Conv2d(width, width, 3, padding=1)  # noqa: E731
        self.blocks = nn.ModuleList([nn.Sequential(conv(), nn.ReLU(), conv()) for _ in range(blocks)])
        self.last = nn.Conv2d(width, 12, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x):
        h = F.relu(self.first(F.pixel_unshuffle(x, 2)) + self.place.repeat(1, 1, 2, 2))
        for block in self.blocks:
            h = h + 0.3 * block(h)
        return x + F.pixel_shuffle(self.last(h), 2)


class Seer:
    """A float network of the folder of models: what leaves each of its additions, and its logits."""

    mean, deviation = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)

    def __init__(self, path):
        graph = onnx.load(path).graph
        self.weights = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in graph.initializer}
        self.input, self.nodes = graph.input[0].name, graph.node

    def __call__(self, images):
        values, blocks = {self.input: (images + 0.5 - self.mean) / self.deviation}, []
        for node in self.nodes:
            of = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            x, *more = [values.get(name, self.weights.get(name)) for name in node.input]
            match node.op_type:
                case "Conv":
                    y = F.conv2d(x, *more, None, of["strides"], of["pads"][:2])
                case "BatchNormalization":
                    scale, bias, mean, variance = more
                    y = F.batch_norm(x, mean, variance, scale, bias, eps=of["epsilon"])
                case "Relu":
                    y = F.relu(x)
                case "Add":
                    y = x + more[0]
                    blocks.append(y)
                case "Slice":  # shortcuts into fewer pixels
                    y = x[:, :, ::2, ::2]
                case "Pad":  # and more channels
                    begins, ends = more[0].view(2, 4).tolist()
                    y = F.pad(x, (0, 0, 0, 0, begins[1], ends[1]))
                case "GlobalAveragePool":
                    y = x.mean((2, 3), keepdim=True)
                case "Flatten":
                    y = x.flatten(1)
                case "Gemm":
                    y = F.linear(x, *more)
                case other:
                    raise NotImplementedError(other)
            values[node.output[0]] = y
        return blocks, y


def tensor(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5).contiguous()


def difference(seer, made, was):
    """How differently a network sees two batches: in its blocks, relative to their mean size, and in what it says (temperature 2)."""
    with torch.no_grad():
        expected, said = seer(was)
    blocks, says = seer(made)
    apart = sum(F.l1_loss(b, e) / e.abs().mean() for b, e in zip(blocks, expected)) / len(blocks)
    said, says = (torch.log_softmax(logits.float() / 2, 1) for logits in (said, says))
    return apart + F.kl_div(says, said, log_target=True, reduction="batchmean")


def teach(network, pairs, steps, rate, seers=()):
    """Adam with a cosine. The mean absolute error; with `seers`, ten times that and what they see, taking turns."""
    optimizer = torch.optim.Adam(network.parameters())
    seen = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, step / 50) * (0.5 + 0.5 * np.cos(np.pi * step / steps)) + 1e-6
        was, now = map(tensor, pairs.ready.get())
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(seers)):
            made = network(now)
            error = loss = F.l1_loss(made, was)
            if seers:
                loss = 10 * error + difference(seers[step % len(seers)], made, was)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        seen.append((loss.item(), 255 * error.item(), 255 * F.l1_loss(now, was).item()))
        if (step + 1) % 200 == 0:
            loss, left, before = np.mean(seen, 0)
            print(f"step {step + 1} of {steps}: loss {loss:.4f}, values are off by {left:.2f}, by {before:.2f} before", flush=True)
            seen = []


def judge(network, seers, held, source):
    """What the float networks see of `held` images, compressed and restored, and of every tenth thousand of the training images."""
    hidden = np.stack([compressed(np.ascontiguousarray(image)) for image in held])
    labels = np.array((source / "train_labels.txt").read_text().split(), int).reshape(-1, ROWS * COLUMNS)[::10].ravel()
    with torch.no_grad():
        was, made = tensor(held), network(tensor(hidden))
        training = [network(tensor(sheet(f))) for f in sorted(source.glob("train_*.webp"))[::10]]
        print(f"held-out images: values are off by {255 * F.l1_loss(made, was).item():.2f}")
        for name, seer in seers.items():
            said, says = (torch.log_softmax(seer(images)[1], 1) for images in (was, made))
            same = (said.argmax(1) == says.argmax(1)).float().mean().item()
            apart = F.kl_div(says, said, log_target=True, reduction="batchmean").item()
            right = (np.concatenate([seer(images)[1].argmax(1).numpy() for images in training]) == labels).mean()
            print(f"  {name} says the same of {same:.1%}, divergence {apart:.2f}; right on {right:.1%} of training images", flush=True)


def write_training_images(network, source, folder):
    folder.mkdir(exist_ok=True)
    for path in sorted(source.glob("train_*.webp")):
        with torch.no_grad():
            values = network(tensor(sheet(path))).numpy().transpose(0, 2, 3, 1) + 0.5
        write_sheet((values * 255).round().clip(0, 255).astype(np.uint8), folder / path.name)
    (folder / "train_labels.txt").write_text((source / "train_labels.txt").read_text())
    print(f"wrote {folder}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, default=HERE.parents[2] / "shared/data", help="the folder with cifar10, cifar100, imagenet_sample")
    parser.add_argument("--models", type=pathlib.Path, default=HERE.parents[2] / "shared/models", help="the folder with resnet20_cifar10.onnx, resnet56_cifar10.onnx")
    parser.add_argument("--steps", type=int, default=2860, help="steps in which the restoring network learns from errors of values, 64 images each")
    parser.add_argument("--seeing-steps", type=int, default=2000, help="and then from what the float networks see")
    args = parser.parse_args()
    torch.manual_seed(0)
    photographs = [Image.open(f).convert("RGB") for f in sorted((args.data / "imagenet_sample").glob("*.jpg"))]

    crops = HERE / "crops"
    crops.mkdir(exist_ok=True)
    random = np.random.default_rng(1)
    for part in range(30):
        images = []
        for i in range(ROWS * COLUMNS):
            image = piece(photographs[i % len(photographs)], random, (0.08, 1.0), 0.2)
            images.append(image[:, ::-1] if random.random() < 0.5 else image)
        write_sheet(np.stack(images), crops / f"train_{part:02d}.webp")
    (crops / "train_labels.txt").write_text("0\n" * 30_000)

    clean = np.concatenate([sheet(f) for f in sorted((args.data / "cifar100").glob("test_*.webp"))])
    pairs, held, network = Pairs(clean[:-1000], photographs), clean[-1000:], Restorer()
    seers = {f"ResNet-{depth}": Seer(args.models / f"resnet{depth}_cifar10.onnx") for depth in (20, 56)}
    training = args.data / "cifar10"
    judge(nn.Identity(), seers, held, training)
    teach(network, pairs, args.steps, 1e-3)
    judge(network, seers, held, training)
    write_training_images(network, training, HERE / "restored")
    teach(network, pairs, args.seeing_steps, 2e-4, list(seers.values()))
    judge(network, seers, held, training)
    write_training_images(network, training, HERE / "seen")


if __name__ == "__main__":
    main()
