"""Files by path or by URI: `s3://bucket/a.parquet`, `gs://…`, `memory://…`, all that fsspec opens.

Paths and `file://` URIs do not use fsspec, which need not be installed for them. Options of a file
system, such as an endpoint or anonymous access, are set in fsspec's own configuration.
"""

from __future__ import annotations

import glob
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from batchwright._files import write_bytes
from batchwright._format import one_line
from batchwright.errors import (
    BatchwrightError,
    MissingExtraError,
    SourceError,
    SourceNotFoundError,
)

Location: TypeAlias = "str | os.PathLike[str]"
"""A path or a URI."""

# At least two letters: one letter is a drive of Windows. File systems may be chained before it, as
# in `simplecache::s3://bucket/a.csv`.
_SCHEME = re.compile(r"(?:[a-z][a-z0-9+.-]+::)*([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_ETAGS = ("ETag", "etag")
_TIMES = ("LastModified", "last_modified", "modified", "mtime", "updated", "created")


class Facts(NamedTuple):
    """What a remote file system says about a file or a folder."""

    is_folder: bool
    size: int  # in bytes; -1 if the file system does not say
    etag: str  # "" if the file system has none
    time: str  # of the last modification, in nanoseconds; "" if unknown


def is_uri(source: Location) -> bool:
    """Return whether a source is given by a URI, not by a path.

    Example:
        >>> is_uri("s3://bucket/a.parquet"), is_uri("data/a.parquet"), is_uri("C://a.parquet")
        (True, False, False)
    """
    text = os.fspath(source)
    return isinstance(text, str) and _SCHEME.match(text) is not None


def local_path(location: Location) -> Path | None:
    """Return the path of a file on this machine, given by a path or a `file://` URI, or None.

    Example:
        >>> local_path("file:///data/a.csv") == Path("/data/a.csv"), local_path("s3://bucket/a.csv")
        (True, None)
    """
    if not is_uri(location):
        return Path(location)
    scheme, _, path = os.fspath(location).partition("://")
    if scheme.lower() not in {"file", "local"}:
        return None
    return Path(path.removeprefix("/") if os.name == "nt" else path)  # /C:/a


def joined(folder: Location, name: str) -> str | Path:
    """Return the location of a file in a folder.

    Example:
        >>> joined("s3://bucket/corpus/", "a.csv"), joined("zip://data::s3://bucket/a.zip", "a.csv")
        ('s3://bucket/corpus/a.csv', 'zip://data/a.csv::s3://bucket/a.zip')
    """
    if not is_uri(folder):
        return Path(folder, name)
    before, root, path, after = split(os.fspath(folder))
    return f"{before}{root}{path}/{name}{after}" if path else f"{before}{root}{name}{after}"


def matches(pattern: Location) -> list[str]:
    """Return the files that match a pattern, as `s3://bucket/corpus/*.parquet`, sorted by name.

    Example:
        >>> matches("memory://nothing/*.csv")
        []
    """
    if (path := local_path(pattern)) is not None:
        found = glob.glob(str(path))  # noqa: PTH207 -- Path.glob takes no absolute pattern
        return sorted(found, key=lambda name: Path(name).parts)
    return sorted(facts_of_matches(os.fspath(pattern)), key=lambda name: name.split("/"))


@contextmanager
def opened(location: Location) -> Iterator[io.BufferedReader]:
    """Open a file for reading and seeking.

    Example:
        >>> written("memory://opened/a.txt", b"a file")
        >>> with opened("memory://opened/a.txt") as file:
        ...     file.seek(2), file.read()
        (2, b'file')
    """
    if (path := local_path(location)) is not None:
        with _explained(os.fspath(location)):
            file = path.open("rb")
    else:
        file = io.BufferedReader(remote_file(os.fspath(location)))
    with file:
        yield file


def exists(location: Location) -> bool:
    """Return whether there is such a file or folder.

    Example:
        >>> exists("memory://nothing/a.csv")
        False
    """
    path = local_path(location)
    return facts_of(os.fspath(location)) is not None if path is None else path.exists()


def stamp(location: Location) -> tuple[int, str]:
    """Return the size in bytes, and a stamp that changes when the file does.

    It is the ETag if the file system has one, else the time of the last modification in
    nanoseconds, else empty.
    """
    uri = os.fspath(location)
    if (path := local_path(location)) is not None:
        with _explained(uri):
            found = path.stat()
        return found.st_size, str(found.st_mtime_ns)
    if (facts := facts_of(uri)) is None:
        raise SourceNotFoundError(f"There is no file {uri}.")
    return facts.size, facts.etag or facts.time


def written(location: Location, content: bytes, *, tidy: bool = True) -> None:
    """Write a file completely or not at all; in a remote file system with one put.

    Without `tidy`, unfinished files of killed writers stay in a folder on this machine: looking for
    them takes longer with every file.
    """
    if (path := local_path(location)) is not None:
        write_bytes(path, content, SourceError, tidy=tidy)
        return
    uri = os.fspath(location)
    system, inner = _system_of(uri)
    with _explained(uri, "written"):
        system.pipe_file(inner, content)


def facts_of(uri: str) -> Facts | None:
    """Ask the file system about a URI, without its cache. None: it does not exist."""
    system, inner = _system_of(uri)
    with _explained(uri):
        system.invalidate_cache(inner)  # others may have written since it was listed
        try:
            return _facts(system.info(inner))
        except (FileNotFoundError, NotADirectoryError):
            return None


def facts_of_matches(pattern: str) -> dict[str, Facts]:
    """List the files that match a pattern, by URI."""
    system, inner = _system_of(pattern)
    with _explained(pattern):
        system.invalidate_cache()
        try:
            listed = system.glob(inner, detail=True)
        except FileNotFoundError:
            return {}
        names = _as_uris(pattern, inner, list(listed))
        return dict(zip(names, map(_facts, listed.values()), strict=True))


def facts_of_folder(folder: str) -> dict[str, Facts]:
    """List the files in a folder, by URI."""
    system, inner = _system_of(folder)
    with _explained(folder):
        system.invalidate_cache(inner)
        listed = system.ls(inner, detail=True)
        names = _as_uris(folder, inner, [each["name"] for each in listed])
        return dict(zip(names, map(_facts, listed), strict=True))


def remote_file(uri: str, *, read_ahead: bool = True) -> io.RawIOBase:
    """Open a remote file; with `read_ahead=False`, only the requested bytes are read."""
    system, inner = _system_of(uri)
    more = {} if read_ahead else {"cache_type": "none"}
    with _explained(uri):
        return _Remote(system.open(inner, "rb", **more), uri)


def split(uri: str) -> tuple[str, str, str, str]:
    """Split a URI into the part chained before it, its scheme, its path, and the part after it.

    Example:
        >>> split("zip://data/a.csv::s3://bucket/a.zip")
        ('', 'zip://', 'data/a.csv', '::s3://bucket/a.zip')
    """
    found = _SCHEME.match(uri)
    if found is None:
        raise ValueError(f"{uri!r} is no URI")
    scheme = found[0][found.start(1) :]
    path, mark, chained = uri[found.end() :].partition("::")
    query = ""
    if scheme.lower().startswith("http"):  # elsewhere, question marks belong to names
        path, question, query = path.partition("?")
        query = question + query
    return uri[: found.start(1)], scheme, path.rstrip("/"), query + mark + chained


class _Remote(io.RawIOBase):
    """A file of fsspec whose errors name it.

    It keeps its own position, because all that open a file of `memory://` share one.
    """

    def __init__(self, file: Any, uri: str) -> None:
        self._file, self._uri, self._position = file, uri, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        with _explained(self._uri):
            if whence == os.SEEK_CUR:
                offset, whence = self._position + offset, os.SEEK_SET
            self._position = int(self._file.seek(offset, whence))
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        with _explained(self._uri):
            if self._file.tell() != self._position:
                self._file.seek(self._position)
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _as_uris(uri: str, inner: str, listed: list[str]) -> list[str]:
    """Write paths of a file system as URIs, with the scheme and the host of `uri`.

    The common end of a URI and its inner path is the path in both; paths that were found beside it
    begin in the same way.
    """
    before, root, path, after = split(uri)
    host, same = root + path, inner
    while same and host[-1:] == same[-1:]:
        host, same = host[:-1], same[:-1]
    return [f"{before}{host}{name.removeprefix(same)}{after}" for name in listed]


def _system_of(uri: str) -> tuple[Any, str]:
    """Return the file system of a URI, and the path in it."""
    scheme = split(uri)[1].removesuffix("://")
    with _explained(uri):
        from fsspec.core import url_to_fs
        from fsspec.registry import get_filesystem_class

        try:
            get_filesystem_class(scheme)
        except ValueError as error:
            raise SourceError(
                f"{uri} begins with an unknown scheme, {scheme!r}; expected a path, or one that "
                "fsspec knows, such as s3, gs, az, hf or https."
            ) from error
        system, inner = url_to_fs(uri)
        return system, str(inner)


def _facts(said: dict[str, Any]) -> Facts:
    etag = next((str(said[key]) for key in _ETAGS if said.get(key)), "")
    size = -1 if (size := said.get("size")) is None else int(size)
    return Facts(said.get("type") == "directory", size, etag, _time(said))


def _time(said: dict[str, Any]) -> str:
    time = next((said[key] for key in _TIMES if said.get(key)), "")
    if isinstance(time, datetime):
        time = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    return str(round(time * 1e6) * 1000) if isinstance(time, int | float) else str(time)


@contextmanager
def _explained(uri: str, done: Literal["read", "written"] = "read") -> Iterator[None]:
    """Turn any error of a file system into one of Batchwright's, in one line."""
    try:
        yield
    except BatchwrightError:
        raise
    except FileNotFoundError as error:
        if done == "written":
            raise SourceNotFoundError(f"There is no folder or bucket for {uri}.") from error
        raise SourceNotFoundError(f"There is no file {uri}.") from error
    except ImportError as error:
        raise MissingExtraError(f"{uri}: {_how_to_install(uri, error)}") from error
    except Exception as error:
        reason = one_line(error, 300)
        if isinstance(error, PermissionError):
            reason = f"access was denied ({reason})"
        raise SourceError(f"{uri} cannot be {done}: {reason}") from error


def _how_to_install(uri: str, error: ImportError) -> str:
    cause = error if error.name else error.__cause__
    package = (cause.name if isinstance(cause, ImportError) else None) or "fsspec"
    package = package.partition(".")[0]
    if package == "fsspec":
        return "reading URIs needs fsspec. Run: pip install 'batchwright[sources]'"
    scheme = split(uri)[1]
    return f"reading {scheme} needs the package {package}. Run: pip install {package}"
