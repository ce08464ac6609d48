"""Reading the samples of a stream, measuring them, and holding them until they are in a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import compress, islice
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from batchwright.errors import BudgetError, LengthsError, PlanError, SourceError
from batchwright.lengths import as_lengths
from batchwright.oversize import check_columns, fit_items, named_limit
from batchwright.typing import Batching, IntArray, Sample

Samples: TypeAlias = Iterable[Sample] | Callable[[int], Iterable[Sample]]
"""A sequence, anything else to iterate over, or a function ``start → iterator``."""

Place: TypeAlias = int | tuple[int, ...]
"""Where a sample is cut: one number, or one for each column."""

Cut: TypeAlias = Callable[[Sample, Any, Any], Sample]
"""``(sample, start, stop) → sample``: its tokens from `start` up to `stop`, tuples of columns."""

Measure: TypeAlias = Callable[[Sample], int | tuple[int, ...]]
"""``sample → length``, or a tuple of lengths: one for each column."""

Bounds: TypeAlias = dict[int, tuple[tuple[int, int], ...]]
"""Place → (start, stop) of the pieces held, of samples that were emitted in part."""

_DEPTH = 16
"""Streams looked at inside of one another."""

_Places = TypeVar("_Places", int, IntArray)


class Source:
    """Reads the samples ``index, index + count, …`` of a stream, from any place among them.

    A sequence is indexed, a function begins with the sample it is asked for, anything else is read
    from its beginning. `set_epoch` of the samples, or of their `dataset`, is called first.
    """

    def __init__(self, samples: Samples, part: tuple[int, int], epoch: int = 0) -> None:
        self._samples, self._part, self._epoch = samples, part, epoch
        self._is_indexed = (
            hasattr(samples, "__getitem__")
            and hasattr(samples, "__len__")
            and not hasattr(samples, "keys")  # such as pandas' Series, indexed by its keys
        )
        is_table = isinstance(samples, Mapping) or hasattr(samples, "columns")
        if is_table or not (self._is_indexed or hasattr(samples, "__iter__") or callable(samples)):
            raise SourceError(
                f"samples is {type(samples).__name__}, expected a sequence, something to iterate "
                "over, or a function start → iterator. Of a table or a dict, give the rows."
            )
        self._iterator: Iterator[Sample] | None = None
        self.position = 0  # samples of the part that were read
        self.ended = False  # whether there are no more

    def fresh(self) -> Source:
        """Return a source of the same samples that has read none, as copies are."""
        return Source(self._samples, self._part, self._epoch)

    def __reduce__(self) -> tuple[type[Source], tuple[Samples, tuple[int, int], int]]:
        return Source, (self._samples, self._part, self._epoch)

    def number(self, places: _Places) -> _Places:
        """Return the number in the stream of samples at places in this part."""
        index, count = self._part
        return index + places * count

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
        """
        _set_epoch(self._samples, self._epoch)
        last = self.number(position - 1)
        if self._is_indexed:
            numbers = self.number(places).tolist() if last < len(self._samples) else []  # type: ignore[arg-type]
            samples = [self._samples[number] for number in numbers]  # type: ignore[index]
        else:
            first = int(places[0]) if places.size else position
            chosen = np.zeros(position - first, dtype=np.bool_)
            chosen[places - first] = True
            self._iterator = self._open(first)
            samples = list(compress(islice(self._iterator, position - first), chosen.tolist()))
        if len(samples) < places.size:
            raise PlanError(
                f"the state was saved after sample {last} of the stream, which now has fewer. "
                "Resume with the same samples; an iterator must be a new one, at its beginning."
            )
        self.position = position
        return samples

    def _open(self, place: int) -> Iterator[Sample]:
        start, step = self.number(place), self._part[1]
        if self._is_indexed:
            numbers = range(start, len(self._samples), step)  # type: ignore[arg-type]
            return (self._samples[number] for number in numbers)  # type: ignore[index]
        if hasattr(self._samples, "__iter__"):
            return islice(self._samples, start, None, step)
        return islice(self._samples(start), 0, None, step)


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
    length: Measure
    cut: Cut
    number: Callable[[int], int]  # of the sample at a place, for errors
    # How many lengths the first sample had, and all have to have. None: before the first.
    num_columns: int | None = None

    def __call__(self, samples: list[Sample], places: IntArray) -> tuple[Buffer, IntArray]:
        """Take in samples at places int64[k]; return also the places of those that were dropped."""
        none = places[:0]
        if not samples:
            return Buffer.empty(), none
        lengths, layout = self._measure(samples, places), self.batching.layout
        whole = Buffer(places, 0 * places, np.ones_like(places), lengths, _objects(samples))
        long = ~layout.fits(lengths)
        if not long.any():
            return whole, none
        if self.batching.oversize == "drop":
            return whole.take(~long), places[long]
        try:
            items = fit_items(lengths, layout, self.batching.oversize)
        except BudgetError:
            raise self._too_long(lengths, places, long) from None
        of, begins = items.samples(np.arange(len(items.lengths)))
        starts = np.zeros_like(of) if begins is None else begins
        sizes = items.lengths.astype(np.int64)
        fitted = Buffer(places[of], starts, np.bincount(of)[of], sizes, whole.samples[of])
        for entry in np.flatnonzero(long[of]).tolist():
            start, stop = starts[entry] + 0 * sizes[entry], starts[entry] + sizes[entry]
            fitted.samples[entry] = self.cut(fitted.samples[entry], _plain(start), _plain(stop))
        return fitted, none

    def again(
        self, samples: list[Sample], places: IntArray, pieces: Bounds | None
    ) -> tuple[Buffer, IntArray]:
        """Take in samples once more, of some only the pieces that are left; cut those too long."""
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

    def _measure(self, samples: list[Sample], places: IntArray) -> IntArray:
        values = [self.length(sample) for sample in samples]
        if self.num_columns is None:
            first = values[0]
            several = isinstance(first, tuple | list) or np.ndim(first) == 1
            self.num_columns = len(first) if several else 1  # type: ignore[arg-type]
        columns = self.num_columns
        try:
            lengths = _lengths_of(values, columns)
        except LengthsError as error:
            for place, value in zip(places.tolist(), values, strict=True):
                try:
                    _lengths_of([value], columns)
                except LengthsError:
                    expected = f"{columns} whole numbers" if columns > 1 else "one whole number"
                    raise LengthsError(
                        f"sample {self.number(place)} of the stream has length {value!r}, expected "
                        f"{expected} of at least 1, as of the first sample. Correct length=, or "
                        "leave such samples out of the stream."
                    ) from error
            raise
        if lengths.ndim == 2:
            check_columns(self.batching.layout, columns)
        return lengths

    def _too_long(
        self, lengths: IntArray, places: IntArray, long: npt.NDArray[np.bool_]
    ) -> BudgetError:
        worst = int(np.argmax(long if lengths.ndim == 2 else lengths))
        layout, is_one = self.batching.layout, lengths.ndim == 1
        ways = ['oversize="drop"']
        if is_one and layout.kind == "packed":
            ways.append('"split"')
        if is_one or layout.longest_columns is not None:
            ways.append('"truncate"')
        return BudgetError(
            f"{named_limit(layout)} is smaller than sample "
            f"{self.number(int(places[worst]))} of the stream, {lengths[worst].tolist()} tokens "
            f"({np.count_nonzero(long)} of the {len(lengths)} just read are too long). Raise it, "
            f"or choose {' or '.join(ways)}."
        )


