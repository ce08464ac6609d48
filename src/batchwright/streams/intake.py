"""Reading the samples of a stream, measuring them, and holding them until they are in a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import compress, islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright.batching import Batching
from batchwright.errors import BudgetError, LengthsError, PlanError, SourceError
from batchwright.lengths import as_lengths
from batchwright.oversize import check_columns, fit_items
from batchwright.typing import IntArray, Sample

Samples: TypeAlias = Iterable[Sample] | Callable[[int], Iterable[Sample]]
"""A sequence, anything else to iterate over, or a function ``start → iterator``."""

Cut: TypeAlias = Callable[[Sample, Any, Any], Sample]
"""``(sample, start, stop) → sample``: its tokens from `start` up to `stop`, tuples of columns."""

Measure: TypeAlias = Callable[[Sample], int | tuple[int, ...]]
"""``sample → length``, or a tuple of lengths: one for each column."""

Bounds: TypeAlias = dict[int, tuple[tuple[int, int], ...]]
"""Place → (start, stop) of the pieces held, of samples that were emitted in part."""

_DEPTH = 16
"""Streams looked at inside of one another."""


@dataclass(frozen=True)
class Shard:
    """The samples ``index, index + count, …`` of a stream."""

    index: int = 0
    count: int = 1

    def number(self, place: int) -> int:
        """Return the number in the stream of the sample at a place in this part."""
        return self.index + place * self.count


class Source:
    """Reads one part of a stream, sample after sample, from any place in it.

    A sequence (anything with `__getitem__` and `__len__`) is indexed, a function
    ``start → iterator`` begins with sample `start` of the stream, anything else is read from its
    beginning. `set_epoch` of the samples, or of their `dataset`, is called first.

    Attributes:
        position: Samples of the part that were read.
        ended: Whether there are no more.

    Raises:
        SourceError: If the samples are none of these.

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
            and not hasattr(samples, "keys")  # such as pandas' Series, indexed by its keys
        )
        if isinstance(samples, Mapping) or hasattr(samples, "columns"):
            raise SourceError(
                f"samples is a {type(samples).__name__}, which gives its keys or columns when it "
                'is iterated over. Give its rows, such as table.to_dict("records").'
            )
        if not self._is_indexed and not hasattr(samples, "__iter__") and not callable(samples):
            raise SourceError(
                f"samples is {type(samples).__name__}, expected a sequence, something to iterate "
                "over, or a function start → iterator."
            )
        self._iterator: Iterator[Sample] | None = None
        self.position = 0
        self.ended = False

    def read(self, count: int) -> list[Sample]:
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

    def read_again(self, places: IntArray, position: int) -> list[Sample]:
        """Read the samples at ascending places, int64[k], once more, and go on at `position`.

        A sequence is indexed; a function is read from the first of them, others from the beginning.

        Raises:
            PlanError: If the source has fewer samples than that.
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
            raise PlanError(
                f"the state was saved after sample {self._shard.number(position - 1)} of the "
                "stream, which now has fewer. Resume with the same samples; an iterator must "
                "be a new one, at its beginning."
            )
        self.position = position
        return samples

    def _open(self, place: int) -> Iterator[Sample]:
        start, step = self._shard.number(place), self._shard.count
        if self._is_indexed:
            numbers = range(start, len(self._samples), step)  # type: ignore[arg-type]
            return (self._samples[number] for number in numbers)  # type: ignore[index]
        if hasattr(self._samples, "__iter__"):
            return islice(iter(self._samples), start, None, step)
        return islice(iter(self._samples(start)), 0, None, step)


class Buffer(NamedTuple):
    """Samples, or pieces of them, none above the budget."""

    places: IntArray  # int64[k], ascending: place of each one's sample in this part of the stream
    starts: IntArray  # int64[k], where in its sample a piece begins
    pieces: IntArray  # int64[k], in how many its sample was split
    lengths: IntArray  # int64[k], tokens; or int64[k, c], those of several columns
    samples: npt.NDArray[np.object_]  # object[k]

    @classmethod
    def empty(cls) -> Buffer:
        """Return a buffer without samples."""
        none = np.empty(0, dtype=np.int64)
        return cls(none, none, none, none, np.empty(0, dtype=np.object_))

    @property
    def num_samples(self) -> int:
        """Count the different samples, whole or in part."""
        return np.unique(self.places).size

    def take(self, chosen: IntArray | npt.NDArray[np.bool_]) -> Buffer:
        """Select some of the entries."""
        return Buffer._make(values[chosen] for values in self)

    def without(self, entries: IntArray) -> Buffer:
        """Leave out some of the entries."""
        keep = np.ones(self.places.size, dtype=np.bool_)
        keep[entries] = False
        return self.take(keep)

    def joined(self, others: list[Buffer]) -> Buffer:
        """Append what arrived later."""
        # An empty buffer does not know the number of columns.
        parts = [each for each in (self, *others) if each.places.size]
        return Buffer._make(map(np.concatenate, zip(*parts, strict=True))) if parts else self


@dataclass(eq=False)
class Intake:
    """Measures samples as they arrive, and applies the policy for those above the budget."""

    batching: Batching  # the budget and the policy
    length: Measure  # ``sample → length``, or several: one for each column
    cut: Cut  # cuts samples that are truncated or split
    shard: Shard  # the part of the stream, for the numbers in errors
    # How many lengths the first sample had, and all have to have. None: before the first.
    num_columns: int | None = None

    def __call__(self, samples: list[Sample], places: IntArray) -> tuple[Buffer, IntArray]:
        """Take in samples at places int64[k] in this part of the stream.

        Returns:
            What is to be batched, and the places of samples that were dropped, int64[d].

        Raises:
            LengthsError: Naming the first sample whose length is not a whole number of at least 1,
                or that has more or fewer lengths than those before.
            BudgetError: Naming the longest sample above the budget, under ``"error"``; or if the
                budget is of another number of columns.
        """
        if not samples:
            return Buffer.empty(), places[:0]
        lengths = self._measure(samples, places)
        whole = Buffer(places, 0 * places, np.ones_like(places), lengths, _objects(samples))
        none = places[:0]
        long = ~self.batching.layout.fits(lengths)
        if not long.any():
            return whole, none
        if self.batching.oversize == "drop":
            return whole.take(~long), places[long]
        if self.batching.oversize not in self._ways(lengths):
            raise self._too_long(lengths, places, long)
        items = fit_items(lengths, self.batching.layout, self.batching.oversize)
        of, begins = items.samples(np.arange(len(items.lengths)))
        starts = np.zeros_like(of) if begins is None else begins
        sizes = items.lengths.astype(np.int64)
        fitted = Buffer(places[of], starts, np.bincount(of)[of], sizes, whole.samples[of])
        for entry in np.flatnonzero(long[of]).tolist():
            start, stop = starts[entry] + 0 * sizes[entry], starts[entry] + sizes[entry]
            bounds: list[Any] = [start.tolist(), stop.tolist()]
            if lengths.ndim == 2:
                bounds = list(map(tuple, bounds))
            fitted.samples[entry] = self.cut(fitted.samples[entry], *bounds)
        return fitted, none

    def again(
        self, samples: list[Sample], places: IntArray, pieces: Bounds | None
    ) -> tuple[Buffer, IntArray]:
        """Take in whole samples once more, of some of which only some pieces are left.

        Pieces above the budget are cut further.

        Raises:
            PlanError: If a sample does not have such pieces.
        """
        if not pieces:
            return self(samples, places)
        is_whole = ~np.isin(places, list(pieces))
        partial = np.flatnonzero(~is_whole)
        if partial.size != len(pieces):
            raise _no_such_pieces(min(set(pieces) - set(places.tolist())))
        held, gone = self(list(compress(samples, is_whole.tolist())), places[is_whole])
        parts = [self._parts(samples[k], int(places[k]), pieces[int(places[k])]) for k in partial]
        both = held.joined(parts)
        return both.take(np.lexsort((both.starts, both.places))), gone

    def _parts(self, sample: Sample, place: int, bounds: tuple[tuple[int, int], ...]) -> Buffer:
        """Cut the pieces that are left out of a sample."""
        size = int(self._measure([sample], np.array([place])).max())
        if not bounds or not all(0 <= start < stop <= size for start, stop in bounds):
            raise _no_such_pieces(place)
        most = self.batching.layout.longest_row or size
        cuts = [
            (first, min(first + most, stop))
            for start, stop in bounds
            for first in range(start, stop, most)
        ]
        held = _objects([self.cut(sample, start, stop) for start, stop in cuts])
        starts, stops = np.array(cuts, dtype=np.int64).T
        several = np.full(len(cuts), len(cuts) + 1)  # more than are held: some were emitted
        return Buffer(np.full(len(cuts), place), starts, several, stops - starts, held)

    def _ways(self, lengths: IntArray) -> tuple[str, ...]:
        """Return the policies that can be applied, besides ``"error"``."""
        layout = self.batching.layout
        if lengths.ndim == 2 and layout.longest_columns is None:
            return ("drop",)
        one = lengths.ndim == 1 and layout.kind == "packed"
        return ("drop", "split", "truncate") if one else ("drop", "truncate")

    def _measure(self, samples: list[Sample], places: IntArray) -> IntArray:
        values = [self.length(sample) for sample in samples]
        if self.num_columns is None:
            self.num_columns = _num_columns(values[0])
        expected = self.num_columns
        try:
            lengths = _lengths_of(values, expected)
        except LengthsError as error:
            for place, value in zip(places.tolist(), values, strict=True):
                self._check_one(place, value, error)
            raise
        if lengths.ndim == 2:
            check_columns(self.batching.layout, expected)
        return lengths

    def _check_one(self, place: int, value: Any, cause: LengthsError) -> None:
        """Raise if a length, or the number of lengths, is wrong."""
        columns, expected = _num_columns(value), self.num_columns or 1
        found = f"sample {self.shard.number(place)} of the stream has length {value!r}"
        try:
            _lengths_of([value], columns)
        except LengthsError:
            raise LengthsError(
                f"{found}, expected a finite whole number of at least 1 (of several columns, a "
                "tuple of such). Correct length=, or leave such samples out of the stream."
            ) from cause
        if columns != expected:
            raise LengthsError(
                f"{found}: {_counted(columns)}, where the first sample has {_counted(expected)}. "
                "Let length= return as many of every sample."
            ) from cause

    def _too_long(
        self, lengths: IntArray, places: IntArray, long: npt.NDArray[np.bool_]
    ) -> BudgetError:
        worst = int(np.argmax(long if lengths.ndim == 2 else lengths))
        layout = self.batching.layout
        name = "max_tokens" if layout.kind == "padded" else "capacity"
        budget = layout.budget if layout.caps is None else layout.caps
        *ways, last = (f'"{way}"' for way in self._ways(lengths))
        listed = f"{', '.join(ways)} or {last}" if ways else last
        return BudgetError(
            f"{name}={budget} is smaller than sample {self.shard.number(int(places[worst]))}"
            f" of the stream, {lengths[worst].tolist()} tokens ({np.count_nonzero(long)} of the "
            f"{len(lengths)} just read are too long). Raise {name}, or choose oversize={listed}."
        )


def _objects(samples: list[Sample]) -> npt.NDArray[np.object_]:
    held = np.empty(len(samples), dtype=np.object_)
    for place, sample in enumerate(samples):  # at once, NumPy would make arrays of lists
        held[place] = sample
    return held


def _no_such_pieces(place: int) -> PlanError:
    return PlanError(
        f"the state holds pieces of the sample at place {place} that it does not have. Resume with "
        "the samples and the length= that the pass began with."
    )


def slice_of(sample: Sample, start: Any, stop: Any) -> Sample:
    """Cut a sample that is one sequence, or a tuple of one for each column.

    Raises:
        LengthsError: If it is something else.
    """
    try:
        if isinstance(start, tuple) and isinstance(sample, (tuple, list)):
            parts = zip(sample, start, stop, strict=True)
            return tuple(column[first:last] for column, first, last in parts)
        return sample[start:stop]
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise LengthsError(
            f"a sample above the budget is {type(sample).__name__}, which cannot be sliced. Give "
            "cut=(sample, start, stop) → sample."
        ) from error


def size_of(sample: Sample) -> int:
    """Measure a sample that is one sequence.

    Raises:
        LengthsError: If it is something else; the `len` of a dict counts its keys.
    """
    if isinstance(sample, (dict, tuple)) or not hasattr(sample, "__len__"):
        raise LengthsError(
            f"a sample is {type(sample).__name__}, whose length is ambiguous. Give length=sample → "
            "int, or a tuple with one int for each column."
        )
    return len(sample)


def _num_columns(value: Any) -> int:
    """Count the lengths of a sample: 1 for a number, and for anything that is no length."""
    return len(value) if isinstance(value, (tuple, list)) or np.ndim(value) == 1 else 1


def _counted(num_columns: int) -> str:
    return "one length" if num_columns == 1 else f"{num_columns} lengths"


def _lengths_of(values: list[Any], num_columns: int) -> IntArray:
    lengths = as_lengths(values, columns=num_columns > 1)
    if lengths.shape[1:] != (() if num_columns == 1 else (num_columns,)):
        raise LengthsError(f"lengths have shape {list(lengths.shape)}.")
    return lengths.astype(np.int64, copy=False)


def _set_epoch(samples: object, epoch: int) -> None:
    inside: Any = samples
    for _ in range(_DEPTH):
        if callable(getattr(inside, "set_epoch", None)):
            inside.set_epoch(epoch)
            return
        inside = getattr(inside, "dataset", None)
