#!/usr/bin/env python3
"""A step of training, forward, backward and update, by qing and by PyTorch, in turns.

    python3 bench/train/run.py                 # two minutes; installs PyTorch below target/train the first time
    python3 bench/train/run.py --write         # … and puts it into bench/RESULTS.md

Both train the same network (the residual networks of 8 and 20 layers, random images of 32×32, batch 128, SGD with momentum 0.9 and weight
decay) in processes that stay; a round gives each engine some seconds in random order. PyTorch's tensors are channels-last. Memory is
the peak of a process's resident memory over that before the network was made, with the framework loaded.
"""
import argparse
import datetime
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import venv

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
TORCH = "torch==2.15.0"


def memory(field):
    for line in open("/proc/self/status"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def pytorch(name, batch, threads):
    """The other side: a line of JSON for every number of seconds on standard input."""
    import time

    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(1)

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.a = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.norm_a = nn.BatchNorm2d(outputs)
            self.b = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.norm_b = nn.BatchNorm2d(outputs)
            self.relu = nn.ReLU(inplace=True)
            self.straight = nn.Identity()
            if stride != 1:
                self.straight = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

        def forward(self, x):
            y = self.norm_b(self.b(self.relu(self.norm_a(self.a(x)))))
            return self.relu(y + self.straight(x))

    blocks = {"resnet8": 1, "resnet20": 3}[name]
    layers, inputs = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)], 16
    for stage, width in enumerate((16, 32, 64)):
        for block in range(blocks):
            layers.append(Block(inputs, width, 2 if stage > 0 and block == 0 else 1))
            inputs = width
    # What importing and starting the framework takes is not counted against it.
    torch.zeros(1).add_(1)
    before = memory("VmRSS")
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, foreach=True)
    images = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))
    criterion = nn.CrossEntropyLoss()

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    step()
    for line in sys.stdin:
        start, steps = time.monotonic(), 0
        while time.monotonic() - start < float(line):
            loss, steps = step(), steps + 1
        speed = steps * batch / (time.monotonic() - start)
        print(json.dumps({"images_per_second": speed, "peak_bytes": memory("VmHWM") - before, "loss": loss}), flush=True)


def install():
    """A Python that has PyTorch: this one, or one below target."""
    if subprocess.run([sys.executable, "-c", f"import torch; assert 'torch=='+torch.__version__.split('+')[0] == '{TORCH}'"], capture_output=True).returncode == 0:
        return sys.executable
    folder = TARGET / "train/venv"
    python = folder / "bin/python"
    if not (folder / "installed").exists():
        print(f"installing {TORCH}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", TORCH, "numpy"], check=True)
        (folder / "installed").write_text(TORCH)
    return str(python)


class Engine:
    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self, seconds):
        print(seconds, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args[0]} ended with status {self.process.wait()}")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", default=["resnet8", "resnet20"], choices=["resnet8", "resnet20"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--write", action="store_true", help="write bench/RESULTS.md")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT / "bench"))
    import markdown

    python = install()
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "qing-train", "--example", "bench_step"], cwd=ROOT, check=True)
    rows, load = [], os.getloadavg()[0]
    for name in args.networks:
        for threads in args.threads:
            about = [name, str(args.batch), str(threads)]
            engines = {"qing": Engine([TARGET / "release/examples/bench_step", *about]), "PyTorch": Engine([python, __file__, "--child", *about])}
            measured = {engine: [] for engine in engines}
            for engine in engines.values():
                engine.measure(0.2)
            for round_ in range(args.rounds):
                for engine in random.sample(list(engines), len(engines)):
                    measured[engine].append(engines[engine].measure(args.seconds))
            for engine in engines.values():
                engine.close()
            speed = {e: [m["images_per_second"] for m in ms] for e, ms in measured.items()}
            peak = {e: max(m["peak_bytes"] for m in ms) for e, ms in measured.items()}
            ratio = statistics.median(q / p for q, p in zip(speed["qing"], speed["PyTorch"]))
            rows.append([name, str(threads), *(f"{statistics.median(speed[e]):.0f}" for e in engines), f"{ratio:.2f}",
                         *(f"{peak[e] / 1e6:.0f}" for e in engines), f"{peak['qing'] / peak['PyTorch']:.2f}"])
            print(rows[-1], file=sys.stderr, flush=True)
    head = ["network", "threads", "qing images/s", "PyTorch images/s", "ratio (wanted ≥ 1.2)", "qing peak MB", "PyTorch peak MB", "ratio (wanted ≤ 0.5)"]
    text = "\n".join([
        "## Training", "",
        f"{datetime.date.today()}, {markdown.cpu_name()}, load {load:.1f} at the start. Forward, backward and update (SGD with momentum), 32×32 images, "
        f"batch {args.batch}; {TORCH.replace('==', ' ')}, channels-last. {args.rounds} rounds of {args.seconds:g} s each in turns; ratios are medians over the rounds.", "",
        *markdown.table(head, rows), "`python3 bench/train/run.py --write`"])
    print(text)
    if args.write:
        markdown.write_section(ROOT / "bench/RESULTS.md", "train", text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        pytorch(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
