"""What the jobs share: options, the examples they are made of, and a count of what is done."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import machine

WARM_UP = 5
"""First updates, which do not count."""


def options_of(text: str, *, batch_size: int, accumulate: int = 1) -> argparse.Namespace:
    """Read how a job is to be run: with the batches that it has, or with planned ones."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--planned", action="store_true")
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--accumulate", type=int, default=accumulate)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--updates", type=int, default=sys.maxsize)
    return parser.parse_args()


@contextmanager
def examples() -> Iterator[None]:
    """Let the modules of the examples be imported."""
    folder = str(machine.REPOSITORY / "examples" / "applications")
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


class Meter:
    """Counts tokens and seconds of updates, and says when there are enough."""

    def __init__(self, updates: int) -> None:
        self._most, self._updates = updates, 0
        self._start = self._last = time.perf_counter()
        self._padded = self._tokens = 0
        self._all = [0, 0]  # real and padded tokens, those of the first updates included

    def count(self, tokens: int, padded: int) -> None:
        """Count a batch."""
        self._tokens += tokens
        self._padded += padded

    def update(self) -> bool:
        """Note that an update has ended; True if there were enough."""
        self._updates += 1
        self._last = time.perf_counter()
        if self._updates == WARM_UP:
            self._start = self._last
            self._all = [self._tokens, self._padded]
            self._tokens = self._padded = 0
        return self._updates >= self._most

    def report(self) -> None:
        """Print what was counted."""
        real, padded = (a + b for a, b in zip(self._all, (self._tokens, self._padded), strict=True))
        found = {
            "updates": self._updates,
            "padding": 1 - real / padded,
            "tokens_per_second": self._tokens / (self._last - self._start),
        }
        print(json.dumps(found), flush=True)
