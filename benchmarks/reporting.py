"""Results as a file of JSON, progress on standard error, tables on standard output."""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import machine

QUIET = 0.95
"""Share of the time that a timed process has its core for itself on a quiet machine."""

RESULTS = machine.REPOSITORY / "benchmarks" / "results"


def write_result(path: Path, command: str, result: Mapping[str, object]) -> None:
    """Write a result with the command that made it and the machine that ran it."""
    whole = {"command": command, **machine.circumstances(), "machine": machine.facts(), **result}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def output_path(name: str, output: Path | None, *, quick: bool) -> Path | None:
    """Say where a result goes: a quick one nowhere, unless told where."""
    return output if output is not None or quick else RESULTS / f"{name}.json"


def progress_bar() -> Progress:
    """Make a bar for standard error, drawn only when told to: nothing else runs meanwhile."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,
    )


def warn_if_disturbed(at_work: Iterable[float]) -> None:
    """Say on standard error when other processes took much of the core.

    Args:
        at_work: Shares of the time in which the core worked for what was timed.
    """
    least = min(at_work, default=1.0)
    if least < QUIET:
        Console(stderr=True).print(
            f"Others used the core: it was at work for as little as {least:.0%} of the time. "
            "Times and their ratios are not to be trusted."
        )


def table_console() -> Console:
    """Make a console for standard output, wide enough for a table that goes into a file."""
    return Console() if sys.stdout.isatty() else Console(width=120)
