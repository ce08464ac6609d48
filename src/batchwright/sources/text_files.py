"""Text files, compressed or not, in blocks of whole rows: lines, JSON lines, CSV and TSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from batchwright._format import one_line
from batchwright.errors import SourceError
from batchwright.sources.locations import AnyPath, size_of
from batchwright.sources.table import Batches, Columns, checked, kind_of, native_file, reading

if TYPE_CHECKING:
    import pyarrow as pa

    from batchwright.sources.table import Array

Blocks: TypeAlias = Generator[tuple[bytes, float], None, None]
"""Bytes in order, each piece with the fraction of the file that has been read."""

Codec: TypeAlias = Literal["gzip", "bz2", "zstd", "lz4"]

CODECS: dict[str, Codec] = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}

_BLOCK_BYTES = 16 << 20
_ROW_BYTES = 16 << 20  # a longer row is a sign of damage
# A file may unpack to this many bytes, or this many times its size, whichever is more.
_ALWAYS_UNPACKED = 64 << 20
_MOST_UNPACKED = 200
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_JSON_BYTES = 2 << 20  # that one thread parses at a time
# The columns of JSON, and the type of the one to read, are found within both limits.
_HEAD_LINES = 1000
_HEAD_BYTES = 4 << 20

# As in the parser of pyarrow, a quotation mark inside a value that did not begin with one is a
# character. A final carriage return ends no row yet: a newline may follow.
_VALUES = rb'(?:[^"\r\n]++|(?<![^%b\r\n])"[^"]*+(?:""[^"]*+)*+"|(?<=[^%b\r\n])")*+'
_ROW = rb"(?:%b(?:\r\n|\n|\r(?!\Z)))"


def _end_of_lines(data: bytes) -> int:
    return data.rfind(b"\n") + 1


def row_blocks(
    path: AnyPath, end_of_rows: Callable[[bytes], int] = _end_of_lines, *, size: int | None = None
) -> Blocks:
    """Read whole rows, about `size` bytes at a time, unpacked and without a byte order mark.

    `end_of_rows` finds the end of the last whole row in data that begins with a row. What follows
    the last whole row of the file is yielded alone, with fraction 1.
    """
    rest = b""
    for data, fraction in _unpacked(path, size or _BLOCK_BYTES):
        joined = rest + data if rest else data
        end = end_of_rows(joined)
        if end:
            yield joined[:end], fraction
        rest = joined[end:]
        if len(rest) > _ROW_BYTES:
            raise SourceError(
                f"{path} has a row of more than {_ROW_BYTES >> 20} MiB: perhaps a line end or a "
                "quotation mark is missing. Parquet can have rows of any length."
            )
    if rest:
        yield rest, 1.0


def _unpacked(path: AnyPath, size: int) -> Blocks:
    import pyarrow as pa

    codec = CODECS.get(path.suffix.lower())
    with ExitStack() as opened:
        file = opened.enter_context(native_file(path))
        packed = max(1, size_of(path))
        stream: Any = file
        if codec is not None:
            stream = opened.enter_context(pa.CompressedInputStream(file, codec))
        most = max(_ALWAYS_UNPACKED, _MOST_UNPACKED * packed)
        total = 0
        # Read in this thread: read-ahead of pyarrow crashes if an error closes the stream.
        while data := stream.read(size):
            total += len(data)
            if codec is not None and total > most:
                raise SourceError(
                    f"{path} unpacks to more than {most >> 20:,} MiB, from {packed:,} bytes. "
                    "Unpack it first if that is intended."
                )
            if total == len(data):
                data = data.removeprefix(_BYTE_ORDER_MARK)
            yield data, min(1.0, file.tell() / packed)


def lines(path: AnyPath) -> Columns:
    """Open a text file in which every line is a sample."""

    def batches(_: str) -> Batches:
        import pyarrow as pa
        import pyarrow.compute as pc

        for block, fraction in row_blocks(path):
            rows = block.removesuffix(b"\n").replace(b"\r\n", b"\n").removesuffix(b"\r")
            split: Any = pc.split_pattern(pa.array([rows]), "\n")
            yield split.flatten().cast(pa.string()), fraction  # which refuses invalid UTF-8

    return ("text",), batches


def json_lines(path: AnyPath) -> Columns:
    """Open a file with one JSON object per line. Its columns are the keys in the first thousand."""
    name = str(path)
    with closing(row_blocks(path, size=_HEAD_BYTES)) as first:
        block, _ = next(first, (b"", 1.0))
    head = block.split(b"\n", _HEAD_LINES)[:_HEAD_LINES]
    columns = tuple(dict.fromkeys(key for _, row in _objects(head, 1, name) for key in row))

    def batches(column: str) -> Batches:
        expected = _values(_objects(head, 1, name), column)
        first_line = 1
        for block, fraction in row_blocks(path):
            array = _parsed_json(block, column, expected.type)
            if array is None:
                # Split at newlines only: splitlines would also split where JSON allows it.
                array = _values(_objects(block.split(b"\n"), first_line, name), column)
                if kind_of(array) == kind_of(expected) == "numbers":
                    expected = array  # integers so far, floats from here on
            yield array, fraction
            first_line += block.count(b"\n")

    return columns, batches


def _parsed_json(block: bytes, column: str, type_: pa.DataType) -> Array | None:
    """Parse one column of a block at full speed; return None if that fails."""
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
            pa_json.ReadOptions(block_size=_JSON_BYTES),
            pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        return checked(rows.column(column).combine_chunks())
    except Exception:  # noqa: BLE001 -- the slow reader then says what is wrong, and in which line
        return None


def _objects(
    lines: Iterable[bytes], first: int, name: str
) -> Iterator[tuple[str, dict[str, object]]]:
    """Parse lines that are not blank; yield each with its location."""
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


def _values(rows: Iterable[tuple[str, dict[str, object]]], column: str) -> Array:
    """Collect one column of parsed lines; raise if its kind changes."""
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
    array: Array
    if kind == "list":
        with suppress(pa.ArrowException, TypeError, ValueError, OverflowError):
            array = pa.array(values)
            return array
        # Lists of items of several types have no Arrow type; their sizes are enough.
        values = [None if value is None else [None] * len(value) for value in values]
    array = pa.array(values)
    return array


def delimited(path: AnyPath, delimiter: bytes = b",") -> Columns:
    """Open a file of delimited values, whose first line names the columns."""
    mark = re.escape(delimiter)
    values = _VALUES % (mark, mark)
    row = _ROW % values
    first_row, whole_rows = re.compile(row), re.compile(row + b"*+")
    closed = re.compile(row + b"*+" + values + rb"\r?")

    def end_of_rows(data: bytes) -> int:
        if b'"' not in data and b"\r" not in data:
            return _end_of_lines(data)
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

    with closing(rows(1 << 20)) as blocks:
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
            parsed = _parsed_csv(block[skip:], k, len(columns), delimiter, rows_before)
            rows_before += len(parsed)
            skip = 0
            yield parsed, fraction

    return columns, batches


def _parsed_csv(rows: bytes, k: int, width: int, delimiter: bytes, rows_before: int) -> Array:
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
