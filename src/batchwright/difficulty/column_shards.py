"""One column of a file, in shards of so many rows: what is scored of data that is on disk."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from batchwright.errors import ScoresError, SourceError
from batchwright.sources import columns, files
from batchwright.sources.cache import contents
from batchwright.sources.columnar import checked
from batchwright.sources.compression import BLOCK_BYTES, CODECS, blocks
from batchwright.sources.kinds import kind_of
from batchwright.sources.read import plain_batches
from batchwright.sources.table import Batches, Place, Table, Values, most_rows, reading
from batchwright.sources.whole_numbers import numbers_of_text

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK_BYTES = BLOCK_BYTES


class Shard(NamedTuple):
    """Consecutive rows of a column.

    Attributes:
        number: Which shard, from 0.
        pieces: Its rows, each piece with where it comes from; empty if the shard was skipped.
        num_rows: How many.
        fraction: Of the source, read by then.
    """

    number: int
    pieces: list[tuple[Values, Place]]
    num_rows: int
    fraction: float


class Column:
    """A column of a file, of a folder of shards, or of what a pattern names.

    Args:
        source: What `sources.lengths` reads, or text, `.txt`, of which every line is a sample.
        column: Its name; None: found, as `sources.lengths` does.
        measure: What will be measured of it, as `sources.lengths` has it: it says which column
            is found, and that text is meant. None: numbers, or lists.

    Raises:
        SourceError: The source is of an unknown kind.
        SourceNotFoundError: There is no such file.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        column: str | None = None,
        *,
        measure: str | None = "characters",
    ) -> None:
        self.name = str(Path(source))
        self.column = column
        self._measure = measure
        path = Path(source)
        self._files = [path] if _is_lines(path) and path.is_file() else files.files_of(path)

    def identity(self) -> list[Any]:
        """Return what tells the files' content from any other, and this column from others."""
        return [contents(self._files), self.column]

    def shards(self, size: int, skip: Container[int] = ()) -> Iterator[Shard]:
        """Go through the column, `size` rows at a time.

        Args:
            size: Rows of a shard; the last one may have fewer.
            skip: Numbers of shards whose rows are not needed.

        Yields:
            Every shard, in order.

        Raises:
            SourceError: The source has no rows, is truncated, or a row is null.
        """
        number, held, rows = 0, [], 0
        fraction = 0.0
        for values, place, fraction in self._rows():
            start = 0
            while start < len(values):
                stop = min(len(values), start + size - rows)
                if number not in skip:
                    piece = values[start:stop]
                    held.append((piece, place._replace(first_row=place.first_row + start)))
                rows += stop - start
                start = stop
                if rows == size:
                    yield Shard(number, held, rows, fraction)
                    number, held, rows = number + 1, [], 0
        if rows:
            yield Shard(number, held, rows, fraction)
        elif number == 0:
            raise SourceError(f"{self.name} has no rows.")

    def _rows(self) -> Iterator[tuple[Values, Place, float]]:
        column = self.column
        for k, path in enumerate(self._files):
            table = _lines(path) if _is_lines(path) else files.open_file(path)
            column = columns.choose(table.columns, column, source=table.name, measure=self._measure)
            row = 0
            for batch, fraction in plain_batches(table, column):
                place = Place(table.name, column, row)
                untyped = not table.typed and self._measure is None
                values = numbers_of_text(batch, place) if untyped else batch
                _refuse_nulls(values, place)
                yield values, place, (k + fraction) / len(self._files)
                row += len(values)


def as_batch(pieces: list[tuple[Values, Place]]) -> Any:
    """Turn the rows of a shard into what a metric takes.

    Returns:
        list[str] of text, list[bytes] of binary, list of lists of lists, number[m] of numbers.

    Raises:
        SourceError: The column holds something else.
    """
    batch: list[Any] = []
    arrays: list[np.ndarray] = []
    for values, place in pieces:
        kind = kind_of(values)
        if isinstance(values, np.ndarray):
            arrays.append(values)
        elif kind == "numbers":
            arrays.append(values.to_numpy(zero_copy_only=False))
        elif kind in {"text", "binary", "lists"}:
            batch += values.to_pylist()
        else:
            raise SourceError(
                f"{place.source}: {place.column!r} is of type {values.type}; expected text, "
                "numbers or lists."
            )
    if batch and arrays:
        raise SourceError(f"{pieces[-1][1].row(0)} begins to be another type than came before.")
    return np.concatenate(arrays) if arrays else batch


def _refuse_nulls(values: Values, place: Place) -> None:
    if not isinstance(values, np.ndarray) and values.null_count:
        first = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise ScoresError(
            f"{place.row(first)} is null. Every sample needs a score: fill or filter it."
        )


def _is_lines(path: Path) -> bool:
    inner = Path(path.stem) if path.suffix.lower() in CODECS else path
    return inner.suffix.lower() == ".txt"


def _lines(path: Path) -> Table:
    """Open text of which every line is a sample."""
    with reading(str(path), "text"):
        size = path.stat().st_size
    if size == 0:
        raise SourceError(f"{path} is empty: it has 0 bytes.")
    return Table(
        str(path),
        "text",
        ("text",),
        lambda _: _line_batches(path),
        most_rows=most_rows(size, columnar=False),
    )


def _line_batches(path: Path) -> Batches:
    for block, fraction in blocks(path, "text", _BLOCK_BYTES):
        with reading(str(path), "text"):
            texts = checked(_texts(block))
        yield texts, fraction


def _texts(block: bytes) -> pa.Array[Any]:
    """Return the lines of a block, without what ends them."""
    import pyarrow as pa

    lines = block.removesuffix(b"\n").replace(b"\r\n", b"\n").removesuffix(b"\r") + b"\n"
    ends = np.flatnonzero(np.frombuffer(lines, np.uint8) == ord("\n"))
    offsets = np.zeros(len(ends) + 1, np.int32)
    offsets[1:] = ends - np.arange(len(ends))
    text = lines.replace(b"\n", b"")
    return pa.StringArray.from_buffers(
        len(ends), pa.py_buffer(offsets.tobytes()), pa.py_buffer(text)
    )
