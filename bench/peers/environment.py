"""Installs what the comparison needs below target/peers: nothing outside the build folder changes. Standard library only."""
import hashlib
import os
import pathlib
import subprocess
import sys
import venv

from engines import ENGINES, HERE, ROOT, RUST, WORK

# pnnx is a program of its own; what its package asks for (PyTorch) serves another use.
ALONE = ["pnnx==20261020"]


def python():
    return WORK / "venv/bin/python"


def inside():
    return pathlib.Path(sys.prefix).resolve() == (WORK / "venv").resolve()


def say(text):
    print(text, file=sys.stderr, flush=True)


def install():
    """The Python peers in an environment of their own, made again when the list of them changes."""
    wanted = (HERE / "requirements.txt").read_text() + "\n".join(ALONE)
    stamp = WORK / "venv/installed"
    digest = hashlib.sha256(wanted.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    say("installing the Python peers")
    venv.create(WORK / "venv", with_pip=True, clear=True)
    pip = [python(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", HERE / "requirements.txt"], check=True)
    subprocess.run([*pip, "--no-deps", *ALONE], check=True)
    stamp.write_text(digest)


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


def build_qing():
    """qing itself and the yardstick of the machine's peak."""
    say("building qing")
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "qing-cli"], cwd=ROOT, check=True)
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "qing-kernels", "--example", "peak"], cwd=ROOT, check=True)
