"""Lengths that were read once, kept on disk under what they were read from: its content."""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from batchwright._files import write_bytes
from batchwright.errors import SourceError

_FORMAT = 2
"""Part of every key: raise it when what is measured, or how it is kept, changes."""

_CHECKSUM_BYTES = 16


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


def contents(files: Sequence[Path]) -> list[tuple[str, str]] | None:
    """Return what tells files from any others: the kind and a hash of the content of each.

    None where one of them is gone, or not ours to read: opening it says why.

    Complexity:
        O(bytes): every file is read.
    """
    try:
        with ThreadPoolExecutor() as pool:
            return [
                (_kind(file), digest)
                for file, digest in zip(files, pool.map(_hash, files), strict=True)
            ]
    except OSError:
        return None


def state(files: Sequence[Path]) -> list[tuple[int, ...]] | None:
    """Return what changes when somebody writes into files, for as long as this process looks."""
    try:
        facts = [file.stat() for file in files]
    except OSError:
        return None
    return [(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in facts]


def key(*facts: object) -> str:
    """Return a name for a result, made of everything that it depends on.

    Args:
        facts: Values that JSON can write.
    """
    text = json.dumps([_FORMAT, *facts], ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def load(directory: Path, key: str) -> np.ndarray | None:
    """Return the lengths kept under `key`, or None where there are none, or damaged ones."""
    file = _file(directory, key)
    try:
        kept = file.read_bytes() if file.is_file() else b""
    except OSError:
        return None
    content, checksum = kept[:-_CHECKSUM_BYTES], kept[-_CHECKSUM_BYTES:]
    if not content or checksum != _checksum(content):
        return None
    lengths: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
    return lengths


def save(directory: Path, key: str, lengths: np.ndarray) -> None:
    """Keep `lengths` under `key`: whole or not at all, whatever interrupts it.

    A disk that is full or read-only costs the cache, not the lengths: it is a warning.
    """
    content = io.BytesIO()
    np.save(content, lengths, allow_pickle=False)
    whole = content.getvalue() + _checksum(content.getvalue())
    file = _file(directory, key)
    if file.exists() and not file.is_file():  # a pipe would be waited for
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_bytes(file, whole, SourceError)
    except (OSError, SourceError) as error:
        warnings.warn(
            f"The lengths could not be kept in {directory}: {error} They are read again next "
            "time. Pass cache=False, or another directory.",
            RuntimeWarning,
            stacklevel=3,
        )


def _file(directory: Path, key: str) -> Path:
    return directory / f"lengths-{key}.npy"


def _kind(file: Path) -> str:
    return "".join(file.suffixes[-2:]).lower()


def _hash(file: Path) -> str:
    if not file.is_file():  # a pipe would be waited for
        raise FileNotFoundError(file)
    with file.open("rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECKSUM_BYTES).digest()
