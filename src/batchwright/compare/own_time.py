"""A clock that stands still while other processes have the core."""

from pathlib import Path
from time import perf_counter

SCHEDULED = Path("/proc/thread-self/schedstat")
"""Of a thread on Linux: nanoseconds that it ran, and that it was ready and had no core."""


def own_time() -> float:
    """Return seconds, without those in which this thread was ready to run and had no core.

    Other processes had it then, which says nothing on what is measured. Where the system does not
    count such seconds, none are left out.
    """
    waited = _waited()
    while True:
        now, before = perf_counter(), waited
        waited = _waited()
        if waited == before:  # not in between
            return now - waited


def _waited() -> float:
    try:
        return int(SCHEDULED.read_bytes().split()[1]) * 1e-9
    except (OSError, IndexError, ValueError):
        return 0.0
