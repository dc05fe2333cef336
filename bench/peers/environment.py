"""Installs what the comparison needs below target/peers: nothing outside the build folder changes. Standard library only."""
import hashlib
import os
import pathlib
import subprocess
import sys
import venv

from engines import CONVERTER, ENGINES, HERE, ROOT, RUST, WORK

# pnnx is a program of its own; what its package asks for (PyTorch) serves another use.
ALONE = ["pnnx==20261020"]


# One after the other: the first two pin different versions of the same runtime, and work with the later one's.
CONVERTER_NEEDS = ["onnx2tf==2.6.9", "ai-edge-quantizer==0.10.0", "pillow==13.0.0"]


def python():
    return WORK / "venv/bin/python"


def inside():
    return pathlib.Path(sys.prefix).resolve() == (WORK / "venv").resolve()


def say(text):
    print(text, file=sys.stderr, flush=True)


def current(folder, wanted):
    """Whether an environment holds what is wanted."""
    stamp = folder / "installed"
    return stamp.exists() and stamp.read_text() == hashlib.sha256(wanted.encode()).hexdigest()


def finished(folder, wanted):
    (folder / "installed").write_text(hashlib.sha256(wanted.encode()).hexdigest())


def install():
    """The Python peers in an environment of their own, made again when the list of them changes."""
    folder = WORK / "venv"
    wanted = (HERE / "requirements.txt").read_text() + "\n".join(ALONE)
    if current(folder, wanted):
        return
    say("installing the Python peers")
    venv.create(folder, with_pip=True, clear=True)
    pip = [python(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", HERE / "requirements.txt"], check=True)
    subprocess.run([*pip, "--no-deps", *ALONE], check=True)
    finished(folder, wanted)


def newer_python():
    """A Python of at least 3.12, or None."""
    versions = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv")) / "versions"
    candidates = [sys.executable, "python3.12", "python3.13", *sorted(versions.glob("3.1[23]*/bin/python"))]
    for candidate in candidates:
        try:
            if subprocess.run([candidate, "-c", "import sys; sys.exit(sys.version_info < (3, 12))"], capture_output=True).returncode == 0:
                return candidate
        except OSError:
            pass
    return None


def install_converter():
    """What makes LiteRT's files, in an environment of its own."""
    folder, wanted = CONVERTER.parents[1], "\n".join(CONVERTER_NEEDS)
    if current(folder, wanted):
        return
    newer = newer_python()
    if newer is None:
        return
    say("installing the converter to LiteRT")
    subprocess.run([newer, "-m", "venv", "--clear", folder], check=True)
    for package in CONVERTER_NEEDS:
        subprocess.run([CONVERTER, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package], check=True)
    finished(folder, wanted)


def build_rust(engines):
    """The Rust peers, one program each. Returns the reason for those that do not build."""
    reasons = {}
    for engine in engines:
        if ENGINES[engine].rust:
            say(f"building {engine}")
            done = subprocess.run(["cargo", "build", "--release", "--quiet", "--features", engine, "--bin", f"peer-{engine}"], cwd=HERE / "rust",
                                  env=os.environ | {"CARGO_TARGET_DIR": str(RUST)}, stderr=subprocess.PIPE, text=True)
            if done.returncode:
                errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
                reasons[engine] = f"not built: {(errors or ['cargo failed'])[-1]}"
    return reasons


def build_qing(itself):
    """The yardstick of the machine's peak and, unless one is given, qing."""
    say("building qing" if itself else "building the yardstick of the machine's peak")
    for what in [["-p", "qing-cli"]] * itself + [["-p", "qing-kernels", "--example", "peak"]]:
        subprocess.run(["cargo", "build", "--release", "--quiet", *what], cwd=ROOT, check=True)
