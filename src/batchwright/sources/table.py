"""A `Table`: the one shape that every kind of source is read through."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from batchwright._format import one_line
from batchwright.errors import (
    BatchwrightError,
    MissingExtraError,
    SourceError,
    SourceNotFoundError,
)

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

Values: TypeAlias = "np.ndarray | pa.Array[Any]"
"""Consecutive rows of one column."""

Batches: TypeAlias = Iterator[tuple[Values, float]]
"""Batches of rows in order, each with the fraction of the table that has been read by then."""


_LARGEST = 2**63 - 1

_ALWAYS_BELIEVED = 1 << 23
_ROWS_PER_BYTE = 200
_ROWS_PER_COLUMNAR_BYTE = 10_000
"""Of an equal length for every row, Parquet keeps a hundred bytes for a million rows."""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of one file, or of one dataset, read a batch of rows at a time.

    Attributes:
        name: What messages call it, usually its path.
        kind: What it is read as, usually its format.
        columns: The names of its columns, in order.
        batches: Given a column's name, reads that column alone, from the first row to the last.
        typed: False where every value is text until somebody says otherwise (CSV).
        most_rows: More than these are not believed: a few bytes can claim any number.
    """

    name: str
    kind: str
    columns: tuple[str, ...]
    batches: Callable[[str], Batches]
    typed: bool = True
    most_rows: int = _LARGEST


class Place(NamedTuple):
    """Where a batch of rows comes from, for messages."""

    source: str
    column: str
    first_row: int

    def row(self, offset: int) -> str:
        """Return what a message begins with that is about the row `offset` of the batch."""
        return f"{self.source}: row {self.first_row + offset:,} of {self.column!r} (counted from 0)"


@contextmanager
def reading(name: str, kind: str) -> Iterator[None]:
    """Turn whatever a library raises over a file into one line that names the file.

    Only calls of libraries belong in it: a defect of ours must keep its own error.

    Args:
        name: What to call the source.
        kind: What it is read as, for instance "Parquet".

    Raises:
        SourceNotFoundError: The file is gone.
        SourceError: The file is truncated, corrupt, unreadable, or of another kind.
        MissingExtraError: The library that reads this kind is not installed.
    """
    try:
        yield
    except (BatchwrightError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"There is no file {name}.") from error
    except ImportError as error:
        raise MissingExtraError(
            f"{name}: reading {kind} needs the package {error.name or 'pyarrow'}, which is not "
            "installed. Run: pip install 'batchwright[sources]'"
        ) from error
    except BaseException as error:  # a panic of a library in Rust is no Exception
        reason = "nested too deeply" if isinstance(error, RecursionError) else one_line(error, 300)
        if isinstance(error, MemoryError):
            reason = f"it needs more memory than there is ({reason})"
        raise SourceError(f"{name} cannot be read as {kind}: {reason}") from error


def each(items: Iterator[T], name: str, kind: str) -> Iterator[T]:
    """Go through what a library yields, each step as in `reading`."""
    while True:
        with reading(name, kind):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


def most_rows(size: int, *, columnar: bool) -> int:
    """Return how many rows a file of `size` bytes is believed to hold."""
    return max(_ALWAYS_BELIEVED, size * (_ROWS_PER_COLUMNAR_BYTE if columnar else _ROWS_PER_BYTE))


def native_file(path: Path) -> pa.NativeFile:
    """Open a file for the readers of pyarrow, whatever bytes its name is made of."""
    import pyarrow as pa

    name: Any = os.fsencode(path)
    return pa.OSFile(name, "rb")
