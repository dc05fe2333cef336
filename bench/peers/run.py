#!/usr/bin/env python3
"""qing beside its peers: one command that installs them, makes the networks, runs all interleaved and writes the comparison.

    python3 bench/peers/run.py                                   # everything: 20 minutes after the first time
    python3 bench/peers/run.py --networks dscnn minilm --engines onnxruntime openvino --rounds 3
    python3 bench/peers/run.py --write                           # … and puts it into bench/RESULTS.md

A round measures every row (network, precision, threads) with every engine in random order, each in a fresh short process that loads the
network, warms up and times it for --seconds; ratios are taken within a round, their median is reported. What an engine computes is compared
with qing before its times count. After two rounds engines that are 1.4 times behind the fastest peer of their row are left out of further
ones (--all keeps them). Every measurement is appended to a file below target/peers as it is made: a run that is interrupted goes on
where it was, for the same qing and the same --seconds; --fresh begins anew, --report measures nothing.
"""
import argparse
import hashlib
import json
import os
import pathlib
import random
import statistics
import sys
import time

from engines import ENGINES, FEEDS, MODELS, ROOT, TARGET, WORK, Unavailable, command, model_file, onnx_file, run
import environment

PRECISIONS = ("fp32", "int8")
# How far behind the fastest peer of a row an engine may be to be measured in more than two rounds.
BEHIND, SURE = 1.4, 2


def arguments():
    from networks import NETWORKS

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS, metavar="NAME", help=" ".join(NETWORKS))
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES, metavar="NAME", help=" ".join(ENGINES))
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="how long a process times its network")
    parser.add_argument("--qing", type=pathlib.Path, help="a built qing; default: build it")
    parser.add_argument("--all", action="store_true", help="slow engines in every round")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured and not converted before")
    parser.add_argument("--report", action="store_true", help="only report what is measured already")
    parser.add_argument("--write", action="store_true", help="write bench/RESULTS.md")
    return parser.parse_args()


class Log:
    """Measurements, one JSON object a line, kept for one qing and one duration."""

    def __init__(self, qing, seconds, fresh):
        digest = hashlib.sha256(qing.read_bytes() + str(seconds).encode()).hexdigest()[:12]
        self.path = WORK / f"measured-{digest}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            self.path.unlink(missing_ok=True)
        self.lines = []
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                self.lines.append(json.loads(line))
            except ValueError:  # the last line of an interrupted run
                pass

    def add(self, **entry):
        self.lines.append(entry)
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def row(self, kind, row):
        return [m for m in self.lines if m["kind"] == kind and (m["network"], m["precision"], m["threads"]) == row]


def parsed(text):
    return json.loads(text[text.index("{"):])


