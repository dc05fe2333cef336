"""Tables of what was measured, as Markdown."""
import datetime
import os
import pathlib
import statistics
import sys

from engines import ENGINES, TARGET, Unavailable, installed_bytes, run, version
from networks import NETWORKS

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from markdown import commit, cpu_name, instruction_set, table, write_section  # noqa: E402

# The least ratio of the fastest peer's time to qing's that the project is held to: fp32, int8.
TARGETS = {
    "mobilenetv2": (1.15, 1.3), "efficientnet_lite0": (1.15, 1.3), "resnet18": (1.05, 1.05), "resnet50": (1.05, 1.05),
    "yolov8n": (1.1, 1.2), "espcn": (1.05, 1.1), "srvgg": (1.05, 1.1), "dscnn": (1.5, 1.5), "minilm": (1.05, 1.1),
}
QING = "qing"


def digits(ms):
    return f"{ms:.3f}" if ms < 1 else f"{ms:.2f}" if ms < 100 else f"{ms:.0f}"


def megabytes(n):
    return f"{n / 1e6:.0f} MB" if n >= 1e7 else f"{n / 1e6:.1f} MB"


class Row:
    """What is known of one network, precision and number of threads."""

    def __init__(self, log, row):
        self.network, self.precision, self.threads = row
        self.times = {}
        for m in log.row("time", row):
            self.times.setdefault(m["engine"], {})[m["round"]] = m

    def median(self, engine, key):
        return statistics.median(m[key] for m in self.times[engine].values())

    def memory(self, engine):
        return statistics.median(m["peak_memory_bytes"] - m["base_memory_bytes"] for m in self.times[engine].values())

    def ratio(self, engine, key=None):
        """Median over the rounds of the engine's time to qing's in the same round; None without a common round."""
        key = key or ("cpu" if self.threads == 1 else "wall")
        ours = self.times.get(QING, {})
        pairs = [m[key] / ours[r][key] for r, m in self.times[engine].items() if r in ours]
        return statistics.median(pairs) if pairs else None

    def best(self, engine):
        """The least wall time of any run of the engine to the least of qing: what a loaded machine disturbs least."""
        least = {e: min(m["best"] for m in self.times[e].values()) for e in (engine, QING)}
        return least[engine] / least[QING]

    def fastest(self):
        """The peer with the least ratio, or None."""
        peers = [(self.ratio(e), e) for e in self.times if e != QING and self.ratio(e)]
        return min(peers)[1] if peers else None

    def of_peak(self, engine, peaks):
        """Share of the peak of `threads` cores."""
        time = self.median(engine, "cpu") if self.threads == 1 else self.median(engine, "wall") * self.threads
        return f"{100 * NETWORKS[self.network].gflop * 1e12 / time / peaks[self.precision]:.0f} %"


def summary(rows, peaks):
    lines = []
    for r in rows:
        if QING not in r.times:
            continue
        peer = r.fastest()
        cells = [NETWORKS[r.network].title, r.precision, str(r.threads), digits(r.median(QING, "cpu")), digits(r.median(QING, "wall"))]
        if peer:
            goal = TARGETS[r.network][r.precision == "int8"]
            got = r.ratio(peer)
            cells += [ENGINES[peer].title, digits(r.median(peer, "cpu")), digits(r.median(peer, "wall")), f"**{got:.2f}**" if got >= goal else f"{got:.2f}",
                      f"{goal:.2f}", f"{r.best(peer):.2f}", r.of_peak(QING, peaks), r.of_peak(peer, peaks)]
        else:
            cells += ["none measured", "", "", "", "", "", r.of_peak(QING, peaks), ""]
        lines.append(cells)
    return table(["network", "precision", "threads", "qing CPU ms", "wall ms", "fastest peer", "CPU ms", "wall ms", "ratio", "wanted", "of best runs",
                  "qing, of peak", "peer, of peak"], lines)


def everyone(rows, engines, precision, threads):
    """CPU and wall medians and the ratio of every engine at one precision and number of threads."""
    lines = []
    engines = [e for e in engines if precision in ENGINES[e].precisions]
    for r in rows:
        if (r.precision, r.threads) != (precision, threads) or QING not in r.times:
            continue
        cells = [NETWORKS[r.network].title, f"{digits(r.median(QING, 'cpu'))} / {digits(r.median(QING, 'wall'))}"]
        for e in engines:
            ratio = r.ratio(e) if e in r.times else None
            cells.append(f"{digits(r.median(e, 'cpu'))} / {digits(r.median(e, 'wall'))} ({ratio:.2f})" if ratio else "")
        lines.append(cells)
    return table(["network", "qing", *(ENGINES[e].title for e in engines)], lines) if lines else []


