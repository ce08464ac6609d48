"""Lengths that were read once, kept on disk: the second time is instant."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from batchwright._files import replacing
from batchwright.errors import SourceError

_FORMAT = 1
"""Part of every key: raise it when what is measured, or how it is kept, changes."""


def place(*, cache: bool | str | os.PathLike[str]) -> Path | None:
    """Return where results are kept, or None for nowhere.

    Args:
        cache: A directory; or True for the environment's: `BATCHWRIGHT_CACHE`, else
            `batchwright` in `XDG_CACHE_HOME` or in `~/.cache`; or False.

    Raises:
        SourceError: The directory that was named is a file.
    """
    if cache is False:
        return None
    if cache is not True:
        named = Path(cache)
        if named.exists() and not named.is_dir():
            raise SourceError(f"cache={str(named)!r} is a file; expected a directory, or False.")
        return named
    if own := os.environ.get("BATCHWRIGHT_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared, "batchwright")
    try:
        return Path.home() / ".cache" / "batchwright"
    except RuntimeError:  # no home
        return None


def identity(files: Sequence[Path]) -> list[tuple[str, int, int]] | None:
    """Return what tells files from changed ones: absolute path, size, and time of change."""
    try:
        facts = [(str(file.absolute()), file.stat()) for file in files]
    except OSError:  # gone, or not ours to see: opening it will say so
        return None
    return [(path, status.st_size, status.st_mtime_ns) for path, status in facts]


def key(*facts: object) -> str:
    """Return a name for a result, made of everything that it depends on.

    Args:
        facts: Values that JSON can write.
    """
    text = json.dumps([_FORMAT, *facts], ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def load(directory: Path, key: str) -> np.ndarray | None:
    """Return the lengths kept under `key`, or None where there are none, or damaged ones."""
    try:
        with _file(directory, key).open("rb") as file:
            lengths = np.load(file, allow_pickle=False)
            checksum = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError):
        return None
    sound = (
        isinstance(lengths, np.ndarray)
        and lengths.ndim == 1
        and lengths.dtype.kind in "iu"
        and np.array_equal(checksum, _checksum(lengths))
    )
    return lengths if sound else None


def save(directory: Path, key: str, lengths: np.ndarray) -> None:
    """Keep `lengths` under `key`: whole or not at all, whatever interrupts it.

    A disk that is full or read-only costs the cache, not the lengths: it is a warning.
    """
    lengths = np.ascontiguousarray(lengths)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        place = _file(directory, key)
        with replacing(place, SourceError) as unfinished, unfinished.open("wb") as file:
            np.save(file, lengths, allow_pickle=False)
            np.save(file, _checksum(lengths), allow_pickle=False)
    except (OSError, SourceError) as error:
        warnings.warn(
            f"The lengths could not be kept in {directory}: {error}. They are read again next "
            "time. Pass cache=False, or another directory.",
            RuntimeWarning,
            stacklevel=3,
        )


def _file(directory: Path, key: str) -> Path:
    return directory / f"lengths-{key}.npy"


def _checksum(lengths: np.ndarray) -> np.ndarray:
    return np.array([zlib.crc32(lengths.data)], dtype=np.uint32)
