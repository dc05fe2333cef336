"""Counts what bench_lowbit executes on an emulated Arm processor and estimates the time that takes on named cores.

Usage: tables.py PROGRAM PLUGIN OBJDUMP MCA

PROGRAM is the example built for aarch64, PLUGIN count.c as a shared library, OBJDUMP reads Arm programs, MCA is llvm-mca. Prints the
tables of `bench/lowbit neon`.

Time in an emulator says nothing of time on silicon. What is exact are the instructions that a run executes. Cycles are what
llvm-mca's model of a core needs for each executed block again and again, times its executions: data always comes from the
first-level cache and branches are always foretold.
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

# Instruction set of the kernels, model of llvm-mca, and the core that it is the model of.
SETS = [
    ("neon", "cortex-a72", "Cortex-A72"),
    ("neon-dotprod", "neoverse-n1", "Neoverse N1, of which Cortex-A76 is the mobile sister"),
    ("neon-i8mm", "neoverse-n2", "Neoverse N2, of which Cortex-A710 is the mobile sister"),
]
ITERATIONS = 100
# The part of all executed instructions whose blocks are modelled; the rest is taken to be as fast.
MODELLED = 0.995


class Model:
    """Cycles of blocks on a core."""

    def __init__(self, program: str, objdump: str, mca: str, core: str):
        self.mca, self.core, self.known = mca, core, {}
        listing = subprocess.run(
            [objdump, "-d", "--no-show-raw-insn", program], capture_output=True, text=True, check=True
        ).stdout
        self.code = {}
        for line in listing.splitlines():
            found = re.match(r"\s*([0-9a-f]+):\s+(\S.*)", line)
            if found:
                self.code[int(found[1], 16)] = self.plain(found[2])

    @staticmethod
    def plain(text: str) -> str:
        """An instruction as an assembler reads it: addresses become some number, comments go."""
        text = re.sub(r"\s*//.*", "", text)
        far = "4096" if text.startswith("adrp") else "8"
        return re.sub(r"\b(0x)?[0-9a-f]+ <[^>]*>", far, text)

    def cycles(self, address: int, count: int) -> float | None:
        key = (address, count)
        if key not in self.known:
            lines = [self.code.get(address + 4 * i, "nop") for i in range(count)]
            done = subprocess.run(
                [self.mca, "-mtriple=aarch64", f"-mcpu={self.core}", "-mattr=+dotprod,+i8mm", f"-iterations={ITERATIONS}"],
                input="\n".join(lines), capture_output=True, text=True,
            )
            found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
            if not found:
                print(f"not modelled, {count} instructions at {address:x}: {done.stderr.strip()[:200]}", file=sys.stderr)
            self.known[key] = int(found[1]) / ITERATIONS if found else None
        return self.known[key]

    def estimate(self, blocks: Counter) -> tuple[int, float]:
        """Instructions of a run, and its cycles."""
        size = {key: key[1] * executions for key, executions in blocks.items()}
        total = sum(size.values())
        seen, cycles = 0, 0.0
        for key, instructions in sorted(size.items(), key=lambda item: -item[1]):
            if seen > MODELLED * total:
                break
            own = self.cycles(*key)
            if own is not None:
                seen += instructions
                cycles += own * blocks[key]
        return total, cycles * total / seen


def run(program: str, plugin: str, isa: str) -> tuple[list[list[str]], list[Counter]]:
    """The titles of what ran, and the executed blocks of each run."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "blocks"
        command = ["qemu-aarch64", "-cpu", "max", "-plugin", f"{plugin},to={log}", program, "1", isa, "count"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        runs: list[Counter] = []
        for line in log.read_text().splitlines():
            if line == "mark":
                runs.append(Counter())
            else:
                address, count, executions = line.split()
                runs[-1][int(address, 16), int(count)] += int(executions)
    return [line.split("\t") for line in done.stdout.splitlines()], runs


def main() -> None:
    program, plugin, objdump, mca = sys.argv[1:]
    for isa, core, name in SETS:
        titles, runs = run(program, plugin, isa)
        model = Model(program, objdump, mca, core)
        at = 0
        rows = {"planes": [], "narrow": [], "vector": []}
        for kind, *title, contestants in titles:
            counted = [model.estimate(blocks) for blocks in runs[at : at + int(contestants)]]
            at += int(contestants)
            rows[kind].append((title, counted))
        if at != len(runs):
            raise SystemExit(f"{len(runs)} runs were counted, {at} were announced")
        print(f"\n**{isa}**, cycles by the model of {name}.\n")
        print("3×3 convolutions over bit planes, from planes to planes, in thousands:\n")
        print("| layer | weights × activations | int8 instructions | planes | ratio | int8 cycles | planes | ratio | bytes to bytes |")
        print("|---|---|---|---|---|---|---|---|---|")
        for (layer, bits), [int8, planes, through] in rows["planes"]:
            print(f"| {layer} | {bits} | {against(int8, planes)} | {int8[1] / through[1]:.2f} |")
        print("\n3×3 convolutions of bytes by weights that stay packed, in thousands:\n")
        print("| layer | weights | int8 instructions | packed | ratio | int8 cycles | packed | ratio | memory of weights |")
        print("|---|---|---|---|---|---|---|---|---|")
        for (layer, width, memory), [int8, packed] in rows["narrow"]:
            print(f"| {layer} | {width} | {against(int8, packed)} | {memory} |")
        print("\nOne row times 4096 × 4096 weights, in thousands; the last column is the ratio where memory binds:\n")
        print("| weights | instructions | cycles | ratio | bytes of weights a cycle | of the bytes |")
        print("|---|---|---|---|---|---|")
        [([sizes], counted)] = rows["vector"]
        sizes = [int(size) for size in sizes.strip("[]").split(",")]
        for weights, size, (instructions, cycles) in zip(
            ["int8", "4-bit", "4-bit, groups of 128", "2-bit", "ternary"], sizes, counted
        ):
            print(
                f"| {weights} | {instructions / 1e3:.0f} | {cycles / 1e3:.0f} | **{counted[0][1] / cycles:.2f}** "
                f"| {size / cycles:.1f} | {sizes[0] / size:.2f} |"
            )


def against(int8: tuple[int, float], few: tuple[int, float]) -> str:
    """Columns of both, with the ratios."""
    return (
        f"{int8[0] / 1e3:.0f} | {few[0] / 1e3:.0f} | {int8[0] / few[0]:.2f} "
        f"| {int8[1] / 1e3:.0f} | {few[1] / 1e3:.0f} | **{int8[1] / few[1]:.2f}**"
    )


if __name__ == "__main__":
    main()