def _objects(samples: list[Sample]) -> npt.NDArray[np.object_]:
    held = np.empty(len(samples), dtype=np.object_)
    for place, sample in enumerate(samples):  # at once, NumPy would make arrays of lists
        held[place] = sample
    return held


def _plain(place: IntArray) -> Place:
    return tuple(place.tolist()) if place.ndim else place.item()


def _no_such_pieces(place: int) -> PlanError:
    return PlanError(
        f"the state holds pieces of the sample at place {place} that it does not have. Resume with "
        "the samples and the length= that the pass began with."
    )


def slice_of(sample: Sample, start: Place, stop: Place) -> Sample:
    """Cut a sample that is one sequence, or a tuple of one for each column."""
    try:
        if (
            isinstance(start, tuple)
            and isinstance(stop, tuple)
            and isinstance(sample, tuple | list)
        ):
            parts = zip(sample, start, stop, strict=True)
            return tuple(column[first:last] for column, first, last in parts)
        return sample[start:stop]
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise LengthsError(
            f"a sample above the budget is {type(sample).__name__}, which cannot be sliced. Give "
            "cut=(sample, start, stop) → sample."
        ) from error


def size_of(sample: Sample) -> int:
    """Measure a sample that is one sequence; the `len` of a dict counts its keys."""
    if isinstance(sample, dict | tuple) or not hasattr(sample, "__len__"):
        raise LengthsError(
            f"a sample is {type(sample).__name__}, whose length is ambiguous. Give length=sample → "
            "int, or a tuple with one int for each column."
        )
    return len(sample)


def _lengths_of(values: list[int | tuple[int, ...]], num_columns: int) -> IntArray:
    lengths = as_lengths(values, columns=num_columns > 1)
    if lengths.shape[1:] != (() if num_columns == 1 else (num_columns,)):
        raise LengthsError(f"lengths have shape {list(lengths.shape)}.")
    return lengths.astype(np.int64, copy=False)


def _set_epoch(samples: object, epoch: int) -> None:
    for _ in range(_DEPTH):
        if callable(set_epoch := getattr(samples, "set_epoch", None)):
            set_epoch(epoch)
            return
        samples = getattr(samples, "dataset", None)
