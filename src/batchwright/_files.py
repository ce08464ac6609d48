"""How every file is written: whole or not at all, whoever else writes it."""

import contextlib
import errno
import os
import platform
import secrets
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from batchwright.errors import BatchwrightError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PREFIX, _SUFFIX = ".batchwright-", ".unfinished"
_OURS = f"{_PREFIX}{zlib.crc32(platform.node().encode()):08x}-"
"""How names begin on this machine: not every network file system shows it the locks of others."""

_OLD = 24 * 3600.0
"""Seconds until an unfinished file counts as abandoned where no lock can say so."""

_MOST_LINKS = 40

_WHAT_TO_DO = {
    errno.ENOSPC: "Free some space, or write to another disk.",
    errno.EDQUOT: "Free some space, or write to another disk.",
    errno.EISDIR: "Name a file in it.",
    errno.ENOENT: "Make the folder first.",
}


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str], error: type[BatchwrightError], *, tidy: bool = True
) -> Iterator[Path]:
    """Replace a file by what is written to the path that this yields, once that is whole.

    Until then whatever stood in the file can be read, and if anything fails, Ctrl-C included, it
    stays. Any number of processes and threads may write the same file: the last one wins. A new
    file gets the permissions of the user's umask, an existing one keeps its own. A symbolic link
    stays, and the file it points to is replaced. What is no regular file (a pipe, `/dev/stdout`)
    is written to instead.

    The content reaches the disk before the name does: after a power failure the file is the old
    one or the new one, never an empty one.

    Args:
        path: The file.
        error: What to raise where it cannot be written.
        tidy: Whether to remove what killed writers left in the folder.

    Yields:
        The path of an empty file in the same folder. Write into it; do not replace it, which
        would lose the lock that keeps others from removing it.

    Raises:
        BatchwrightError: The file cannot be written, as `error`.

    Example:
        >>> from batchwright.errors import PlanFileError
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(f"{folder}/note.txt", PlanFileError) as unfinished:
        ...         _ = unfinished.write_text("done")
        ...     Path(folder, "note.txt").read_text()
        'done'
    """
    try:
        target = _followed(path)
        with _written_into(target) if _is_stream(target) else _moved_to(target, tidy) as unfinished:
            yield unfinished
    except OSError as fault:
        if isinstance(fault, BatchwrightError):
            raise
        raise error(f"{os.fspath(path)}: {_cannot_be_written(fault)}") from fault


def check_writable(path: str | os.PathLike[str], error: type[BatchwrightError]) -> None:
    """Raise before any work where `replacing` could not begin.

    Raises:
        BatchwrightError: As `replacing` does.
    """
    try:
        target = _followed(path)
        if not _is_stream(target):
            _check_target(target)
    except OSError as fault:
        raise error(f"{os.fspath(path)}: {_cannot_be_written(fault)}") from fault


def write_bytes(
    path: str | os.PathLike[str],
    content: bytes,
    error: type[BatchwrightError],
    *,
    tidy: bool = True,
) -> None:
    """Write a file as `replacing` does."""
    with replacing(path, error, tidy=tidy) as unfinished:
        unfinished.write_bytes(content)


def remove_unfinished(folder: Path) -> None:
    """Remove unfinished files of writers that were killed.

    A writer holds a lock on its unfinished file, and the system releases it when the process ends,
    however it ends: what nobody has locked has no writer. Files of other machines, and all files
    where there are no locks, are removed when they are a day old.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX):
                with contextlib.suppress(OSError):
                    _remove_if_abandoned(Path(entry.path))


def _remove_if_abandoned(path: Path) -> None:
    is_old = time.time() - path.stat().st_mtime > _OLD
    if fcntl is None:
        if is_old:
            path.unlink()
        return
    if not is_old and not path.name.startswith(_OURS):
        return
    with path.open("rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:  # a file system without locks
            if not is_old:
                return
        path.unlink()


@contextlib.contextmanager
def _moved_to(target: Path, tidy: bool) -> Iterator[Path]:  # noqa: FBT001 -- private
    """Yield an unfinished file beside a target, and move it there."""
    _check_target(target)
    if tidy:
        remove_unfinished(target.parent)
    with _unfinished_file(target.parent) as unfinished:
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        if target.exists():
            unfinished.chmod(target.stat().st_mode & 0o7777)
        unfinished.replace(target)


@contextlib.contextmanager
def _unfinished_file(folder: Path) -> Iterator[Path]:
    """Make an empty file of a new name, and remove it at the end, unless it was moved."""
    # The name does not depend on the target's, which may be as long as names can be.
    path = folder / f"{_OURS}{secrets.token_hex(8)}{_SUFFIX}"
    lock = None
    try:
        lock = _create(path)
        yield path
    finally:
        path.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def _create(path: Path) -> int | None:
    """Create a file and lock it; return the descriptor that holds the lock, if there is one."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if fcntl is None:  # Windows moves no file that is open
            os.close(descriptor)
            return None
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # found before it was locked, and removed


@contextlib.contextmanager
def _written_into(stream: Path) -> Iterator[Path]:
    """Yield a file elsewhere, and copy it into a stream."""
    with tempfile.TemporaryDirectory(prefix="batchwright-") as folder:
        unfinished = Path(folder, "unfinished")
        unfinished.touch()
        yield unfinished
        with unfinished.open("rb") as source, _opened(stream) as file:
            shutil.copyfileobj(source, file)


def _followed(path: str | os.PathLike[str]) -> Path:
    """Follow symbolic links to the file that is meant, which need not exist."""
    place = Path(path).absolute()
    if b"\0" in _encoded(place):
        raise OSError(errno.EINVAL, "its name has a null character")
    for _ in range(_MOST_LINKS):
        place = Path(os.path.realpath(place.parent), place.name)
        if _is_descriptor(place) or not place.is_symlink():
            return place
        place = place.parent / place.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _encoded(place: Path) -> bytes:
    try:
        return os.fsencode(place)
    except UnicodeEncodeError as fault:
        raise OSError(errno.EINVAL, "its name cannot be encoded") from fault


def _is_descriptor(place: Path) -> bool:
    """Say whether a path names an open file of a process, as `/dev/stdout` does in the end."""
    return place.parent.name == "fd" and place.parts[1] in {"proc", "dev"} and place.name.isdigit()


def _is_stream(place: Path) -> bool:
    return _is_descriptor(place) or (place.exists() and not place.is_file() and not place.is_dir())


def _opened(stream: Path) -> BinaryIO:
    if _is_descriptor(stream) and stream.parent.samefile("/dev/fd"):
        # Opened by its name, a redirected output would be written from its beginning.
        return os.fdopen(os.dup(int(stream.name)), "wb")
    return stream.open("wb")


def _check_target(target: Path) -> None:
    if target.is_dir():
        raise OSError(errno.EISDIR, "it is a folder")
    if not target.parent.is_dir():
        raise OSError(errno.ENOENT, f"there is no folder {target.parent}")
    if target.exists() and not os.access(target, os.W_OK):
        raise OSError(errno.EACCES, "it is read-only")
    if not os.access(target.parent, os.W_OK):
        raise OSError(errno.EACCES, f"the folder {target.parent} is read-only")


def _cannot_be_written(fault: OSError) -> str:
    reason = " ".join((fault.strerror or str(fault)).split())
    return (
        f"cannot be written ({reason}). {_WHAT_TO_DO.get(fault.errno or 0, 'Name another file.')}"
    )
