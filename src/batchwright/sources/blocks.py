"""Text files, compressed or not, in blocks of whole rows."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, TypeAlias

from batchwright.errors import SourceError
from batchwright.sources.table import Batches, Columns, native_file

Blocks: TypeAlias = Generator[tuple[bytes, float], None, None]
"""Bytes in order, each piece with the fraction of the file that has been read."""

Codec: TypeAlias = Literal["gzip", "bz2", "zstd", "lz4"]

CODECS: dict[str, Codec] = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}

_BLOCK_BYTES = 16 << 20
_ROW_BYTES = 16 << 20  # a longer row is a sign of damage
# A file may unpack to so many bytes, or to so many times its size, whichever is more.
_ALWAYS_UNPACKED = 64 << 20
_MOST_UNPACKED = 200
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def end_of_lines(data: bytes) -> int:
    """Return where the last whole line ends."""
    return data.rfind(b"\n") + 1


def row_blocks(
    path: Path, end_of_rows: Callable[[bytes], int] = end_of_lines, *, size: int | None = None
) -> Blocks:
    """Read whole rows, about `size` bytes at a time, unpacked and without a byte order mark.

    `end_of_rows` finds where the last whole row ends in data that begins with a row. What follows
    the last one comes by itself, with fraction 1.
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
                f"{path} has a row of more than {_ROW_BYTES >> 20} MiB: perhaps a line end, or a "
                "quotation mark, is missing. Parquet holds rows of any length."
            )
    if rest:
        yield rest, 1.0


def _unpacked(path: Path, size: int) -> Blocks:
    import pyarrow as pa

    codec = CODECS.get(path.suffix.lower())
    with ExitStack() as opened:
        file = opened.enter_context(native_file(path))
        packed = max(1, file.size())
        stream: Any = file
        if codec is not None:
            stream = opened.enter_context(pa.CompressedInputStream(file, codec))
        most = max(_ALWAYS_UNPACKED, _MOST_UNPACKED * packed)
        total = 0
        # Read in this thread: read-ahead of pyarrow crashes where an error closes the stream.
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


def lines(path: Path) -> Columns:
    """Open a text file in which every line is a sample."""

    def batches(_: str) -> Batches:
        import pyarrow as pa
        import pyarrow.compute as pc

        for block, fraction in row_blocks(path):
            rows = block.removesuffix(b"\n").replace(b"\r\n", b"\n").removesuffix(b"\r")
            split: Any = pc.split_pattern(pa.array([rows]), "\n")
            yield split.flatten().cast(pa.string()), fraction  # which refuses invalid UTF-8

    return ("text",), batches
