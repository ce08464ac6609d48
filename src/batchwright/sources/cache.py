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

from batchwright._array_file import write_checked_npy
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

    def hashed(file: Path) -> tuple[str, str]:
        if not file.is_file():  # a pipe would wait
            raise FileNotFoundError(file)
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "blake2b").hexdigest()
        return "".join(file.suffixes[-2:]).lower(), digest

    try:
        with ThreadPoolExecutor() as pool:
            return list(pool.map(hashed, files))
    except OSError:
        return None


def state(files: Sequence[Path]) -> list[tuple[int, ...]] | None:
    """Return what changes when somebody writes to one of the files."""
    try:
        facts = [file.stat() for file in files]
    except OSError:
        return None
    return [(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in facts]


def entry(directory: Path, *facts: object) -> Path:
    """Return the file of a result, from everything it depends on, as values for JSON."""
    text = json.dumps([_FORMAT, *facts], ensure_ascii=True)
    key = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return directory / f"lengths-{key}.npy"


def save(file: Path, lengths: np.ndarray) -> None:
    """Keep lengths, whole or not at all; warn where the disk does not allow it."""
    if file.exists() and not file.is_file():  # a pipe would wait
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_checked_npy(file, lengths, SourceError)
    except (OSError, SourceError) as error:
        warnings.warn(
            f"The lengths could not be kept in {file.parent}: {error} They are read again next "
            "time. Pass cache=False, or another directory.",
            RuntimeWarning,
            stacklevel=3,
        )