def costs(rows, engines, precision):
    """Loading and memory, one thread."""
    lines = []
    engines = [QING, *(e for e in engines if precision in ENGINES[e].precisions)]
    for r in rows:
        if r.precision == precision and r.threads == 1:
            cells = [f"{r.median(e, 'load_ms'):.0f} / {r.memory(e) / 1e6:.0f}" if e in r.times else "" for e in engines]
            lines.append([NETWORKS[r.network].title, *cells])
    return table(["network", *(ENGINES[e].title if e != QING else e for e in engines)], lines) if lines else []


def qing_bytes(qing):
    """The size of the program without its symbols."""
    stripped = TARGET / "peers/qing-stripped"
    try:
        run(["strip", "-o", stripped, qing])
        return stripped.stat().st_size
    except (Unavailable, OSError):
        return qing.stat().st_size


def section_name():
    """Where the tables stand in RESULTS.md: each instruction set has its own, so that one machine's do not replace the other's."""
    return "peers" if instruction_set() == "avx512" else f"peers-{instruction_set()}"


def render(comparison, load):
    log, args = comparison.log, comparison.args
    rows = [Row(log, row) for row in comparison.rows()]
    peaks = {p: max((m[p] for m in log.lines if m["kind"] == "peak"), default=float("nan")) for p in ("fp32", "int8")}
    rounds = 1 + max((m["round"] for m in log.lines if m["kind"] == "time"), default=-1)
    out = [
        f"## qing and its peers{'' if instruction_set() == 'avx512' else f', {instruction_set()}'}", "",
        f"Commit {commit()}, {datetime.date.today().isoformat()}, {cpu_name()}, {os.cpu_count()} cores, load {load:.1f} at the start. Peak of one core, measured between the rows: "
        f"fp32 {peaks['fp32'] / 1e9:.0f} GFLOP/s, int8 {peaks['int8'] / 1e9:.0f} GOP/s. Batch 1; {rounds} rounds of interleaved fresh processes of {args.seconds} s; "
        "medians. Ratio: the peer's time to qing's in the same round, median over the rounds, above 1 where qing is faster; CPU time for one thread, wall time for two. "
        "Bold: as wanted. Of best runs: the ratio of the least wall time of any run, which other load on the machine disturbs least. Of peak: operations of the network as it is defined, so Winograd convolution can exceed 100 %.", "",
        *summary(rows, peaks),
    ]
    for precision in args.precisions:
        for threads in args.threads:
            lines = everyone(rows, args.engines, precision, threads)
            if lines:
                out += [f"### All engines, {precision}, {threads} thread{'s' * (threads > 1)}: CPU / wall ms (ratio)", "", *lines]
    for precision in args.precisions:
        lines = costs(rows, args.engines, precision)
        if lines:
            out += [f"### {precision}: ms to load / MB of peak resident memory more than before loading", "", *lines]
    out += ["### What must be installed", ""]
    sizes = [["qing", "this checkout", f"{megabytes(qing_bytes(comparison.qing))} (the command-line program, stripped)"]]
    for e in args.engines:
        if e != "openvino_nncf":
            try:
                sizes.append([ENGINES[e].title, version(e), megabytes(installed_bytes(e)) + (" (a program with it alone)" if ENGINES[e].rust else "")])
            except OSError:
                pass
    out += table(["engine", "version", "size"], sizes)
    checked, worst = [m for m in log.lines if m["kind"] == "checked"], {}
    for m in checked:
        key = (m["engine"], m["precision"])
        if key not in worst or m["apart"] / m["allowed"] > worst[key]["apart"] / worst[key]["allowed"]:
            worst[key] = m
    if worst:
        out += ["### Agreement: the largest deviation of each engine, and what it may be", "",
                "The root mean square of the difference over that of the reference, for one input; `bench/peers/check.py` says why which bound.", "",
                *table(["engine", "precision", "network", "from", "deviation", "allowed"],
                       [[ENGINES[e].title, p, NETWORKS[m["network"]].title, m["of"], f"{m['apart']:.1e}", f"{m['allowed']:.1e}"] for (e, p), m in worst.items()])]
    missing = {}
    for (network, precision, engine), reason in comparison.reasons.items():
        missing.setdefault((engine, precision, reason), []).append(network)
    for m in log.lines:
        if m["kind"] == "failed" and m["network"] in args.networks:
            name = m["network"] if m["threads"] == 1 else f"{m['network']} ({m['threads']} threads)"
            names = missing.setdefault((m["engine"], m["precision"], m["reason"]), [])
            if name not in names:
                names.append(name)
    if missing:
        out += ["### Not measured", ""]
        for (engine, precision, reason), names in sorted(missing.items()):
            title = ENGINES[engine].title if engine in ENGINES else engine
            out.append(f"- {title}, {precision}: {', '.join(names)}: {reason}")
        out.append("")
    for e in args.engines:
        if ENGINES[e].precisions == ("fp32",):
            out.append(f"{ENGINES[e].title} is compared in fp32 alone: its int8 is another set of tools and formats.")
    return "\n".join(out).rstrip()
