"""The machine that a figure was taken on: what it is, how busy, and one core of it.

Needs the standard library only, so that any script may load it by its path.
"""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

Facts = dict[str, str | int | float | bool | None]


def facts() -> Facts:
    """Describe the machine and what runs on it: no host name, no user, no path."""
    return {
        "cpu": cpu_model(),
        "bf16_units": has_bf16_units(),
        "cores": os.cpu_count(),
        "memory_gib": memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": importlib.metadata.version("numpy"),
    }


def circumstances() -> Facts:
    """Say when, from which sources and beside how much other work a figure was taken."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        **sources(),
        # Runnable processes, over the last minute. Above the cores, timings are disturbed.
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def cpu_model() -> str:
    """Name the processor as the system does."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def has_bf16_units() -> bool:
    """Say whether matrices are multiplied in bf16 by the processor itself, and not emulated.

    `ONEDNN_MAX_CPU_ISA=AVX512_CORE` has them emulated on any processor: so both can be measured.
    """
    limited = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in {"AVX2", "AVX512_CORE"}
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text(encoding="utf-8").split()) if info.is_file() else set()
    return not limited and bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def memory_gib() -> float | None:
    """Return the machine's memory in GiB; None where the system does not tell."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def available_bytes() -> int | None:
    """Return the memory that a new process could take; None where the system does not tell."""
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def sources() -> Facts:
    """Return the commit, and whether files outside the results differ from it."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return {"commit": None, "modified": None}
    changed = _git("status", "--porcelain", "--", "src", "benchmarks", ":!benchmarks/results")
    return {"commit": commit, "modified": bool(changed)}


@contextmanager
def one_core() -> Iterator[bool]:
    """Keep this process, and those that it starts, on a single core while the block runs.

    Yields:
        Whether the system allows that.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes started here
    if not hasattr(os, "sched_setaffinity"):
        yield False
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield True
    finally:
        os.sched_setaffinity(0, before)


def _git(*arguments: str) -> str | None:
    # Without optional locks, so as not to get in the way of a commit being made.
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
