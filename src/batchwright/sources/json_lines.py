"""Columns of JSON lines: one object a line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from batchwright._format import one_line
from batchwright.errors import SourceError
from batchwright.sources.blocks import row_blocks
from batchwright.sources.table import Batches, Columns, checked, kind_of, reading

if TYPE_CHECKING:
    import pyarrow as pa

    from batchwright.sources.table import Array

_PARSE_BYTES = 2 << 20  # by one thread at a time

# The columns, and the type of the one that is read, are found in the lines within both limits.
_HEAD_LINES = 1000
_HEAD_BYTES = 4 << 20


def json_lines(path: Path) -> Columns:
    """Open a file of JSON lines. Its columns are the keys in the first thousand lines."""
    name = str(path)
    with contextlib.closing(row_blocks(path, size=_HEAD_BYTES)) as first:
        block, _ = next(first, (b"", 1.0))
    head = block.split(b"\n", _HEAD_LINES)[:_HEAD_LINES]
    columns = tuple(dict.fromkeys(key for _, row in _rows(head, 1, name) for key in row))

    def batches(column: str) -> Batches:
        expected = _column(_rows(head, 1, name), column)
        first_line = 1
        for block, fraction in row_blocks(path):
            array = _read_block(block, column, expected.type)
            if array is None:
                # Split at newlines only: splitlines would also split where JSON allows it.
                array = _column(_rows(block.split(b"\n"), first_line, name), column)
                if kind_of(array) == kind_of(expected) == "numbers":
                    expected = array  # integers so far, floats from here on
            yield array, fraction
            first_line += block.count(b"\n")

    return columns, batches


def _rows(lines: Iterable[bytes], first: int, name: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Parse lines that are not blank; yield each with where it is."""
    for number, line in enumerate(lines, first):
        if not line.strip():
            continue
        where = f"{name}, line {number:,}"
        with reading(where, "JSON"):
            value = json.loads(line.decode())
        if not isinstance(value, dict):
            raise SourceError(
                f'{where}: expected an object such as {{"length": 12}}, found '
                f"{one_line(line.decode(), 40)}"
            )
        yield where, value


def _read_block(block: bytes, column: str, type_: pa.DataType) -> Array | None:
    """Parse one column of a block at full speed; return None where that fails."""
    import pyarrow as pa
    import pyarrow.json as pa_json

    # Arrow crashes on a lone `null`: every line has to begin as an object does.
    characters = np.frombuffer(block, np.uint8)
    begins = np.append(0, np.flatnonzero(characters[:-1] == ord("\n")) + 1)
    if not np.isin(characters[begins], (ord("{"), ord("\n"))).all():
        return None
    data: Any = pa.BufferReader(block)
    schema = pa.schema([(column, type_)])
    try:
        rows = pa_json.read_json(
            data,
            pa_json.ReadOptions(block_size=_PARSE_BYTES),
            pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        return checked(rows.column(column).combine_chunks())
    except Exception:  # noqa: BLE001 -- the slow reader says what is wrong, and in which line
        return None


def _column(rows: Iterable[tuple[str, dict[str, object]]], column: str) -> Array:
    """Collect one column of parsed lines; refuse one that changes its kind."""
    import pyarrow as pa

    values: list[Any] = []
    kind: str | None = None
    for where, row in rows:
        value = row.get(column)
        values.append(value)
        if value is None:
            continue
        found = "number" if type(value) in {int, float} else type(value).__name__
        if kind not in {None, found}:
            raise SourceError(f"{where}: {column!r} is a {found} here, but a {kind} before.")
        kind = found
    if kind == "list":
        with contextlib.suppress(pa.ArrowException, TypeError, ValueError, OverflowError):
            lists: Array = pa.array(values)
            return lists
        # Lists of items of several types have no Arrow type, and how many there are is enough.
        values = [None if value is None else [None] * len(value) for value in values]
    array: Array = pa.array(values)
    return array
