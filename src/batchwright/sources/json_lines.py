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

_PARSE_BYTES = 2 << 20  # by one thread at a time

# The columns, and the type of the one that is read, are found in the lines within both limits.
_HEAD_LINES = 1000
_HEAD_BYTES = 4 << 20

_KINDS = {
    type(None): None,
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


def json_lines(path: Path) -> Columns:
    """Open a file of JSON lines. Its columns are the keys in the first thousand lines.

    Raises:
        SourceError: One of those lines is not a JSON object.
    """
    name = str(path)
    head = _head(path)
    columns = tuple(dict.fromkeys(key for _, row in _rows(head, 1, name) for key in row))

    def batches(column: str) -> Batches:
        expected = _column(_rows(head, 1, name), column, name)
        first_line = 1
        for block, fraction in row_blocks(path):
            array = _read_block(block, column, expected.type)
            if array is None:
                # Split at newlines only: splitlines would also split where JSON allows it.
                array = _column(_rows(block.split(b"\n"), first_line, name), column, name)
                if kind_of(array) == kind_of(expected) == "numbers":
                    expected = array  # integers so far, floats from here on
            yield array, fraction
            first_line += block.count(b"\n")

    return columns, batches


def _head(path: Path) -> list[bytes]:
    with contextlib.closing(row_blocks(path, size=_HEAD_BYTES)) as first:
        block, _ = next(first, (b"", 1.0))
    lines = block[:_HEAD_BYTES].split(b"\n", _HEAD_LINES)
    if len(block) > _HEAD_BYTES or len(lines) > _HEAD_LINES:
        # The last piece is cut off. The first line is read whole, however long it is.
        lines = lines[:-1] or [block.partition(b"\n")[0]]
    return lines


def _rows(lines: Iterable[bytes], first: int, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Parse lines that are not blank; yield each with its number."""
    for number, line in enumerate(lines, first):
        if line.strip():
            yield number, _parsed(line, f"{name}, line {number:,}")


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    with reading(where, "JSON"):
        try:
            value = json.loads(line.decode())
        except json.JSONDecodeError as error:
            raise SourceError(
                f"{where}: not valid JSON: {error.msg} at column {error.colno}. "
                "The line may be cut off."
            ) from error
        except UnicodeDecodeError as error:
            raise SourceError(f"{where}: not valid UTF-8: {error.reason}.") from error
    if not isinstance(value, dict):
        raise SourceError(
            f'{where}: expected an object such as {{"length": 12}}, found '
            f"{one_line(line.decode(), 40)}"
        )
    return value


def _read_block(block: bytes, column: str, type_: pa.DataType) -> pa.Array[Any] | None:
    """Parse one column of a block at full speed; return None where that fails."""
    if not _is_all_objects(block):
        return None
    import pyarrow as pa
    import pyarrow.json as pa_json

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


def _is_all_objects(block: bytes) -> bool:
    """Return whether every line begins as an object does; Arrow crashes on a lone ``null``."""
    characters = np.frombuffer(block, np.uint8)
    after_newlines = np.flatnonzero(characters[:-1] == ord("\n")) + 1
    begins = characters[np.append(0, after_newlines)] if characters.size else characters
    return bool(np.isin(begins, (ord("{"), ord("\n"))).all())


def _column(rows: Iterable[tuple[int, dict[str, Any]]], column: str, name: str) -> pa.Array[Any]:
    """Collect one column of parsed lines; refuse one that changes its kind."""
    values: list[Any] = []
    kind: str | None = None
    for number, row in rows:
        value = row.get(column)
        found = _KINDS[type(value)]
        if kind is not None and found is not None and found != kind:
            raise SourceError(
                f"{name}, line {number:,}: {column!r} is {found} here, but {kind} before."
            )
        kind = kind or found
        values.append(value)
    import pyarrow as pa

    array: pa.Array[Any]
    if kind == "a list":
        with contextlib.suppress(pa.ArrowException, TypeError, ValueError, OverflowError):
            array = pa.array(values)
            return array
        # Lists of items of several types have no Arrow type, and how many there are is enough.
        values = [None if value is None else [None] * len(value) for value in values]
    array = pa.array(values)
    return array
