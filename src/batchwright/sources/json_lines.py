"""Columns out of JSON lines: one object a line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from batchwright._format import one_line
from batchwright.errors import SourceError
from batchwright.sources.columnar import checked
from batchwright.sources.compression import BLOCK_BYTES, blocks
from batchwright.sources.table import Batches, Table, reading

if TYPE_CHECKING:
    import pyarrow as pa

_KIND = "JSON lines"
_BLOCK_BYTES = BLOCK_BYTES
_PARSE_BYTES = 2 << 20
"""What one thread parses at a time."""

_HEAD_LINES = 1000
_HEAD_BYTES = 4 << 20
"""Columns, and the type of the one that is read, are found in the lines within both limits."""

Row: TypeAlias = tuple[int, dict[str, Any]]
"""What one line holds, after the number of that line, counted from 1."""


def table(path: Path) -> Table:
    """Open a file of JSON lines. Its columns are the keys in the first thousand of them.

    Raises:
        SourceError: One of those lines is no JSON object.
    """
    name = str(path)
    head = _head(path)
    columns = tuple(dict.fromkeys(key for _, row in _rows(head, 1, name) for key in row))

    def batches(column: str) -> Batches:
        type_ = _column(_rows(head, 1, name), column, name).type
        first_line = 1
        for block, fraction in blocks(path, _KIND, _BLOCK_BYTES):
            array = _read_block(block, column, type_, name)
            if array is None:
                # Split at newlines only: splitlines would also split where JSON allows it.
                array = _column(_rows(block.split(b"\n"), first_line, name), column, name)
                if _is_number(array.type) and _is_number(type_):
                    type_ = array.type  # integers so far, from here on floats
            yield array, fraction
            first_line += block.count(b"\n")

    return Table(name, _KIND, columns, batches)


def _head(path: Path) -> list[bytes]:
    with contextlib.closing(blocks(path, _KIND, _HEAD_BYTES)) as first:
        block, _ = next(first, (b"", 1.0))
    lines = block[:_HEAD_BYTES].split(b"\n", _HEAD_LINES)
    if len(block) > _HEAD_BYTES or len(lines) > _HEAD_LINES:
        # The last piece is cut off. The first line is read whole, however long it is.
        lines = lines[:-1] or [block.partition(b"\n")[0]]
    return lines


def _rows(lines: Iterable[bytes], first: int, name: str) -> Iterator[Row]:
    for number, line in enumerate(lines, first):
        if line.strip():
            yield number, _parsed(line, number, name)


def _read_block(block: bytes, column: str, type_: pa.DataType, name: str) -> pa.Array[Any] | None:
    """Parse one column of a block at full speed, or return None where that fails."""
    with contextlib.suppress(SourceError), reading(name, _KIND):
        import pyarrow as pa
        import pyarrow.json as pa_json

        data: Any = pa.BufferReader(block)
        rows = pa_json.read_json(
            data,
            read_options=pa_json.ReadOptions(block_size=_PARSE_BYTES),
            parse_options=pa_json.ParseOptions(
                explicit_schema=pa.schema([(column, type_)]), unexpected_field_behavior="ignore"
            ),
        )
        return checked(rows.column(column).combine_chunks())
    return None


def _parsed(line: bytes, number: int, name: str) -> dict[str, Any]:
    where = f"{name}, line {number:,}"
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


def _column(rows: Iterable[Row], column: str, name: str) -> pa.Array[Any]:
    values: list[Any] = []
    kind: str | None = None
    for number, row in rows:
        value = row.get(column)
        found = _kind(value)
        if kind is not None and found is not None and found != kind:
            raise SourceError(
                f"{name}, line {number:,}: {column!r} is {found} here, but {kind} before."
            )
        kind = kind or found
        values.append(value)
    if kind == "a list":
        with contextlib.suppress(SourceError):
            return _as_arrow(values, name)
        # Lists of items of several types have no Arrow type, and how many there are is enough.
        values = [None if value is None else [None] * len(value) for value in values]
    return _as_arrow(values, name)


def _as_arrow(values: list[Any], name: str) -> pa.Array[Any]:
    with reading(name, _KIND):
        import pyarrow as pa

        return cast("pa.Array[Any]", pa.array(values))


def _kind(value: object) -> str | None:
    match value:
        case None:
            return None
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "an object"


def _is_number(type_: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))
