"""Times taken in turns, so that what slows the machine slows all that is compared."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

PERMUTATION = "Generator.permutation(n)"
COUNTING_ARGSORT = "counting argsort"

Task = Callable[[int], object]


@dataclass(frozen=True)
class Ratio:
    """How many times as long something takes as something else, over rounds of both."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, seconds: list[float], yardstick: list[float]) -> "Ratio":
        """Divide round by round."""
        ratios = [a / b for a, b in zip(seconds, yardstick, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f} to {self.most:.2f})"


@dataclass(frozen=True)
class Times:
    """Seconds of every round of every task.

    Attributes:
        seconds: Name → seconds of the processor, round by round: others that use the core count
            for little.
        at_work: How much of the time the processor worked on it; less than 1 where other
            processes took the core away. None: unknown.
    """

    seconds: dict[str, list[float]]
    at_work: float | None = None

    def median(self, task: str) -> float:
        return statistics.median(self.seconds[task])

    def ratio(self, task: str, yardstick: str) -> Ratio:
        return Ratio.of(self.seconds[task], self.seconds[yardstick])


def in_turns(
    tasks: Mapping[str, Task], *, rounds: int, advance: Callable[[], object] | None = None
) -> Times:
    """Run tasks one after the other, round after round.

    Args:
        tasks: Name → what to time; it is given the number of the round. A result is freed
            after the clock was read.
        rounds: How often each runs, after one round that does not count.
        advance: Called after each task.

    Returns:
        Seconds of the processor that each takes.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    wall = process = 0.0
    for turn in range(-1, rounds):
        for name, task in tasks.items():
            start, process_start = time.perf_counter(), time.process_time()
            result = task(max(turn, 0))
            elapsed = time.process_time() - process_start
            if turn >= 0:
                seconds[name].append(elapsed)
                wall += time.perf_counter() - start
                process += elapsed
            del result
            if advance is not None:
                advance()
    return Times(seconds, min(1.0, process / wall))


def yardsticks(lengths: np.ndarray) -> dict[str, Task]:
    """Return what planning is measured by: a plain shuffle, and a sort that only counts.

    The counting argsort is NumPy's radix sort of 16-bit integers, ``kind="stable"``; lengths
    beyond 16 bits take two passes of it, low digits first.
    """
    rng = np.random.default_rng(0)
    low, high = (lengths & 0xFFFF).astype(np.uint16), (lengths >> 16).astype(np.uint16)
    two_passes = bool(high.any())

    def counting_argsort(_: int) -> np.ndarray:
        order = np.argsort(low, kind="stable")
        return order[np.argsort(high[order], kind="stable")] if two_passes else order

    return {
        PERMUTATION: lambda _: rng.permutation(lengths.size),
        COUNTING_ARGSORT: counting_argsort,
    }


def import_times(
    modules: tuple[str, ...], *, rounds: int, advance: Callable[[], object] | None = None
) -> Times:
    """Time imports in fresh interpreters, in turns; the start of the interpreter is left out."""
    seconds: dict[str, list[float]] = {module: [] for module in modules}
    for turn in range(-1, rounds):
        for module in modules:
            elapsed = _import_seconds(module)
            if turn >= 0:
                seconds[module].append(elapsed)
            if advance is not None:
                advance()
    return Times(seconds)


def _import_seconds(module: str) -> float:
    code = (
        "import time; start = time.process_time()\n"
        f"import {module}\n"
        "print(time.process_time() - start)"
    )
    # What is timed is an import of compiled modules, so compiling them must be allowed.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return float(done.stdout)
