"""One planner in an environment of its own, told what to do line by line.

Runs where only NumPy and the peer are installed, so it imports nothing of this repository. Each
line on standard input is a request of JSON, each line on standard output its answer:

\b
{"do": "prepare", "adapter": FILE, "lengths": FILE.npy, "setting": {...}}  → versions
{"do": "plan", "turn": 0, "keep": FILE.npz or null}                        → seconds, bytes

An adapter is a file with ``DISTRIBUTION``, whose version is told (or ``VERSION``), and
``planner(lengths, setting)``, which returns a function of the turn. That function is what is timed:
the peer's own call, from lengths in the form that the peer wants them to its result. What turns the
result into batches, ``batches(planned)``, is not timed; without it a plan is a list of batches.
"""

import gc
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path

import numpy as np

WARM_UP = 1_000
"""So many lengths are planned before anything counts: imports inside functions, compilers."""


class Session:
    """The adapter and lengths that the last `prepare` named."""

    def prepare(self, adapter: str, lengths: str, setting: dict) -> dict:
        self.plan = None  # what the last one held is free again
        self.adapter = _module(Path(adapter))
        every = np.load(lengths)
        self.adapter.planner(every[:WARM_UP], setting)(0)
        self.plan = self.adapter.planner(every, setting)
        return {
            "version": _version(self.adapter),
            "python": platform.python_version(),
            "numpy": np.__version__,
        }

    def plan_once(self, turn: int, keep: str | None) -> dict:
        """Time one plan. Collections of garbage are the peer's, those of before are not."""
        gc.collect()
        before = _start_of_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        planned = self.plan(turn)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        peak = _peak() - before
        if keep is not None:
            to_batches = getattr(self.adapter, "batches", lambda planned: planned)
            indices, offsets = flat(to_batches(planned))
            np.savez(keep, indices=indices, offsets=offsets)
        return {"seconds": wall, "cpu_seconds": cpu, "peak_bytes": max(peak, 0)}


def flat(batches: object) -> tuple[np.ndarray, np.ndarray]:
    """Return batches as two arrays: a list of sequences of samples, or the arrays themselves."""
    if isinstance(batches, tuple):
        return batches
    batches = list(batches)
    sizes = np.fromiter(map(len, batches), dtype=np.int64, count=len(batches))
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    samples = itertools.chain.from_iterable(batches)
    return np.fromiter(samples, dtype=np.int64, count=int(offsets[-1])), offsets


def main() -> None:
    """Answer requests until standard input ends."""
    # What a peer prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    session = Session()
    for line in sys.stdin:
        request = json.loads(line)
        does = {"prepare": session.prepare, "plan": session.plan_once}[request.pop("do")]
        try:
            answer = does(**request)
        except (Exception, SystemExit) as error:  # noqa: BLE001 -- whatever a peer raises is told
            # One line, without a path of this machine.
            said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            answer = {"error": said.replace(sys.prefix, "…")[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _module(path: Path) -> object:
    spec = importlib.util.spec_from_file_location(f"adapter_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _version(adapter: object) -> str:
    told = getattr(adapter, "VERSION", None)
    return told or importlib.metadata.version(adapter.DISTRIBUTION)


def _start_of_peak() -> int:
    """Forget the peak so far, where the system can, and return the memory in use, in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return _peak()
    return _status("VmRSS")


def _peak() -> int:
    if Path("/proc/self/status").is_file():
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
