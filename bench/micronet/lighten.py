#!/usr/bin/env python3
"""Makes the winner of the MicroNet challenge lighter, without labels: fewer and cheaper operations, fewer and narrower parameters.

    python bench/micronet/lighten.py CHECKPOINT OUT.onnx --calibrate ../shared/data/cifar10 [--images 96] [--price 0]

Images of another data set (CIFAR-10, training set) show what layers see; labels are not read. The steps, layer by layer from the
input to the output, each against what the original network has at the same place:

1. Pixels enter as integers of eight bits, and a block's results stay the sums of its convolutions, which are integers: their scale
   is folded into the scales of the layers that read them.
2. Channels that a layer has no weight for are not scaled for it: what it reads is chosen first (`Gather`).
3. `scale · x + bias` becomes `scale · (x + bias)` with a whole bias, which an integer adder adds, and a scale of eight bits (E4M3),
   both chosen by what rounds to the same four-bit values most often. Behind a 1×1 convolution they are the bias and
   scale of its requantization.
4. Averaging 2×2 commutes with a 1×1 convolution: done before it, a quarter of the products is left.
5. The last scale commutes with ReLU and averaging: done behind them, 1/64 of the products is left.
6. Weights are fitted to what the layer gave before, now that its input has changed, by integer coordinate descent on the layer's
   second moments; a weight must be worth `--price` times what it costs in the score (sparse, rounded least squares: OBS with
   a price in place of a number of weights; Hassibi and Stork 1993, Frantar and Alistarh 2022).

Needs `pip install numpy onnx==1.21.0 pillow`.
"""
import argparse
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import data
from checkpoint import load
from network import BLOCKS, LAYERS, MEAN, STD, Builder, finish

# Pixels are normalized to what 64 steps a unit leave in eight bits.
STEP, REACH = 1 / 64, 1.08
SAMPLES = 2048
BASELINE = 36.5e6 * 32, 10.49e9 * 32


def convolve(w, x):
    """A convolution with stride 1 that keeps the size. w: out, in, k, k; x: channels, images, rows, columns."""
    return (w.reshape(len(w), -1) @ columns(x, w.shape[2])).reshape(len(w), *x.shape[1:])


def columns(x, k):
    """What each position of the output sees: channels · k · k rows."""
    if k == 1:
        return x.reshape(len(x), -1)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, cols = x.shape[2:]
    taps = [padded[:, :, i : i + rows, j : j + cols].reshape(len(x), -1) for i in range(3) for j in range(3)]
    return np.stack(taps, 1).reshape(len(x) * 9, -1)


def per_channel(v, x):
    return np.asarray(v, np.float32).reshape(-1, *[1] * (x.ndim - 1))


def quantized(x):
    return np.clip(np.rint(x), 0, 15)


