"""Padding, tokens a second and length mix in each line that a trainer logs of its training."""

import time
from collections.abc import Callable
from typing import Any

from batchwright.resume import Course
from batchwright.stats.running import Figures, RunningFigures


class LoggedFigures:
    """Adds figures of the updates since the last line; what the names mean says `metrics.of`.

    They are of all ranks, and come from the plan: nothing is communicated. Times include everything
    but evaluation. Stands in place of a trainer's `log` and `evaluate`, and calls these.

    Args:
        trainer: As constructed.
        position: How far training is: what it goes through, and how many of its batches each
            rank has trained on. None: not known yet.
    """

    def __init__(self, trainer: Any, position: Callable[[], tuple[Course, int] | None]) -> None:
        self._original = {name: getattr(trainer, name) for name in self.methods()}
        self._position = position
        self._course: Course | None = None
        self._running: RunningFigures | None = None
        self._measured = 0  # batches of the course
        self._figures: list[tuple[Figures, int]] = []  # of so many updates
        self._since: float | None = None

    def methods(self) -> dict[str, Any]:
        """Return the methods by the names that the trainer's have."""
        return {name: getattr(self, name) for name in ("log", "evaluate")}

    def begin(self) -> None:
        """Start the clock, at the beginning of training."""
        self._since, self._figures, self._course = time.perf_counter(), [], None

    def measure(self) -> None:
        """Measure what has been trained on since the last time; also at the end of each epoch."""
        found = self._position()
        if found is None:
            return
        course, done = found
        if course is not self._course:
            self._course, self._running, self._measured = course, course.running(), 0
        if self._running is not None and done > self._measured:
            updates = -(-(done - self._measured) // course.leg.accumulate)
            self._figures.append((self._running.of(self._measured, done), updates))
            self._measured = done

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Log a line, of training with figures."""
        if "loss" in logs and self._since is not None:
            self.measure()
            logs = {**logs, **self._line(self._since)}
        self._original["log"](logs, *args, **options)

    def evaluate(self, *args: Any, **options: Any) -> Any:
        """Evaluate, off the clock."""
        begin = time.perf_counter()
        try:
            return self._original["evaluate"](*args, **options)
        finally:
            if self._since is not None:
                self._since += time.perf_counter() - begin

    def _line(self, since: float) -> dict[str, float]:
        figures, self._figures = self._figures, []
        now = self._since = time.perf_counter()
        if not figures:
            return {}
        tokens, padded = (sum(each[of] for each, _ in figures) for of in (0, 1))
        updates = sum(many for _, many in figures)
        return {
            "padding": 1 - tokens / padded,
            "tokens": tokens / updates,
            "tokens_per_second": tokens / (now - since),
            "dispersion": sum(each.dispersion * many for each, many in figures) / updates,
        }
