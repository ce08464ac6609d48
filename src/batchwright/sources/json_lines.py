"""Columns out of JSON lines: one object a line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from batchwright._format import one_line
from batchwright.errors import SourceError
from batchwright.sources.columnar import checked
from batchwright.sources.compression import opened
from batchwright.sources.table import Batches, Table, reading

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK_BYTES = 16 << 20
_PARSE_BYTES = 2 << 20
"""What one thread parses at a time."""

_HEAD_LINES = 1000
_HEAD_BYTES = 4 << 20
"""Columns, and the type of the one that is read, are found in the lines within both limits."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Row: TypeAlias = tuple[int, dict[str, Any]]
"""What one line holds, after the number of that line, counted from 1."""


def table(path: Path) -> Table:
    """Open a file of JSON lines. Its columns are the keys in the first thousand of them.

    Raises:
        SourceError: One of those lines is no JSON object.
    """
    name = str(path)
    with reading(name, "JSON lines"):
        head = list(_head(path, name))
        columns = tuple(dict.fromkeys(key for _, row in head for key in row))

    def batches(column: str) -> Batches:
        type_ = _column(head, column, name).type
        first_line = 1
        for block, fraction in _blocks(path, _BLOCK_BYTES):
            array = _read_block(block, column, type_)
            if array is None:
                array = _read_slowly(block, column, first_line, name)
                if _is_number(array.type) and _is_number(type_):
                    type_ = array.type  # integers so far, from here on floats
            yield array, fraction
            first_line += block.count(b"\n")

    return Table(name, "JSON lines", columns, batches)


def _blocks(path: Path, size: int) -> Generator[tuple[bytes, float], None, None]:
    """Read whole lines, about `size` bytes at a time, each with the fraction read by then."""
    with opened(path) as (file, fraction):
        rest = b""
        start = True
        while data := file.read(size):
            if start:
                data, start = data.removeprefix(_BYTE_ORDER_MARK), False
            end = data.rfind(b"\n") + 1
            if end == 0:
                rest += data  # one line longer than a block
                continue
            yield rest + data[:end], fraction()
            rest = data[end:]
        if rest:
            yield rest, 1.0


def _head(path: Path, name: str) -> Iterator[Row]:
    with contextlib.closing(_blocks(path, _HEAD_BYTES)) as blocks:
        block, _ = next(blocks, (b"", 1.0))
    lines = block[:_HEAD_BYTES].split(b"\n", _HEAD_LINES)
    if len(block) > _HEAD_BYTES or len(lines) > _HEAD_LINES:
        # The last piece is cut off. The first line is read whole, however long it is.
        lines = lines[:-1] or [block.partition(b"\n")[0]]
    yield from _rows(lines, 1, name)


def _rows(lines: Iterable[bytes], first: int, name: str) -> Iterator[Row]:
    for number, line in enumerate(lines, first):
        if line.strip():
            yield number, _parsed(line, number, name)


def _read_block(block: bytes, column: str, type_: pa.DataType) -> pa.Array[Any] | None:
    """Parse one column of a block at full speed, or return None where that fails."""
    import pyarrow as pa
    import pyarrow.json as pa_json

    data: Any = pa.BufferReader(block)
    try:
        rows = pa_json.read_json(
            data,
            read_options=pa_json.ReadOptions(block_size=_PARSE_BYTES),
            parse_options=pa_json.ParseOptions(
                explicit_schema=pa.schema([(column, type_)]), unexpected_field_behavior="ignore"
            ),
        )
        return checked(rows.column(column).combine_chunks())
    except (pa.ArrowException, ValueError):
        return None


def _read_slowly(block: bytes, column: str, first: int, name: str) -> pa.Array[Any]:
    """Parse one column of a block line by line, so that whatever is wrong has a line number."""
    # Split at newlines only: splitlines would also split at characters that JSON allows.
    return _column(list(_rows(block.split(b"\n"), first, name)), column, name)


def _parsed(line: bytes, number: int, name: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise SourceError(
            f"{name}, line {number:,}: not valid JSON: {error.msg} at column {error.colno}. "
            "The line may be cut off."
        ) from error
    except RecursionError as error:
        raise SourceError(f"{name}, line {number:,}: nested too deeply to be read.") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{name}, line {number:,}: not valid UTF-8: {error.reason}.") from error
    if not isinstance(value, dict):
        raise SourceError(
            f'{name}, line {number:,}: expected an object such as {{"length": 12}}, found '
            f"{one_line(line.decode(), 40)}"
        )
    return value


def _column(rows: Sequence[Row], column: str, name: str) -> pa.Array[Any]:
    import pyarrow as pa

    values = [row.get(column) for _, row in rows]
    kind: str | None = None
    for (number, _), value in zip(rows, values, strict=True):
        found = _kind(value)
        if kind is not None and found is not None and found != kind:
            raise SourceError(
                f"{name}, line {number:,}: {column!r} is {found} here, but {kind} before."
            )
        kind = kind or found
    try:
        return cast("pa.Array[Any]", pa.array(values))
    except (pa.ArrowException, TypeError):
        if kind != "a list":
            raise
        # Lists of items of several types have no Arrow type; how many they hold is all we need.
        return pa.array([None if value is None else [None] * len(value) for value in values])


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
