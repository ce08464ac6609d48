"""Columns of CSV and TSV files."""

from __future__ import annotations

import contextlib
import csv as stdlib_csv
import io
import re
from array import array
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from batchwright.errors import SourceError
from batchwright.sources.blocks import Blocks, end_of_lines, row_blocks
from batchwright.sources.table import Batches, Columns, checked

if TYPE_CHECKING:
    import pyarrow as pa

_HEADER_BYTES = 1 << 20
_PIECE_BYTES = 1 << 20
_NEWLINE, _RETURN, _QUOTE = b'\n\r"'


def csv(path: Path) -> Columns:
    """Open a comma-separated file whose first line names the columns."""
    return _open(path, b",")


def tsv(path: Path) -> Columns:
    """Open a tab-separated file whose first line names the columns."""
    return _open(path, b"\t")


def _open(path: Path, delimiter: bytes) -> Columns:
    with contextlib.closing(_rows(path, delimiter, _HEADER_BYTES)) as rows:
        header, _ = next(rows, (b"", 1.0))
    header = header[: next(iter(_row_ends(header, delimiter)), len(header))]
    text = io.StringIO(header.decode("utf-8", "replace"), newline="")
    columns = tuple(next(stdlib_csv.reader(text, delimiter=delimiter.decode()), ()))
    if not columns:
        raise SourceError(f"{path} has no header: expected the columns' names in the first line.")

    def batches(column: str) -> Batches:
        k, rows_before, skip = columns.index(column), 0, len(header)
        for block, fraction in _rows(path, delimiter):
            values = _column(block[skip:], k, len(columns), delimiter, rows_before)
            rows_before += len(values)
            skip = 0
            yield values, fraction

    return columns, batches


def _column(rows: bytes, k: int, width: int, delimiter: bytes, rows_before: int) -> pa.Array[Any]:
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


def _rows(path: Path, delimiter: bytes, size: int | None = None) -> Blocks:
    """Read blocks of whole rows; refuse a quotation mark that is never closed."""
    end_of_rows = partial(_end_of_rows, delimiter=delimiter)
    for block, fraction in row_blocks(path, end_of_rows, size=size):
        if fraction == 1.0 and len(_quotes(block, delimiter)) % 2:
            raise SourceError(
                f"{path} ends inside a quoted value: a quotation mark was never closed, or the "
                "file is truncated."
            )
        yield block, fraction


def _end_of_rows(data: bytes, delimiter: bytes) -> int:
    if b'"' not in data and b"\r" not in data:
        return end_of_lines(data)
    ends = _row_ends(data, delimiter)
    return int(ends[-1]) if len(ends) else 0


def _row_ends(data: bytes, delimiter: bytes) -> np.ndarray:
    """Return where rows end. A final carriage return is left out: a newline may follow."""
    characters = np.frombuffer(data, np.uint8)
    newline = characters == _NEWLINE
    newline[:-1] |= (characters[:-1] == _RETURN) & (characters[1:] != _NEWLINE)
    ends = np.flatnonzero(newline) + 1
    quotes = _quotes(data, delimiter)
    return ends[np.searchsorted(quotes, ends) % 2 == 0] if len(quotes) else ends


def _quotes(data: bytes, delimiter: bytes) -> np.ndarray:
    """Return where quotation marks open and close values, in turn; a double one closes and opens.

    As in the parser of pyarrow, a mark inside a value that did not begin with one is a character.
    """
    characters = np.frombuffer(data, np.uint8)
    # In pieces and 32 bits: a block may consist of marks.
    pieces = [
        np.flatnonzero(characters[k : k + _PIECE_BYTES] == _QUOTE).astype(np.int32) + np.int32(k)
        for k in range(0, len(characters), _PIECE_BYTES)
    ]
    marks = np.concatenate([np.zeros(0, np.int32), *pieces])
    opening = marks[::2]
    before = characters[opening - 1]
    opens = (opening == 0) | np.isin(before, [ord(delimiter), _NEWLINE, _RETURN, _QUOTE])
    if opens.all():
        return marks
    quotes = array("i")
    pattern = rb'(?<![^%b\r\n])"[^"]*+(?:""[^"]*+)*+("?)' % re.escape(delimiter)
    for value in re.finditer(pattern, data):
        quotes.append(value.start())
        if value[1]:
            quotes.append(value.start(1))
    return np.array(quotes, dtype=np.int32)
