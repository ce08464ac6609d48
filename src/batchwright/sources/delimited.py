"""Columns out of CSV and TSV files."""

from __future__ import annotations

import csv as stdlib_csv
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchwright.errors import SourceError
from batchwright.sources.compression import opened
from batchwright.sources.table import Batches, Table, reading

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK_BYTES = 16 << 20
"""Read at a time; also the longest row that can be read."""

_END_MARK = "\x1eend of file\x1e"


def csv(path: Path) -> Table:
    """Open a comma-separated file whose first line names the columns."""
    return _table(path, ",")


def tsv(path: Path) -> Table:
    """Open a tab-separated file whose first line names the columns."""
    return _table(path, "\t")


def _table(path: Path, delimiter: str) -> Table:
    name = str(path)
    with reading(name, "CSV"), opened(path) as (file, _):
        stream: Any = file
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
        columns = tuple(next(stdlib_csv.reader(text, delimiter=delimiter), ()))
    if not columns:
        raise SourceError(f"{name} has no header: expected the columns' names in the first line.")

    def batches(column: str) -> Batches:
        import pyarrow as pa
        import pyarrow.csv as pa_csv

        with opened(path) as (file, fraction), _long_rows_refused(name):
            data: Any = _MarkedEnd(file, delimiter.join([_END_MARK] * len(columns)))
            reader = pa_csv.open_csv(
                data,
                read_options=pa_csv.ReadOptions(block_size=_BLOCK_BYTES),
                parse_options=pa_csv.ParseOptions(
                    delimiter=delimiter,
                    newlines_in_values=True,
                    # In a file of one column an empty line is a row, and must not be lost.
                    ignore_empty_lines=len(columns) > 1,
                ),
                # Everything as text: types guessed from the first block fail in a later one.
                convert_options=pa_csv.ConvertOptions(
                    include_columns=[column],
                    column_types={column: pa.string()},
                    strings_can_be_null=False,
                ),
            )
            yield from _without_mark(reader, fraction, name)

    return Table(name, "CSV", columns, batches, typed=False)


@contextmanager
def _long_rows_refused(name: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if "straddl" not in str(error):
            raise
        raise SourceError(
            f"{name} has a row of more than {_BLOCK_BYTES >> 20} MiB: perhaps a quotation mark was "
            "never closed. Parquet and JSON lines hold rows of any length."
        ) from error


class _MarkedEnd(io.RawIOBase):
    """A file's bytes with one more row at the end.

    An open quote swallows all that follows it. pyarrow returns that as one long value without
    complaint; but the last row is then not ours, which tells.
    """

    def __init__(self, file: pa.NativeFile, row: str) -> None:
        self._file = file
        self._row: bytes = row.encode()
        self._last = b"\n"
        self._ended = False

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if self._ended:
            return b""
        data: bytes = self._file.read(None if size is None or size < 0 else size)
        if data:
            self._last = data[-1:]
            return data
        self._ended = True
        return (b"" if self._last in b"\r\n" else b"\n") + self._row + b"\n"


def _without_mark(
    reader: pa.RecordBatchReader, fraction: Callable[[], float], name: str
) -> Batches:
    held: pa.Array[Any] | None = None
    for batch in reader:
        if batch.num_rows == 0:
            continue
        if held is not None:
            yield held, fraction()
        held = batch.column(0)
    if held is None or held[-1].as_py() != _END_MARK:
        raise SourceError(
            f"{name} ends inside a quoted value: a quotation mark was never closed, or the file is "
            "truncated."
        )
    yield held[:-1], 1.0
