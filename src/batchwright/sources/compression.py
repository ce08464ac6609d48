"""Text files in blocks of whole rows, whether compressed or not."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, TypeAlias

from batchwright.errors import SourceError
from batchwright.sources.table import native_file, reading

Blocks: TypeAlias = Generator[tuple[bytes, float], None, None]
"""Bytes in order, each piece with the fraction of the file that has been read by then."""

CODECS: dict[str, Literal["gzip", "bz2", "zstd", "lz4"]] = {
    ".gz": "gzip",
    ".bz2": "bz2",
    ".zst": "zstd",
    ".lz4": "lz4",
}
"""The codec that each suffix after `.jsonl`, `.csv` … stands for."""

BLOCK_BYTES = 16 << 20
"""About how much is read at a time."""

ROW_BYTES = 16 << 20
"""The longest row that is read: beyond, a file is damaged rather than meant so."""

_ALWAYS_UNPACKED = 64 << 20
_MOST_UNPACKED = 200
"""A file may unpack to so many bytes, or to so many times its size, whichever is more."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def end_of_lines(data: bytes) -> int:
    """Return where the last whole line of some lines ends."""
    return data.rfind(b"\n") + 1


def blocks(
    path: Path, kind: str, size: int, end_of_rows: Callable[[bytes], int] = end_of_lines
) -> Blocks:
    """Read whole rows, about `size` bytes at a time, decompressed as the file's suffix says.

    A byte order mark at the beginning is left out.

    Args:
        path: The file.
        kind: What it is read as, for messages.
        size: Bytes.
        end_of_rows: Given data that begins with a row, finds where its last whole row ends.

    Yields:
        The rows, and the fraction of the file that has been read by then. The last row of all,
        whose end nothing marks, comes by itself, with 1.

    Raises:
        SourceError: The file cannot be read, a row is longer than `ROW_BYTES`, or the file
            unpacks to far more than its size.

    Complexity:
        O(bytes), with some `ROW_BYTES` in memory.
    """
    rest = b""
    for data, fraction in _unpacked(path, kind, size):
        joined = rest + data if rest else data
        end = end_of_rows(joined)
        if end:
            yield joined[:end], fraction
        rest = joined[end:]
        if len(rest) > ROW_BYTES:
            raise SourceError(
                f"{path} has a row of more than {ROW_BYTES >> 20} MiB: perhaps a line end, or a "
                "quotation mark, is missing. Parquet holds rows of any length."
            )
    if rest:
        yield rest, 1.0


def _unpacked(path: Path, kind: str, size: int) -> Blocks:
    codec = CODECS.get(path.suffix.lower())
    # One thread reads, so that nothing reads what is closed already.
    with ExitStack() as opened:
        with reading(str(path), kind):
            import pyarrow as pa

            file = opened.enter_context(native_file(path))
            packed = max(1, file.size())
            stream: Any = file
            if codec is not None:
                stream = opened.enter_context(pa.CompressedInputStream(file, codec))
        most = max(_ALWAYS_UNPACKED, _MOST_UNPACKED * packed)
        total = 0
        while True:
            with reading(str(path), kind):
                data: bytes = stream.read(size)
                fraction = min(1.0, file.tell() / packed)
            if not data:
                return
            if not total:
                data = data.removeprefix(_BYTE_ORDER_MARK)
            total += len(data)
            if codec is not None and total > most:
                raise SourceError(
                    f"{path} unpacks to more than {most >> 20:,} MiB, of {packed:,} bytes. Unpack "
                    "it before reading, if that is meant so."
                )
            yield data, fraction
