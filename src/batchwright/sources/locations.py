"""The location of a file or folder: a path on this machine or a `Uri`, with the same methods."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from batchwright.errors import SourceError, SourceNotFoundError
from batchwright.sources import uris
from batchwright.sources.uris import Facts

_COLLAPSED = re.compile(r"[a-z][a-z0-9+.-]+:[/\\](?![/\\])")


@dataclass(frozen=True)
class Uri:
    """A file or folder of a remote file system, with the methods of `pathlib.Path` used here.

    Its size and ETag are asked for once, or taken from the listing in which it was found.

    Example:
        >>> file = Uri("s3://bucket/corpus/a.jsonl.gz")
        >>> file.name, file.suffix, str(file.with_suffix(""))
        ('a.jsonl.gz', '.gz', 's3://bucket/corpus/a.jsonl')
    """

    text: str
    known: Facts | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> Uri:
        return Uri(str(uris.joined(self.text, name)))

    @cached_property
    def facts(self) -> Facts | None:
        """What the file system says about it. None: it does not exist."""
        return self.known or uris.facts_of(self.text)

    @cached_property
    def _path(self) -> PurePosixPath:
        return PurePosixPath(uris.split(self.text)[2])

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of its path."""
        return self._path.parts

    @property
    def name(self) -> str:
        """Its last part."""
        return self._path.name

    @property
    def suffix(self) -> str:
        """The end of its name, from the last dot on."""
        return self._path.suffix

    @property
    def suffixes(self) -> list[str]:
        """All suffixes of its name."""
        return self._path.suffixes

    @property
    def stem(self) -> str:
        """Its name without the suffix."""
        return self._path.stem

    def with_suffix(self, suffix: str) -> Uri:
        """Return the same location with another suffix."""
        before, scheme, path, after = uris.split(self.text)
        return Uri(f"{before}{scheme}{path.removesuffix(self.suffix)}{suffix}{after}")

    def exists(self) -> bool:
        """Return whether it exists."""
        return self.facts is not None

    def is_file(self) -> bool:
        """Return whether it is a file."""
        return self.facts is not None and not self.facts.is_folder

    def is_dir(self) -> bool:
        """Return whether it is a folder."""
        return self.facts is not None and self.facts.is_folder

    def iterdir(self) -> Iterator[Uri]:
        """List the files and folders in a folder."""
        yield from (Uri(text, facts) for text, facts in uris.facts_of_folder(self.text).items())

    def glob(self, pattern: str) -> Iterator[Uri]:
        """List the files and folders in a folder that match a pattern."""
        yield from expanded(self / pattern)

    def open(self, mode: Literal["rb"] = "rb") -> io.BufferedReader:
        """Open it for reading."""
        return io.BufferedReader(uris.remote_file(self.text))

    def read_bytes(self) -> bytes:
        """Read all of it."""
        with self.open() as file:
            return file.read()


AnyPath: TypeAlias = "Path | Uri"


def located(source: uris.Location) -> AnyPath:
    """Return a `Path` or a `Uri`. A URI with `file://` becomes a path.

    Example:
        >>> located("s3://bucket/a.csv")
        Uri(text='s3://bucket/a.csv')
        >>> located("file:///data/a.csv") == Path("/data/a.csv")
        True
    """
    path = uris.local_path(source)
    if path is None:
        return Uri(os.fspath(source))
    if _COLLAPSED.match(str(path)) and not path.exists():
        raise SourceNotFoundError(
            f"There is no file {path}. If it is a URI, pass it as text: a Path keeps one of two "
            "slashes."
        )
    return path


def expanded(pattern: Uri) -> list[Uri]:
    """Return the files that match a pattern."""
    return [Uri(text, facts) for text, facts in uris.facts_of_matches(pattern.text).items()]


def size_of(file: AnyPath) -> int:
    """Return how many bytes a file has."""
    if isinstance(file, Path):
        return file.stat().st_size
    if file.facts is None:
        raise SourceNotFoundError(f"There is no file {file}.")
    if file.facts.size < 0:
        raise SourceError(
            f"{file}: its server does not say how large it is. Copy it to this machine."
        )
    return file.facts.size
