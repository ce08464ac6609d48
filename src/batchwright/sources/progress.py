"""A progress bar on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from batchwright._format import printable
from batchwright.errors import MissingExtraError

Advance: TypeAlias = Callable[[float], None]
"""Takes the fraction of the work that is done."""

_PATIENCE_SECONDS = 1.0


@contextmanager
def progress_bar(description: str, *, show: bool | None = None) -> Iterator[Advance]:
    """Show a bar while the block runs, and remove it from a terminal afterwards.

    With `show=True` the bar is shown at once, with False never. With None it is shown after the
    first second if standard error is a terminal and `rich` is installed.
    """
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda _: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError as error:
        if show is None:
            yield lambda _: None
            return
        raise MissingExtraError(
            "A progress bar needs the package rich, which is not installed. "
            "Run: pip install 'batchwright[sources]', or pass progress=False."
        ) from error
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False),  # a path may hold brackets
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %", markup=False),
        TimeRemainingColumn(),
        console=console,
        transient=console.is_terminal,
    )
    task = bar.add_task(printable(description), total=1.0)
    visible_from = time.monotonic() + (0.0 if show else _PATIENCE_SECONDS)

    def advance(fraction: float) -> None:
        if not bar.live.is_started and time.monotonic() >= visible_from:
            bar.start()
        bar.update(task, completed=fraction)

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()