class Comparison:
    def __init__(self, args, qing, log, unavailable):
        self.args, self.qing, self.log, self.shuffle = args, qing, log, random.Random(time.time_ns())
        self.files, self.reasons = {}, {}
        for network in list(args.networks):
            for precision in args.precisions:
                for engine in args.engines:
                    key = (network, precision, engine)
                    if precision not in ENGINES[engine].precisions:
                        continue
                    try:
                        if engine in unavailable:
                            raise Unavailable(unavailable[engine])
                        self.files[key] = model_file(engine, network, precision)
                    except Unavailable as reason:
                        self.reasons[key] = str(reason)
                        environment.say(f"{network} {precision} {engine}: {reason}")

    def rows(self):
        return [(n, p, t) for n in self.args.networks for p in self.args.precisions for t in self.args.threads]

    def engines(self, row):
        """The peers that are measured in the next round of a row."""
        network, precision, _ = row
        names = [e for e in self.args.engines if (network, precision, e) in self.files]
        times = {}
        for m in self.log.row("time", row):
            times.setdefault(m["engine"], []).append(cost(m, row))
        failed = {m["engine"] for m in self.log.row("failed", row)}
        names = [e for e in names if e not in failed]
        fastest = min((min(times[e]) for e in names if e in times), default=0)
        return [e for e in names if self.args.all or len(times.get(e, [])) < SURE or min(times[e]) <= BEHIND * fastest]

    def measure(self, row, engine, round_):
        """One process; its output is checked the first time."""
        import check

        network, precision, threads = row
        about = {"network": network, "precision": precision, "threads": threads, "engine": engine, "round": round_}
        output = WORK / "output.bin"
        output.unlink(missing_ok=True)
        try:
            if engine == "qing":
                got = parsed(run([self.qing, "bench", onnx_file(network, precision), "--threads", threads, "--seconds", self.args.seconds, "--json"]))
            else:
                file = self.files[network, precision, engine]
                got = parsed(run(command(engine, file, network, threads, self.args.seconds, output), timeout=120))
                if not any(m["engine"] == engine for m in self.log.row("checked", row)):
                    apart, allowed, of = check.deviation(self.qing, engine, network, precision, threads, output)
                    if not apart <= allowed:
                        raise Unavailable(f"deviates from {of} by {apart:.1e}, more than {allowed:.1e}")
                    self.log.add(kind="checked", **about, apart=apart, allowed=allowed, of=of)
        except (Unavailable, ValueError, KeyError) as reason:
            self.log.add(kind="failed", **about, reason=str(reason))
            environment.say(f"{network} {precision} {threads} {engine}: {reason}")
            return
        keep = ("load_ms", "peak_memory_bytes", "base_memory_bytes", "runs")
        self.log.add(kind="time", **about, wall=got["latency_ms"]["median"], best=got["latency_ms"]["min"], cpu=got["cpu_ms"]["median"], **{k: got[k] for k in keep})

    def round(self, round_):
        rows = self.rows()
        self.shuffle.shuffle(rows)
        begin = time.monotonic()
        for at, row in enumerate(rows):
            done = {m["engine"] for kind in ("time", "failed") for m in self.log.row(kind, row) if m["round"] == round_}
            todo = [e for e in ["qing", *self.engines(row)] if e not in done]
            self.shuffle.shuffle(todo)
            for engine in todo:
                self.measure(row, engine, round_)
            if todo:
                peak = parsed(run([TARGET / "release/examples/peak", 0.05]))
                self.log.add(kind="peak", network=None, precision=None, threads=1, fp32=peak["fp32"], int8=peak["int8"])
            took = time.monotonic() - begin
            environment.say(f"round {round_ + 1}/{self.args.rounds}, row {at + 1}/{len(rows)}: {' '.join(map(str, row))} "
                            f"({took:.0f} s, {took / (at + 1) * (len(rows) - at - 1):.0f} s left in this round)")


def cost(m, row):
    """What a row is judged by: CPU time of one thread, wall time of more."""
    return m["cpu"] if row[2] == 1 else m["wall"]


def main():
    # The environment first: everything after it may import what it holds.
    if not environment.inside():
        if "-h" not in sys.argv and "--help" not in sys.argv:
            environment.install()
        if environment.python().exists():
            os.execv(environment.python(), [str(environment.python()), *sys.argv])
    args = arguments()
    unavailable = {} if args.report else environment.build_rust(args.engines)
    if "litert" in args.engines and not args.report:
        environment.install_converter()
    if not args.report:
        environment.build_qing(itself=args.qing is None)
    qing = (args.qing or TARGET / "release/qing").resolve()
    for folder in (MODELS, FEEDS):
        folder.mkdir(parents=True, exist_ok=True)
    if args.fresh:
        for marker in MODELS.glob("*.failed"):
            marker.unlink()

    import networks
    import report

    missing = [n for n in args.networks if networks.prepare(n, MODELS, FEEDS, ROOT.parent / "shared") is None]
    for name in missing:
        environment.say(f"{name}: {networks.NETWORKS[name].source} is not in ../shared/models, left out")
        args.networks.remove(name)
    log = Log(qing, args.seconds, args.fresh)
    comparison = Comparison(args, qing, log, unavailable)
    load = os.getloadavg()[0]
    if not args.report:
        for round_ in range(args.rounds):
            comparison.round(round_)
    text = report.render(comparison, load)
    print(text)
    if args.write:
        report.write_section(ROOT / "bench/RESULTS.md", report.section_name(), text)


if __name__ == "__main__":
    main()
