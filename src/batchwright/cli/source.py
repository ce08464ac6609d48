"""SOURCE and the options that say how lengths are read from it."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import click
import numpy as np

from batchwright import sources
from batchwright.sources.measures import MEASURES

F = TypeVar("F", bound=Callable[..., Any])


class Reading(NamedTuple):
    """How lengths are read from a source.

    Attributes:
        length: The column. None: found by its name.
        measure: What the column is measured in. None: it holds lengths, or lists.
        tokenizer: Path of a tokenizer.json, or of a directory that holds one.
        no_cache: Do not keep on disk what was measured.
    """

    length: str | None
    measure: str | None
    tokenizer: str | None
    no_cache: bool

    @property
    def unit(self) -> str:
        """What the lengths count."""
        return "tokens" if self.measure is None else self.measure

    @property
    def is_default(self) -> bool:
        """Whether none of its options was given."""
        return self == Reading(None, None, None, False)

    def lengths(self, source: str) -> tuple[np.ndarray, float]:
        """Read the lengths; return them, integer[n], and how many seconds that took."""
        if not source:
            raise click.UsageError("SOURCE is empty; expected a file of lengths, or of a column.")
        start = time.perf_counter()
        lengths = sources.lengths(
            source,
            column=self.length,
            measure=self.measure,
            tokenizer=self.tokenizer,
            cache=not self.no_cache,
        )
        return lengths, time.perf_counter() - start


def lengths_of_columns(reading: Reading, source: str) -> tuple[np.ndarray, float]:
    """Read the lengths of one column, or of several that commas are between.

    Returns:
        integer[n], or integer[n, k] of k columns; and how many seconds that took.
    """
    names = [] if reading.length is None else reading.length.split(",")
    if len(names) < 2:
        return reading.lengths(source)
    read = [reading._replace(length=name.strip()).lengths(source) for name in names]
    return np.stack([lengths for lengths, _ in read], axis=1), sum(seconds for _, seconds in read)


def reading_options(command: F) -> F:
    """Add the options of `Reading`."""
    for option in reversed(
        (
            click.option("--length", metavar="COLUMN", help="Column that holds the lengths."),
            click.option(
                "--measure",
                type=click.Choice(MEASURES),
                help="Measure the column in these: text, or lists of items.",
            ),
            click.option(
                "--tokenizer", metavar="PATH", help="Count tokens with this tokenizer.json."
            ),
            click.option("--no-cache", is_flag=True, help="Do not keep what was measured."),
        )
    ):
        command = option(command)
    return command
