"""What several commands share: types of values, groups of options, and strict parsing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
import numpy as np

from batchwright.errors import LengthsError, SourceError
from batchwright.index import LengthIndex
from batchwright.sources.engines import ENGINES
from batchwright.sources.index_folder import open_folder
from batchwright.sources.locations import located
from batchwright.sources.measures import MEASURES
from batchwright.sources.read import read_rows, settled
from batchwright.sources.token_files import DATATROVE
from batchwright.sources.uris import local_path

if TYPE_CHECKING:
    from batchwright.typing import LengthArray

F = TypeVar("F", bound=Callable[..., Any])

_MOST = 10**6  # ranks × slots × updates is exact, and so many runs can be listed


class _WholeNumber(click.ParamType):  # type: ignore[type-arg]  # not generic in click 8.1
    """A whole number in a range, which help texts leave out (`click.IntRange` shows it)."""

    name = "integer"

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse a number."""
        number = int(click.INT.convert(value, param, ctx))
        if not self._least <= number <= self._most:
            self.fail(f"{number} is not in the range {self._least}<=x<={self._most}.", param, ctx)
        return number


def number(*names: str, least: int = 1, most: int = 2**53, **more: Any) -> Callable[[F], F]:
    """Return an option that takes a whole number; other arguments are those of `click.option`."""
    return click.option(*names, type=_WholeNumber(least, most), metavar="N", **more)


count = partial(number, most=_MOST)
"""Return an option that takes a number of ranks, batches, runs and the like."""


def finite(text: str) -> float:
    """Parse a finite number."""
    value = float(click.FLOAT(text))
    if not math.isfinite(value):
        raise click.BadParameter(f"{text!r} is not a finite number.")
    return value


def mixing(text: str) -> str | int:
    """Parse the value of --mixing: a word, or a number of updates.

    Example:
        >>> mixing("update"), mixing("4")
        ('update', 4)
    """
    if text in {"stratified", "update"}:
        return text
    try:
        return int(_WholeNumber(1, _MOST)(text))
    except click.BadParameter:
        raise click.BadParameter(
            f"{text!r} is not 'stratified', 'update', or a number of updates."
        ) from None


@dataclass(frozen=True)
class Reading:
    """How lengths are read from a source."""

    length: str | None = None  # the column; None: found by its name
    measure: str | None = None  # what the column is measured in; None: it holds lengths, or lists
    tokenizer: str | None = None  # path of a tokenizer.json, or of a directory that holds one
    empty: Literal["drop", "one"] | None = None  # what becomes of empty and missing rows
    no_cache: bool = False  # do not keep on disk what was measured

    @property
    def unit(self) -> str:
        """What the lengths count."""
        return "tokens" if self.measure is None else self.measure

    def lengths(self, source: str) -> tuple[LengthArray, float]:
        """Read lengths; return integer[n], and the seconds that took.

        Empty and missing rows are refused, or have the length that `empty` says: 0 to be dropped.
        """
        if not source:
            raise click.UsageError("SOURCE is empty; expected a file of lengths, or of a column.")
        start = time.perf_counter()
        if (index := self.index(source)) is not None:
            return index.lengths(), time.perf_counter() - start
        shards = open_folder(source) if located(source).is_dir() else None
        if shards is not None and (self.length, self.measure, self.tokenizer) == (None,) * 3:
            return shards.lengths(), time.perf_counter() - start
        rows = read_rows(source, self.length, self.measure, self.tokenizer, cache=not self.no_cache)
        if said := rows.described():
            if self.empty is None:
                raise LengthsError(f"{said}: --empty drop|one")
            done = "left out" if self.empty == "drop" else "counted as 1"
            click.echo(f"{said}: {done}", err=True)
        return settled(rows, self.empty), time.perf_counter() - start

    def index(self, source: str) -> LengthIndex | None:
        """Open a source whose name is that of a length index. None: it is not an index."""
        if Path(source).suffix != ".index" or source.endswith(DATATROVE):
            return None
        if located(source).is_dir():  # of shards
            return None
        if self != Reading(no_cache=self.no_cache):
            raise click.UsageError(
                "a length index has no columns and no empty rows: leave out --length, --measure, "
                "--tokenizer and --empty."
            )
        if (path := local_path(source)) is None:
            raise SourceError(
                f"{source}: a length index is memory-mapped: copy it to this machine, and name the "
                "copy."
            )
        return LengthIndex.open(path)

    def columns(self, source: str) -> LengthArray:
        """Read one column, integer[n], or several separated by commas, integer[n, k]."""
        names = (self.length or "").split(",")
        if len(names) < 2:
            return self.lengths(source)[0]
        read = [replace(self, length=name.strip()).lengths(source)[0] for name in names]
        return np.stack(read, axis=1)


order = click.option(
    "--order",
    type=click.Choice(("shuffle", "sequential")),
    default="shuffle",
    help="Order of the samples.",
)
window = number("--window", help="Shuffle only within windows of N samples.")
cost = click.option(
    "--cost",
    type=click.Choice(("padded", "quadratic")),
    help="Balance ranks by tokens, or by squared lengths.",
)
batch_size = number("--batch-size", help="Samples in your batches now: the baseline.")
tokenizer = click.option(
    "--tokenizer", metavar="PATH", help="Count tokens with this tokenizer.json."
)
measure = click.option(
    "--measure",
    type=click.Choice(MEASURES),
    help="What to count in a column of texts, or of lists.",
)
empty = click.option(
    "--empty",
    type=click.Choice(("drop", "one")),
    help="Leave out rows that are empty or missing, or count each as 1.",
    show_default="an error",
)

engine = click.option(
    "--on",
    type=click.Choice(ENGINES),
    default="local",
    help="Work on this machine, or on a Ray cluster, with one task per file.",
)


def reading(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `Reading`, which the command gets as its argument `reading`."""

    @wraps(command)
    def decorated(**given: Any) -> None:
        values = Reading(**{each.name: given.pop(each.name) for each in fields(Reading)})
        command(reading=values, **given)

    length = click.option("--length", metavar="COLUMN", help="Column of lengths, or to measure.")
    no_cache = click.option("--no-cache", is_flag=True, help="Do not cache what was measured.")
    return length(measure(tokenizer(empty(no_cache(decorated)))))


html_output = click.option(
    "--html",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write one HTML page (needs the extra: batchwright[report]).",
)
json_output = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
threads = count("--threads", help="Threads of torch.", show_default="all, at most 8")
