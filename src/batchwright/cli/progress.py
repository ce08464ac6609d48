"""Shows the progress of long work on a terminal; saves and stops a comparison."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchwright._format import duration, one_line

if TYPE_CHECKING:
    from batchwright.compare import Comparison
    from batchwright.compare.arm import RaceArm
    from batchwright.compare.race import Race

_DRAW_EVERY = 0.2
_WIDEST_NAME = 30
_SAVE_EVERY = 20.0
_SAVING_SHARE = 0.03
"""Of the time, which saving may take."""

Show = Callable[[str, float], None]
"""Shows what is under way, and the share of it that is done."""


class StopError(Exception):
    """The user has interrupted a comparison, to keep what was measured."""


class Watch:
    """Shows turns, saves now and then, and stops once `interrupted` is not empty."""

    def __init__(self, show: Show, keep: Callable[[], None], interrupted: list[bool]) -> None:
        self._show, self._keep, self._interrupted = show, keep, interrupted
        self._drawn = self._begun = time.monotonic()
        self._save_at = self._begun + _SAVE_EVERY
        self._done_before: float | None = None

    def __call__(self, comparison: Comparison, race: Race, arm: RaceArm) -> None:
        """Look at a turn that is over; raise `StopError` if the user has interrupted."""
        now = time.monotonic()
        if now - self._drawn > _DRAW_EVERY:
            self._drawn = now
            self._show(*self._said(comparison, race))
        if self._interrupted or now > self._save_at:
            comparison.unfinished, comparison.state = race.outcomes(), race.state_dict()
            if self._interrupted:
                raise StopError
            self._keep()
            comparison.state = None
            saved = time.monotonic()
            self._save_at = saved + max(_SAVE_EVERY, (saved - now) / _SAVING_SHARE)

    def _said(self, comparison: Comparison, race: Race) -> tuple[str, float]:
        done = (len(comparison.runs) + race.share_done()) / len(comparison.seeds)
        speeds = (
            f"{one_line(each.name, _WIDEST_NAME)} {each.tokens_per_second:,.0f}"
            for each in race.arms
        )
        said = f"seed {race.seed}, tokens/s: {', '.join(speeds)}"
        if self._done_before is None:
            self._done_before = done
        elif done > self._done_before:
            left = (self._drawn - self._begun) * (1 - done) / (done - self._done_before)
            said += f"; {duration(left)} left"
        return f"{said}; all runs", done


@contextmanager
def live_status() -> Iterator[Show]:
    """Show on a terminal what is under way; drawn only when called, between turns."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:

        def show(text: str, share: float) -> None:
            live.update(Text(f"{text} {share:.0%}" if share else f"{text} ..."), refresh=True)

        yield show


@contextmanager
def status(text: str) -> Iterator[None]:
    """Show on a terminal what takes a while."""
    with live_status() as show:
        show(text, 0.0)
        yield


@contextmanager
def interruptible() -> Iterator[list[bool]]:
    """Let the first Ctrl-C stop after this turn, and the second at once."""
    asked: list[bool] = []

    def ask(*_: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    before = {each: signal.signal(each, ask) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
