"""Text files as bytes, whether compressed or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

CODECS: dict[str, Literal["gzip", "bz2", "zstd", "lz4"]] = {
    ".gz": "gzip",
    ".bz2": "bz2",
    ".zst": "zstd",
    ".lz4": "lz4",
}
"""The codec that each suffix after `.jsonl`, `.csv` … stands for."""


@contextmanager
def opened(path: Path) -> Iterator[tuple[pa.NativeFile, Callable[[], float]]]:
    """Open a file for reading, decompressed as its suffix says.

    Yields:
        The stream of bytes, and a function that tells which fraction of the file has been read.
    """
    import pyarrow as pa

    with pa.OSFile(str(path), "rb") as file:
        size = max(1, file.size())
        codec = CODECS.get(path.suffix.lower())
        if codec is None:
            yield file, lambda: file.tell() / size
            return
        with pa.CompressedInputStream(file, codec) as stream:
            yield stream, lambda: file.tell() / size
