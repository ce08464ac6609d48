"""Measured lengths, kept on disk under the content of what was measured."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from batchwright._array_file import read_checked_npy, write_checked_npy
from batchwright.errors import SourceError

_FORMAT = 3
"""Part of every key: raise it when what is measured, or how it is kept, changes."""


def place(*, cache: bool | str | os.PathLike[str]) -> Path | None:
    """Return the directory of the cache: a given one, the environment's, or None for no cache.

    Raises:
        SourceError: The directory is a file.
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
    try:
        shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # no home
        return None
    return Path(shared, "batchwright")


def contents(files: Sequence[Path]) -> list[tuple[str, str]] | None:
    """Return the suffixes and a hash of each file; None where one cannot be read."""
    try:
        with ThreadPoolExecutor() as pool:
            hashes = list(pool.map(_hash, files))
    except OSError:
        return None
    return [
        ("".join(file.suffixes[-2:]).lower(), digest)
        for file, digest in zip(files, hashes, strict=True)
    ]


def state(files: Sequence[Path]) -> list[tuple[int, ...]] | None:
    """Return what changes when somebody writes to one of the files."""
    try:
        facts = [file.stat() for file in files]
    except OSError:
        return None
    return [(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in facts]


def key(*facts: object) -> str:
    """Return the name of a result, from everything it depends on, as values that JSON can write."""
    text = json.dumps([_FORMAT, *facts], ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def load(directory: Path, key: str) -> np.ndarray | None:
    """Return the lengths kept under `key`; None where there are none, or damaged ones."""
    return read_checked_npy(_file(directory, key))


def save(directory: Path, key: str, lengths: np.ndarray) -> None:
    """Keep `lengths` under `key`, whole or not at all; warn where the disk does not allow it."""
    file = _file(directory, key)
    if file.exists() and not file.is_file():  # a pipe would wait
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_checked_npy(file, lengths, SourceError)
    except (OSError, SourceError) as error:
        warnings.warn(
            f"The lengths could not be kept in {directory}: {error} They are read again next "
            "time. Pass cache=False, or another directory.",
            RuntimeWarning,
            stacklevel=3,
        )


def _file(directory: Path, key: str) -> Path:
    return directory / f"lengths-{key}.npy"


def _hash(file: Path) -> str:
    if not file.is_file():  # a pipe would wait
        raise FileNotFoundError(file)
    with file.open("rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()
