"""What a terminal shows during long work; saving and stopping a comparison meanwhile."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from batchwright._format import one_line
from batchwright.cli.output import report_console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from batchwright.compare import Comparison
    from batchwright.compare.arm import Arm
    from batchwright.compare.race import Race

_DRAW_EVERY = 0.2
_WIDEST_LABEL = 60
_SAVE_EVERY = 20.0
_SAVING_SHARE = 0.03
"""Of the time, which saving may take."""


class StopError(Exception):
    """The user has interrupted a comparison, to keep what was measured."""


class Watch:
    """Shows turns, saves now and then, and stops once the user interrupts.

    Args:
        bars: Where turns are shown. None: nowhere.
        keep: Saves the comparison.
        interrupted: Not empty once the user has interrupted.
    """

    def __init__(
        self, bars: Progress | None, keep: Callable[[], None], interrupted: list[bool]
    ) -> None:
        self._bars, self._keep, self._interrupted = bars, keep, interrupted
        self._rows: dict[tuple[int, str], TaskID] = {}
        self._drawn = time.monotonic()
        self._save_at = self._drawn + _SAVE_EVERY
        self._whole: TaskID | None = None

    def __call__(self, comparison: Comparison, race: Race, arm: Arm) -> None:
        """Look at a turn that is over; raise `StopError` if the user has interrupted."""
        now = time.monotonic()
        wants_end = bool(self._interrupted)
        if self._bars is not None and now - self._drawn > _DRAW_EVERY:
            self._draw(comparison, race)
            self._drawn = now
        if wants_end or now > self._save_at:
            comparison.unfinished, comparison.state = race.outcomes(), race.state_dict()
            if wants_end:
                raise StopError
            self._keep()
            comparison.state = None
            saved = time.monotonic()
            self._save_at = saved + max(_SAVE_EVERY, (saved - now) / _SAVING_SHARE)

    def _draw(self, comparison: Comparison, race: Race) -> None:
        assert self._bars is not None  # noqa: S101 -- only called where there are some
        metric_name = one_line(race.task.metric, _WIDEST_LABEL)
        for arm in race.arms:
            key = (race.seed, arm.name)
            if key not in self._rows:
                label = one_line(f"{arm.name}, seed {race.seed}", _WIDEST_LABEL)
                self._rows[key] = self._bars.add_task(label, total=1.0, said="")
            metric = arm.evaluations[-1].metric if arm.evaluations and not arm.dense else None
            said = f"{arm.tokens_per_second:9,.0f} tokens/s"
            said += "" if metric is None else f"  {metric_name} {metric:.4g}"
            self._bars.update(self._rows[key], completed=arm.progress, said=said)
        if self._whole is None:
            self._whole = self._bars.add_task("all runs", total=1.0, said="")
        share = (len(comparison.runs) + race.share_done()) / len(comparison.seeds)
        self._bars.update(self._whole, completed=share)
        self._bars.refresh()


@contextmanager
def live_bars() -> Iterator[Progress | None]:
    """Make bars that are drawn only between turns, where drawing takes no time from any arm."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = report_console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Progress(
        TextColumn("{task.description:18}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[said]}", markup=False),
        console=console,
        auto_refresh=False,
        transient=True,
    ) as bars:
        yield bars


@contextmanager
def live_status() -> Iterator[Callable[[str, float], None]]:
    """Show on a terminal what is under way, and the share of it that is done."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    with report_console(stderr=True).status("") as shown:

        def show(text: str, share: float) -> None:
            shown.update(f"{text} {share:.0%}" if share else f"{text} ...")

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

    def ask(*_: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    before = {each: signal.signal(each, ask) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