def averaged(x):
    c, n, h, w = x.shape
    return x.reshape(c, n, h // 2, 2, w // 2, 2).sum((3, 5))


def e4m3(scale):
    """The values of three mantissa bits at and around each of `scale`: candidates × channels."""
    unit = np.exp2(np.floor(np.log2(np.abs(scale))) - 3)
    below = np.floor(np.abs(scale) / unit) * unit
    return np.sign(scale) * np.stack([below - unit, below, below + unit, below + 2 * unit])


def affine(scale, bias, x, y, rng):
    """Scales of eight bits and whole biases with `round(scale · (x + bias))` closest to y: both channels × values."""
    take = rng.choice(x.shape[1], min(SAMPLES, x.shape[1]), replace=False)
    x, y = x[:, take], y[:, take]
    # The line is held where the values are that are not cut off.
    weight = ((y > 0) & (y < 15)) + 1e-3
    middle = (x * weight).sum(1) / weight.sum(1)
    best = np.full(len(scale), np.inf)
    found = np.zeros((2, len(scale)))
    for s in e4m3(scale):
        center = np.rint((scale * middle + bias) / s - middle)
        for b in (center - 1, center, center + 1):
            made = quantized(s[:, None].astype(np.float32) * (x + b[:, None].astype(np.float32)))
            error = ((made - y) ** 2).mean(1)
            better = error < best
            best = np.where(better, error, best)
            found[:, better] = s[better], b[better]
    return found


def fit(weights, x, target, price, sweeps=12):
    """Integer weights −8 … 7 with `weights · x` close to target: minimizes the mean of (error / deviation)² over channels plus `price`
    for each weight that is not zero. weights: channels × inputs; x: inputs × samples; target: channels × samples."""
    w = weights.astype(np.float64)
    h = (x @ x.T).astype(np.float64)
    r = (target @ x.T).astype(np.float64) - w @ h
    diagonal = np.maximum(h.diagonal(), 1e-9)
    spread = np.maximum(((target - target.mean(1, keepdims=True)) ** 2).sum(1), 1e-9) * len(w)
    for _ in range(sweeps):
        changed = 0
        for j in np.flatnonzero(h.diagonal() > 0):
            exact = w[:, j] + r[:, j] / diagonal[j]
            whole = np.clip(np.rint(exact), -8, 7)
            gain = diagonal[j] * (exact**2 - (whole - exact) ** 2) / spread
            new = np.where(gain > price, whole, 0)
            step = new - w[:, j]
            if step.any():
                r -= step[:, None] * h[j]
                w[:, j] = new
                changed += int((step != 0).sum())
        if not changed:
            break
    w[:, h.diagonal() == 0] = 0
    return w.astype(np.float32)


class Lighter:
    """Walks through the network with what the original has (`x`) and what the lighter one has (`r`, integers) on the same images."""

    def __init__(self, tensors, images, price, seed=0):
        self.t, self.price, self.rng = tensors, price, np.random.default_rng(seed)
        self.g = Builder(False)
        self.kept = self.before = 0
        normal = (images / 255 - np.float32(MEAN).reshape(-1, 1, 1, 1)) / np.float32(STD).reshape(-1, 1, 1, 1)
        self.x, self.r = normal / 255, np.clip(np.rint(normal / (REACH * STEP)), -128, 127)

    def flat(self, name):
        return self.t[name].reshape(-1).astype(np.float32)

    def scaled(self, name, x):
        return x * per_channel(self.flat(f"{name}.weight"), x) + per_channel(self.flat(f"{name}.bias"), x)

    def refit(self, name, seen, target, positions):
        """Weights for what is seen now (channels, images, rows, columns), fitted to the sums there were."""
        old = self.t[f"{name}.weight"].astype(np.float32)
        if self.price is None:
            return old
        sees = columns(seen, old.shape[2])
        take = self.rng.choice(sees.shape[1], min(40000, sees.shape[1]), replace=False)
        # A multiplication of four bits, an addition of about nine, four bits of storage.
        cost = positions * 13 / BASELINE[1] + 4 / BASELINE[0]
        new = fit(old.reshape(len(old), -1), sees[:, take], target.reshape(len(old), -1)[:, take], self.price * cost)
        self.before += np.count_nonzero(old)
        self.kept += np.count_nonzero(new)
        return new.reshape(old.shape)

    def weights(self, name, array, scale):
        """Integers of four bits that stand for reals."""
        g = self.g
        ints = g.constant(f"{name}.int", array.astype(np.int8), TensorProto.INT4)
        zero = g.constant(f"{name}.zero", np.zeros(np.shape(scale), np.int8), TensorProto.INT4)
        unit = g.constant(f"{name}.unit", np.float32(scale))
        return g.node("DequantizeLinear", [ints, unit, zero], name, axis=0)

    def bias(self, name, array, scale):
        g = self.g
        ints = g.constant(f"{name}.int", array.astype(np.int32))
        return g.node("DequantizeLinear", [ints, g.constant(f"{name}.unit", np.float32(scale))], name, axis=0)

    def four_bits(self, x, name, scale=1.0):
        g = self.g
        unit = g.constant(f"{name}.unit", np.float32(scale))
        zero = g.constant(f"{name}.zero", np.zeros((), np.uint8), TensorProto.UINT4)
        q = g.node("QuantizeLinear", [x, unit, zero], f"{name}.int")
        return g.node("DequantizeLinear", [q, unit, zero], f"{name}.real")

    def entry(self, node, name, alpha, old):
        """Scale and quantization of the stream before a layer with the weights `old`: the node, its quantization unit, what the layer sees and which channels
        those are; and what the original sees."""
        g = self.g
        reference = quantized(self.scaled(f"{name}.scale1", self.x))
        used = np.flatnonzero((old != 0).any(axis=(0, 2, 3)))
        s, b = self.flat(f"{name}.scale1.weight")[used] * alpha[used], self.flat(f"{name}.scale1.bias")[used]
        flat = self.r[used].reshape(len(used), -1)
        s, b = affine(s, b, flat, reference[used].reshape(len(used), -1), self.rng)
        return reference, used, s.astype(np.float32), b.astype(np.float32)

    def emit_entry(self, node, name, channels, s, b):
        g = self.g
        if len(channels) < len(self.r):
            at = g.constant(f"{name}.channels", channels.astype(np.int64))
            node = g.node("Gather", [node, at], f"{name}.chosen", axis=1)
        # The unit is a power of two with which the scales are in the range of E4M3.
        unit = np.exp2(np.floor(np.log2(448 / np.abs(s).max())))
        node = g.node("Add", [node, g.constant(f"{name}.bias1", b.reshape(1, -1, 1, 1))], f"{name}.added")
        scale = g.constant(f"{name}.scale1", (s * unit).reshape(1, -1, 1, 1).astype(np.float32))
        node = g.node("Mul", [node, scale], f"{name}.scaled")
        return self.four_bits(node, f"{name}.quant1", unit), unit

    def bottleneck(self, node, name, alpha):
        g, positions = self.g, self.r.shape[2] * self.r.shape[3]
        old = self.t[f"{name}.conv1.weight"]
        reference, used, s, b = self.entry(node, name, alpha, old)
        sees = quantized(per_channel(s, self.r) * (self.r[used] + per_channel(b, self.r)))
        sums = convolve(old.astype(np.float32), reference)
        full = np.zeros_like(reference)
        full[used] = sees
        w = self.refit(f"{name}.conv1", full, sums, positions)
        keep = (w != 0).any(axis=(0, 2, 3))[used]
        used, s, b, sees = used[keep], s[keep], b[keep], sees[keep]
        w = w[:, used]
        node, unit = self.emit_entry(node, name, used, s, b)
        # The scale behind the first convolution is that of its requantization, its bias that of its sums.
        reference = quantized(self.scaled(f"{name}.scale2", sums))
        sums = convolve(w, sees)
        s2, b2 = affine(self.flat(f"{name}.scale2.weight"), self.flat(f"{name}.scale2.bias"), sums.reshape(len(sums), -1), reference.reshape(len(sums), -1), self.rng)
        inputs = [node, self.weights(f"{name}.conv1.weight", w, s2 / unit), self.bias(f"{name}.conv1.bias", b2, s2)]
        node = self.four_bits(g.node("Conv", inputs, f"{name}.conv1"), f"{name}.quant2")
        sees = quantized(per_channel(s2, sums) * (sums + per_channel(b2, sums)))
        sums = convolve(self.t[f"{name}.conv2.weight"].astype(np.float32), reference)
        w = self.refit(f"{name}.conv2", sees, sums, positions)
        node = g.node("Conv", [node, self.weights(f"{name}.conv2.weight", w, 1.0)], f"{name}.conv2", pads=[1] * 4)
        return node, self.scaled(f"{name}.scale3", sums), convolve(w, sees), self.flat(f"{name}.scale3.weight")

    def transition(self, node, name, alpha):
        g, positions = self.g, self.r.shape[2] * self.r.shape[3] // 4
        old = self.t[f"{name}.conv1.weight"]
        reference, used, s, b = self.entry(node, name, alpha, old)
        sees = averaged(quantized(per_channel(s, self.r) * (self.r[used] + per_channel(b, self.r))))
        sums = convolve(old.astype(np.float32), averaged(reference))
        full = np.zeros((len(reference), *sees.shape[1:]), np.float32)
        full[used] = sees
        w = self.refit(f"{name}.conv1", full, sums, positions)
        keep = (w != 0).any(axis=(0, 2, 3))[used]
        used, s, b, sees, w = used[keep], s[keep], b[keep], sees[keep], w[:, used[keep]]
        node, unit = self.emit_entry(node, name, used, s, b)
        node = g.averaged(node, f"{name}.pool", unit)
        node = g.node("Conv", [node, self.weights(f"{name}.conv1.weight", w, 4 / unit)], f"{name}.conv1")
        scale = self.flat(f"{name}.scale2.weight")
        self.x, self.r = sums / 4 * per_channel(scale, sums), convolve(w, sees)
        return node, scale / 4

    def head(self, node, alpha):
        g = self.g
        s, b = self.flat("scale2.weight") * alpha, self.flat("scale2.bias")
        if (s <= 0).any():
            raise ValueError("scale2: a scale that is not positive does not commute with ReLU")
        node = g.node("Add", [node, g.constant("head.bias", np.rint(b / s).reshape(1, -1, 1, 1).astype(np.float32))], "head.added")
        node = g.node("GlobalAveragePool", [g.node("Relu", [node], "head.relu")], "head.pool")
        node = g.node("Flatten", [node], "head.features", axis=1)
        node = g.node("Mul", [node, g.constant("head.scale", s.reshape(1, -1).astype(np.float16).astype(np.float32))], "head.scaled")
        node = g.node("MatMul", [node, g.weights("fc.weight", self.t["fc.weight"].T, 6)], "fc")
        half = lambda n: g.constant(n, self.t[n].reshape(1, -1).astype(np.float16).astype(np.float32))
        return g.node("Add", [g.node("Mul", [node, half("scale3.weight")], "scaled"), half("scale3.bias")], "logits")

    def build(self):
        g = self.g
        step = g.constant("step", np.float32(STEP))
        none = g.constant("none", np.int8(0))
        node = g.node("QuantizeLinear", ["image", step, none], "pixels")
        node = g.node("DequantizeLinear", [node, step, none], "pixels.real")
        w = self.t["conv1.weight"]
        node = g.node("Conv", [node, self.weights("conv1.weight", w, 1 / STEP)], "conv1", pads=[1] * 4)
        alpha = self.flat("scale1.weight") * (REACH * STEP / 255)
        w = w.astype(np.float32)
        self.x, self.r = self.scaled("scale1", convolve(w, self.x)), convolve(w, self.r)
        for b in range(1, BLOCKS + 1):
            for i in range(LAYERS):
                name = f"dense{b}.{i}"
                new, x, r, scale = self.bottleneck(node, name, alpha)
                node = g.node("Concat", [node, new], f"{name}.concat", axis=1)
                self.x, self.r = np.concatenate([self.x, x]), np.concatenate([self.r, r])
                alpha = np.concatenate([alpha, scale])
                error = ((per_channel(scale, r) * r - x) ** 2).mean() / (x**2).mean()
                print(f"{name}: {10 * np.log10(1 / error):.1f} dB, {self.kept} of {self.before} weights", flush=True)
            if b < BLOCKS:
                node, alpha = self.transition(node, f"trans{b}", alpha)
        std = [s * REACH for s in STD]
        return finish(g, self.head(node, alpha), "densenet100_lighter", std)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("output")
    parser.add_argument("--calibrate", type=pathlib.Path, required=True, help="a folder of mosaics, as ../shared/data/cifar10")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--price", type=float, help="what a weight must be worth, relative to its cost in the score")
    args = parser.parse_args()
    tiles, _ = data.cifar10_images(args.calibrate, "train", args.images)
    images = np.stack([np.asarray(tile, np.float32) for tile in tiles]).transpose(3, 0, 1, 2)
    onnx.save(Lighter(load(args.checkpoint), images, args.price).build(), args.output)


if __name__ == "__main__":
    main()
