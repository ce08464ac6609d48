"""A `Table`: the one shape that every kind of source is read through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from batchwright._format import one_line
from batchwright.errors import BatchwrightError, MissingExtraError, SourceError

if TYPE_CHECKING:
    import pyarrow as pa

Values: TypeAlias = "np.ndarray | pa.Array[Any]"
"""Consecutive rows of one column."""

Batches: TypeAlias = Iterator[tuple[Values, float]]
"""Batches of rows in order, each with the fraction of the table that has been read by then."""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of one file, or of one dataset, read a batch of rows at a time.

    Attributes:
        name: What messages call it, usually its path.
        kind: What it is read as, usually its format.
        columns: The names of its columns, in order.
        batches: Given a column's name, reads that column alone, from the first row to the last.
        typed: False where every value is text until somebody says otherwise (CSV).
        columnar: True where a column of integers is read as quickly as a cached copy of it.
    """

    name: str
    kind: str
    columns: tuple[str, ...]
    batches: Callable[[str], Batches]
    typed: bool = True
    columnar: bool = False


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
    """Turn whatever a reader raises into one line that names the file.

    Args:
        name: What to call the source.
        kind: What it was read as, for instance "Parquet".

    Raises:
        SourceError: The file is truncated, corrupt, unreadable, or of another kind.
        MissingExtraError: The library that reads this kind is not installed.
    """
    try:
        yield
    except BatchwrightError:
        raise
    except ImportError as error:
        raise MissingExtraError(
            f"{name}: reading {kind} needs the package {error.name or 'pyarrow'}, which is not "
            "installed. Run: pip install 'batchwright[sources]'"
        ) from error
    except Exception as error:
        if not _about_the_file(error):
            raise
        raise SourceError(f"{name} cannot be read as {kind}: {one_line(error)}") from error


def _about_the_file(error: Exception) -> bool:
    # pyarrow's errors have no common root among the built-ins: some are KeyError or MemoryError.
    readers_own = type(error).__module__.partition(".")[0] == "pyarrow"
    return readers_own or isinstance(error, OSError | ValueError | OverflowError | EOFError)
