"""The peers: what must be installed for each, the file each runs, and the command that measures it."""
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
from dataclasses import dataclass

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
WORK = TARGET / "peers"
MODELS, FEEDS, RUST = WORK / "models", WORK / "feeds", WORK / "rust"
# The converter to LiteRT needs a newer Python and other versions of some packages.
CONVERTER = WORK / "convert/bin/python"
# One thread for whatever numpy is linked with; the engines are told their number of threads themselves.
# NNCF reports usage unless it believes to be tested.
QUIET = {"OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "CI": "true", "NNCF_CI": "1", "RUST_BACKTRACE": "0"}


@dataclass(frozen=True)
class Engine:
    """`precisions` are those it is measured at; `own` int8 is made by its own tools from the float network."""

    title: str
    package: str | None = None
    precisions: tuple = ("fp32", "int8")
    own: bool = False
    rust: bool = False


ENGINES = {
    "onnxruntime": Engine("ONNX Runtime", "onnxruntime"),
    "openvino": Engine("OpenVINO", "openvino"),
    "openvino_nncf": Engine("OpenVINO NNCF", "openvino", ("int8",), own=True),
    "ncnn": Engine("ncnn", "ncnn", ("fp32",)),
    "mnn": Engine("MNN", "mnn", ("fp32",)),
    "litert": Engine("LiteRT", "ai-edge-litert", own=True),
    "tract": Engine("tract", "tract-onnx", rust=True),
    "rten": Engine("rten", "rten", rust=True),
}


class Unavailable(Exception):
    """Why an engine cannot run a network."""


def run(command, timeout=900, **environment):
    """The output of a command; its last line of error as `Unavailable` if it fails."""
    try:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout, errors="replace",
                              env=os.environ | QUIET | environment)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"took more than {timeout} s") from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Unavailable(lines[-1].strip()[:300] if lines else f"exit status {done.returncode}")
    return done.stdout


def onnx_file(network, precision):
    """The ONNX file that qing and all engines without a converter of their own run."""
    path = MODELS / (f"{network}.onnx" if precision == "fp32" else f"{network}_int8.onnx")
    if precision == "int8" and not path.exists():
        run([sys.executable, HERE / "quantize.py", "static", MODELS / f"{network}.onnx", path, ROOT.parent / "shared/data"])
    return path


def convert(engine, network, precision, path):
    """Makes the file `path` that `engine` runs."""
    source, data = MODELS / f"{network}.onnx", ROOT.parent / "shared/data"
    if engine == "openvino_nncf":
        run([sys.executable, HERE / "quantize.py", "nncf", source, path, data])
    elif engine == "litert":
        if not CONVERTER.exists():
            raise Unavailable("its converter needs Python 3.12 or newer")
        if precision == "int8":
            model_file(engine, network, "fp32")
        run([CONVERTER, HERE / "convert.py", "litert" if precision == "fp32" else "litert_int8", source, path, data])
    else:
        run([sys.executable, HERE / "convert.py", engine, source, path, data])
    if not path.exists():
        raise Unavailable("the converter wrote nothing")


def model_file(engine, network, precision):
    """The file that `engine` runs, converted if it is not there yet; `Unavailable` if that fails, remembered in a file beside it."""
    suffixes = {"openvino_nncf": "_nncf.xml", "ncnn": ".param", "mnn": ".mnn", "litert": f"_{precision}.tflite"}
    if engine not in suffixes:
        return onnx_file(network, precision)
    path = MODELS / f"{network}{suffixes[engine]}"
    failed = path.with_name(path.name + ".failed")
    if not path.exists():
        if failed.exists():
            raise Unavailable(failed.read_text())
        try:
            convert(engine, network, precision, path)
        except Unavailable as reason:
            failed.write_text(f"not converted: {reason}")
            raise Unavailable(f"not converted: {reason}") from None
    return path


def child(engine, file, network, threads, seconds, output):
    """The command that measures an engine of `child.py` once and prints JSON; `network` may be any folder of inputs."""
    return [sys.executable, HERE / "child.py", engine, file, FEEDS / network, "--threads", threads, "--seconds", seconds, "--output", output]


def command(engine, file, network, threads, seconds, output):
    """The command that measures `engine` once and prints JSON."""
    if ENGINES[engine].rust:
        return [RUST / f"release/peer-{engine}", file, FEEDS / network, threads, seconds, output]
    return child(engine.removesuffix("_nncf"), file, network, threads, seconds, output)


def requirements(package, seen=None):
    """A Python package and all that it needs, by name."""
    seen = set() if seen is None else seen
    name = re.sub(r"[-_.]+", "-", package).lower()
    if name in seen:
        return seen
    try:
        needs = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return seen
    seen.add(name)
    for need in needs:
        if "extra ==" not in need:
            requirements(re.match(r"[A-Za-z0-9._-]+", need).group(), seen)
    return seen


def installed_bytes(engine):
    """What must be on the disk to run `engine`: the package with all it requires, without Python; a Rust engine's stripped program."""
    if ENGINES[engine].rust:
        return (RUST / f"release/peer-{engine}").stat().st_size
    total = 0
    for name in requirements(ENGINES[engine].package):
        for file in importlib.metadata.files(name) or []:
            path = file.locate()
            if path.is_file() and path.suffix != ".pyc":
                total += path.stat().st_size
    return total


def version(engine):
    if ENGINES[engine].rust:
        manifest = (HERE / "rust/Cargo.toml").read_text()
        return re.search(rf'^{ENGINES[engine].package} = .*?"=([\d.]+)"', manifest, re.M).group(1)
    return importlib.metadata.version(ENGINES[engine].package)
