"""Tables and sections of bench/RESULTS.md. Standard library only."""
import platform
import subprocess


def cpu_name():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
        if line.startswith("cpu family"):
            family = line.split(":", 1)[1].strip()
    return f"{name} (family {family})" if "name" in locals() else platform.processor()


def instruction_set():
    """The widest vectors of this machine's processor that kernels are written for, as `qing` names them; "scalar" where it has none."""
    flags = next((line.split() for line in open("/proc/cpuinfo") if line.startswith(("flags", "Features"))), [])
    known = {"avx512": "avx512bw", "avx2": "avx2", "neon": "asimd"}
    return next((name for name, flag in known.items() if flag in flags), "scalar")


def commit():
    """The commit that is measured; `+` where files differ from it."""
    told = subprocess.run(["git", "describe", "--always", "--dirty=+", "--exclude=*"], capture_output=True, text=True)
    return told.stdout.strip() or "unknown"


def write_section(path, name, text):
    """Replaces the text between this section's markers, or appends the section."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    old = path.read_text() if path.exists() else "# Results\n\nWritten by the scripts beside this file; compare only numbers of one table.\n"
    section = f"{begin}\n{text}\n{end}"
    if begin in old and end in old:
        old = old[: old.index(begin)] + section + old[old.index(end) + len(end):]
    else:
        old = f"{old.rstrip()}\n\n{section}\n"
    path.write_text(old)


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows), ""]
