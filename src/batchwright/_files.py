"""Writing files: whole or not at all, with any number of writers."""

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
# Network file systems may not show the locks of other machines: names say whose a file is.
_OURS = f"{_PREFIX}{zlib.crc32(platform.node().encode()):08x}-"
_ABANDONED_AFTER = 24 * 3600.0
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
    """Replace a file by what is written to the path that this yields, once the block has ended.

    Until then, and if the block fails in any way, the old content stays. Any number of processes
    and threads may write the same file: the last one wins. A new file follows the umask, an
    existing one keeps its permissions. A symbolic link stays, and its target is replaced. A pipe
    or a device such as `/dev/stdout` is written to instead. The content reaches the disk before
    the name does: after a power failure the file is the old one or the new one.

    Example:
        >>> from batchwright.errors import PlanError
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(f"{folder}/note.txt", PlanError) as unfinished:
        ...         _ = unfinished.write_text("done")
        ...     Path(folder, "note.txt").read_text()
        'done'
    """
    with _explaining(path, error):
        target = _followed(path)
        with _copied_to(target) if _is_stream(target) else _moved_to(target, tidy) as unfinished:
            yield unfinished


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


def check_writable(path: str | os.PathLike[str], error: type[BatchwrightError]) -> None:
    """Raise `error` where `replacing` could not begin."""
    with _explaining(path, error):
        target = _followed(path)
        if not _is_stream(target):
            _check_target(target)


def remove_unfinished(folder: Path) -> None:
    """Remove the unfinished files of killed writers.

    A writer locks its unfinished file, and the system releases the lock when the process ends.
    Files of other machines, and all files where there are no locks, are removed when a day old.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX):
                with contextlib.suppress(OSError):
                    _remove_if_abandoned(Path(entry.path))


@contextlib.contextmanager
def _explaining(path: str | os.PathLike[str], error: type[BatchwrightError]) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        if isinstance(fault, BatchwrightError):
            raise
        reason = " ".join((fault.strerror or str(fault)).split())
        advice = _WHAT_TO_DO.get(fault.errno or 0, "Name another file.")
        raise error(f"{os.fspath(path)}: cannot be written ({reason}). {advice}") from fault


def _remove_if_abandoned(path: Path) -> None:
    is_old = time.time() - path.stat().st_mtime > _ABANDONED_AFTER
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
    """Yield a new file beside a target, and move it there."""
    _check_target(target)
    if tidy:
        remove_unfinished(target.parent)
    # The name does not depend on the target's, which may have the greatest length already.
    unfinished = target.parent / f"{_OURS}{secrets.token_hex(8)}{_SUFFIX}"
    lock = None
    try:
        lock = _create(unfinished)
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        if target.exists():
            unfinished.chmod(target.stat().st_mode & 0o7777)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def _create(path: Path) -> int | None:
    """Create and lock a file; return the descriptor that holds the lock, if there are locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if fcntl is None:  # Windows does not move open files
            os.close(descriptor)
            return None
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # another process removed it before it was locked


@contextlib.contextmanager
def _copied_to(stream: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="batchwright-") as folder:
        unfinished = Path(folder, "unfinished")
        unfinished.touch()
        yield unfinished
        with unfinished.open("rb") as source, _opened(stream) as file:
            shutil.copyfileobj(source, file)


def _followed(path: str | os.PathLike[str]) -> Path:
    """Follow symbolic links to the file that is meant, which need not exist."""
    place = Path(path).absolute()
    try:
        has_null = b"\0" in os.fsencode(place)
    except UnicodeEncodeError as fault:
        raise OSError(errno.EINVAL, "its name cannot be encoded") from fault
    if has_null:
        raise OSError(errno.EINVAL, "its name has a null character")
    for _ in range(_MOST_LINKS):
        place = Path(os.path.realpath(place.parent), place.name)
        if _is_descriptor(place) or not place.is_symlink():
            return place
        place = place.parent / place.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _is_descriptor(place: Path) -> bool:
    """Return whether a path is an open file of a process, as `/dev/stdout` is in the end."""
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
