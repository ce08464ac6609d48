"""The processes of a watched command: finds them, sees whether ranks wait, and ends them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from batchwright.doctor.reading import Progress, progress

GRACE = 10.0
"""Seconds that processes have to end once they are asked to."""

_PATIENCE = 30.0
"""Seconds without an update after which ranks are taken to wait for a rank that has ended."""

_SCAN = 5.0  # seconds between two searches for ranks
_LOOK = 0.1


def running(folder: Path) -> dict[int, str | None]:
    """Find processes that were started to write into a folder, with their rank, if they have one.

    Launchers start ranks in their own process groups, and some ranks outlive their launcher. What
    they share is an environment variable. Only Linux shows those of other processes; on other
    systems the result is empty.

    Example:
        >>> running(Path("/nowhere"))
        {}
    """
    found: dict[int, str | None] = {}
    if sys.platform != "linux":
        return found
    marked = b"BATCHWRIGHT_DOCTOR=" + os.fsencode(folder)
    numbers = {int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal()}
    for number in numbers - {os.getpid()}:
        with suppress(OSError):  # it is another user's, or has ended
            variables = Path("/proc", str(number), "environ").read_bytes().split(b"\0")
            if marked in variables:
                ranks = [each[5:].decode() for each in variables if each.startswith(b"RANK=")]
                found[number] = ranks[0] if ranks else None
    return found


class Ranks:
    """Tells whether ranks wait for one that has ended, as they do in a collective operation.

    If a rank has a smaller share of the data and ends, the others wait for minutes, or forever.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: set[str] = set()
        self._seen: Progress | None = None
        self._since = self._next = 0.0

    def wait_in_vain(self, now: float) -> bool:
        """Search for ranks if enough time has passed; `now` is in seconds."""
        if now < self._next:
            return False
        self._next = now + _SCAN
        alive = {rank for rank in running(self._folder).values() if rank is not None}
        self._known |= alive
        if not alive or alive == self._known:
            self._seen = None
            return False
        seen = progress(self._folder)
        if self._seen != seen:
            self._seen, self._since = seen, now
        return now - self._since >= _PATIENCE


def ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for a command to end; return whether it has.

    `Popen.wait` polls twenty times a second, which takes time from a run that uses every core.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # the kernel may not support it
            handle = os.pidfd_open(process.pid)
            try:
                over = select.poll()
                over.register(handle, select.POLLIN)
                over.poll(1000 * seconds)
            finally:
                os.close(handle)
            return process.poll() is not None
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def end(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Ask a command and what it has started to end, and kill what does not."""
    _signal_group(process.pid, signal.SIGTERM)
    last = time.monotonic() + GRACE
    while time.monotonic() < last:
        if process.poll() is not None and not _is_left(process.pid, folder):
            return
        time.sleep(_LOOK)
    process.kill()
    kill_all(folder, process.pid)
    process.wait()


def kill_all(folder: Path, group: int | None = None) -> None:
    """Kill what is left of a process group, and the processes that write into a folder."""
    if group is not None:
        _signal_group(group, signal.SIGKILL)
    for process in running(folder):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)


def _is_left(group: int, folder: Path) -> bool:
    """Say whether a process still runs that an ended command has started."""
    return bool(running(folder)) if sys.platform == "linux" else _signal_group(group, 0)


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a group; return whether there is one."""
    if sys.platform != "win32":
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
            return True
    return False
