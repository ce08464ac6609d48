"""Records made inside a pass through the model, kept back until it is known that the pass counts.

A loss function may be called more often than a batch is trained on: to check it, to measure a
precision, and again after memory ran out. What it records counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class Record(NamedTuple):
    """Something to write down: who keeps it, and the call that does."""

    owner: object
    write: Callable[[], None]


_KEPT_BACK: ContextVar[list[Record] | None] = ContextVar("batchwright_records", default=None)


_trials = 0  # of the process: on a GPU, backward passes run in threads of their own


@contextmanager
def kept_back(*, on_trial: bool = False) -> Iterator[list[Record]]:
    """Collect the records that are made meanwhile, for the caller to write or to forget.

    Example:
        >>> seen = []
        >>> with kept_back() as records:
        ...     keep_back(seen, lambda: seen.append(1))
        True
        >>> len(seen), len(records)
        (0, 1)
    """
    global _trials  # noqa: PLW0603 (one count for all threads of the process)
    records: list[Record] = []
    token = _KEPT_BACK.set(records)
    _trials += on_trial
    try:
        yield records
    finally:
        _trials -= on_trial
        _KEPT_BACK.reset(token)


def on_trial() -> bool:
    """Return whether the pass under way only checks or measures something."""
    return _trials > 0


def keep_back(owner: object, write: Callable[[], None]) -> bool:
    """Hand over a record if a pass is under way; return whether one is."""
    records = _KEPT_BACK.get()
    if records is None:
        return False
    records.append(Record(owner, write))
    return True
