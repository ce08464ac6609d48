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


@contextmanager
def kept_back() -> Iterator[list[Record]]:
    """Collect the records that are made meanwhile, for the caller to write or to forget.

    Example:
        >>> seen = []
        >>> with kept_back() as records:
        ...     keep_back(seen, lambda: seen.append(1))
        True
        >>> len(seen), len(records)
        (0, 1)
    """
    records: list[Record] = []
    token = _KEPT_BACK.set(records)
    try:
        yield records
    finally:
        _KEPT_BACK.reset(token)


def keep_back(owner: object, write: Callable[[], None]) -> bool:
    """Hand over a record if a pass is under way; return whether one is."""
    records = _KEPT_BACK.get()
    if records is None:
        return False
    records.append(Record(owner, write))
    return True
