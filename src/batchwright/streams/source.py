"""Where the samples of a stream come from, and how to get at them again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import compress, islice
from typing import Any, TypeAlias

import numpy as np

from batchwright.errors import PlanMismatchError, SourceError
from batchwright.typing import IntArray

Samples: TypeAlias = Iterable[Any] | Callable[[int], Iterable[Any]]
"""A sequence, anything else to iterate over, or a function ``start → iterator``."""


_DEPTH = 16
"""Streams looked at inside of one another."""


@dataclass(frozen=True)
class Shard:
    """The samples ``index, index + count, …`` of a stream.

    Attributes:
        index: From 0.
        count: How many such parts the stream has.
    """

    index: int = 0
    count: int = 1

    def number(self, place: int) -> int:
        """Return the number in the stream of the sample at a place in this part."""
        return self.index + place * self.count


class Source:
    """Reads one part of a stream, sample after sample, from any place in it.

    Args:
        samples: A sequence (anything with `__getitem__` and `__len__`), which is indexed; a
            function ``start → iterator`` that begins with sample `start` of the stream; or
            anything else to iterate over, which is read from its beginning.
        shard: Which part.
        epoch: The epoch: what is read, or what it is made of (its `dataset`), learns of it by its
            `set_epoch`, where it has one.

    Attributes:
        position: Samples of the part that were read.
        ended: Whether there are no more.

    Raises:
        SourceError: If it is none of these.

    Example:
        >>> source = Source("abcdefg", Shard(1, 2))
        >>> source.read(2), source.read(2), source.position, source.ended
        (['b', 'd'], ['f'], 3, True)
    """

    def __init__(self, samples: Samples, shard: Shard, epoch: int = 0) -> None:
        self._samples, self._shard, self._epoch = samples, shard, epoch
        self._is_indexed = (
            hasattr(samples, "__getitem__")
            and hasattr(samples, "__len__")
            and not hasattr(samples, "keys")  # looked up by those, as pandas' Series
        )
        if isinstance(samples, Mapping) or hasattr(samples, "columns"):
            raise SourceError(
                f"samples is a {type(samples).__name__}, which gives its keys or columns when it "
                'is gone through. Give its rows, such as table.to_dict("records").'
            )
        if not self._is_indexed and not hasattr(samples, "__iter__") and not callable(samples):
            raise SourceError(
                f"samples is {type(samples).__name__}, expected a sequence, something to iterate "
                "over, or a function start → iterator."
            )
        self._iterator: Iterator[Any] | None = None
        self.position = 0
        self.ended = False

    def read(self, count: int) -> list[Any]:
        """Read up to `count` samples: fewer only at the end."""
        if self.ended or count < 1:
            return []
        if self._iterator is None:
            _set_epoch(self._samples, self._epoch)
            self._iterator = self._open(self.position)
        samples = list(islice(self._iterator, count))
        self.position += len(samples)
        self.ended = len(samples) < count
        return samples

    def read_again(self, places: IntArray, position: int) -> list[Any]:
        """Read samples once more, and go on at `position`.

        Args:
            places: int64[k], ascending places in the part, below `position`.
            position: Where reading went on.

        Returns:
            The samples. A sequence gives just those; others are gone through from the first of
            them (a function), or from their beginning.

        Raises:
            PlanMismatchError: If the source has fewer samples than that.
        """
        _set_epoch(self._samples, self._epoch)
        if self._is_indexed:
            size = len(self._samples)  # type: ignore[arg-type]
            enough = self._shard.number(position - 1) < size
            wanted = [self._shard.number(place) for place in places.tolist()]
            samples = [self._samples[number] for number in wanted] if enough else []  # type: ignore[index]
        else:
            first = int(places[0]) if places.size else position
            chosen = np.zeros(position - first, dtype=np.bool_)
            chosen[places - first] = True
            self._iterator = self._open(first)
            past = islice(self._iterator, position - first)
            samples = list(compress(past, chosen.tolist()))
        if len(samples) < places.size:
            raise PlanMismatchError(
                f"the state was saved after sample {self._shard.number(position - 1)} of the "
                "stream, which now has fewer. Resume with the same samples; an iterator must "
                "be a new one, at its beginning."
            )
        self.position = position
        return samples

    def _open(self, place: int) -> Iterator[Any]:
        start, step = self._shard.number(place), self._shard.count
        if self._is_indexed:
            numbers = range(start, len(self._samples), step)  # type: ignore[arg-type]
            return (self._samples[number] for number in numbers)  # type: ignore[index]
        if hasattr(self._samples, "__iter__"):
            return islice(iter(self._samples), start, None, step)
        return islice(iter(self._samples(start)), 0, None, step)


def _set_epoch(samples: object, epoch: int) -> None:
    """Tell the samples which epoch they are read in: they may come in another sequence."""
    inside: Any = samples
    for _ in range(_DEPTH):
        if callable(getattr(inside, "set_epoch", None)):
            inside.set_epoch(epoch)
            return
        inside = getattr(inside, "dataset", None)
