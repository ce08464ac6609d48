"""Columns of CSV and TSV files."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchwright.errors import SourceError
from batchwright.sources.blocks import Blocks, end_of_lines, row_blocks
from batchwright.sources.table import Batches, Columns, checked

if TYPE_CHECKING:
    from batchwright.sources.table import Array

_HEADER_BYTES = 1 << 20

# As in the parser of pyarrow, a quotation mark inside a value that did not begin with one is a
# character. A final carriage return ends no row yet: a newline may follow.
_VALUES = rb'(?:[^"\r\n]++|(?<![^%b\r\n])"[^"]*+(?:""[^"]*+)*+"|(?<=[^%b\r\n])")*+'
_ROW = rb"(?:%b(?:\r\n|\n|\r(?!\Z)))"


def delimited(path: Path, delimiter: bytes = b",") -> Columns:
    """Open a file of separated values, whose first line names the columns."""
    mark = re.escape(delimiter)
    values = _VALUES % (mark, mark)
    row = _ROW % values
    first_row, whole_rows = re.compile(row), re.compile(row + b"*+")
    closed = re.compile(row + b"*+" + values + rb"\r?")

    def end_of_rows(data: bytes) -> int:
        if b'"' not in data and b"\r" not in data:
            return end_of_lines(data)
        found = whole_rows.match(data)
        return found.end() if found else 0

    def rows(size: int | None = None) -> Blocks:
        for block, fraction in row_blocks(path, end_of_rows, size=size):
            if fraction == 1.0 and b'"' in block and not closed.fullmatch(block):
                raise SourceError(
                    f"{path} ends inside a quoted value: a quotation mark was never closed, or "
                    "the file is truncated."
                )
            yield block, fraction

    with contextlib.closing(rows(_HEADER_BYTES)) as blocks:
        header, _ = next(blocks, (b"", 1.0))
    if found := first_row.match(header):
        header = found[0]
    text = io.StringIO(header.decode("utf-8", "replace"), newline="")
    columns = tuple(next(csv.reader(text, delimiter=delimiter.decode()), ()))
    if not columns:
        raise SourceError(f"{path} has no header: expected the columns' names in the first line.")

    def batches(column: str) -> Batches:
        k, rows_before, skip = columns.index(column), 0, len(header)
        for block, fraction in rows():
            parsed = _column(block[skip:], k, len(columns), delimiter, rows_before)
            rows_before += len(parsed)
            skip = 0
            yield parsed, fraction

    return columns, batches


def _column(rows: bytes, k: int, width: int, delimiter: bytes, rows_before: int) -> Array:
    """Parse column `k` of some whole rows as text."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    # Numbers as names: real ones may occur twice, or be anything.
    names = delimiter.join(b"%d" % j for j in range(width)) + b"\n"
    data: Any = pa.BufferReader(names + rows)
    try:
        table = pa_csv.read_csv(
            data,
            pa_csv.ReadOptions(use_threads=False, block_size=len(names) + len(rows) + 1),
            pa_csv.ParseOptions(
                delimiter=delimiter.decode(),
                newlines_in_values=True,
                ignore_empty_lines=width > 1,  # in a file of one column they are rows
            ),
            # Everything as text: types guessed from one block fail in another.
            pa_csv.ConvertOptions(
                include_columns=[str(k)],
                column_types={str(k): pa.string()},
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        counted = re.sub(r"Row #(\d+)", lambda m: f"Row #{int(m[1]) + rows_before}", str(error))
        raise ValueError(counted) from error
    return checked(table.column(0).combine_chunks())
