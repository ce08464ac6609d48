"""What a stream holds: samples that arrived and are in no batch yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import compress
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright.batching import Batching
from batchwright.errors import BudgetError, LengthsError, PlanMismatchError
from batchwright.lengths import as_lengths
from batchwright.oversize import check_columns, fit_items
from batchwright.streams.source import Shard
from batchwright.typing import IntArray, LengthArray

Cut: TypeAlias = Callable[[Any, Any, Any], Any]
"""``(sample, start, stop) → sample``: the tokens from `start` up to `stop` of one; of several
columns, both are tuples."""

Measure: TypeAlias = Callable[[Any], int | tuple[int, ...]]
"""``sample → length``, or a tuple of lengths: one for each column."""


Bounds: TypeAlias = Mapping[int, list[tuple[int, int]]]
"""Place → (start, stop) of the pieces held, of samples of which some pieces are gone."""


@dataclass(frozen=True, eq=False)
class Buffer:
    """Samples, or pieces of them, none above the budget.

    Attributes:
        places: int64[k], ascending: place of each one's sample in this part of the stream.
        starts: int64[k], where in its sample a piece begins.
        pieces: int64[k], in how many its sample was split.
        lengths: int64[k], tokens; or int64[k, c], those of several columns.
        samples: object[k].
    """

    places: IntArray
    starts: IntArray
    pieces: IntArray
    lengths: IntArray
    samples: npt.NDArray[np.object_]

    @classmethod
    def empty(cls) -> Buffer:
        """Return a buffer of nothing."""
        none = np.empty(0, dtype=np.int64)
        return cls(none, none, none, none, np.empty(0, dtype=np.object_))

    @property
    def num_samples(self) -> int:
        """How many different samples it holds, whole or in part."""
        return np.unique(self.places).size

    def take(self, chosen: IntArray | npt.NDArray[np.bool_]) -> Buffer:
        """Select some of the entries."""
        return Buffer(*(getattr(self, name)[chosen] for name in _FIELDS))

    def joined(self, others: list[Buffer]) -> Buffer:
        """Append what arrived later."""
        # What is empty does not know how many columns there are.
        parts = [each for each in (self, *others) if each.places.size]
        if not parts:
            return self
        return Buffer(
            *(np.concatenate([getattr(each, name) for each in parts]) for name in _FIELDS)
        )


_FIELDS = ("places", "starts", "pieces", "lengths", "samples")


@dataclass(eq=False)
class Intake:
    """Measures samples as they arrive, and applies the policy for those above the budget.

    Attributes:
        batching: Its budget and policy.
        length: ``sample → length``, or several: one for each column.
        cut: Cuts samples that are truncated or split.
        shard: The part of the stream, for the numbers that errors name.
        num_columns: How many lengths the first sample had, and all have to have. None: none came.
    """

    batching: Batching
    length: Measure
    cut: Cut
    shard: Shard
    num_columns: int | None = None

    def __call__(self, samples: list[Any], places: IntArray) -> tuple[Buffer, IntArray]:
        """Take in samples.

        Args:
            samples: The samples.
            places: int64[k], their places in this part of the stream.

        Returns:
            What is to be batched, and the places of samples that were dropped, int64[d]. O(k),
            and one call of `length` a sample.

        Raises:
            LengthsError: Naming the first sample whose length is no whole number of at least 1,
                or that has more or fewer lengths than those before.
            BudgetError: Naming the longest that exceeds the budget, under ``"error"``; or if it
                is of another number of columns.
        """
        if not samples:
            return Buffer.empty(), places[:0]
        held = np.empty(len(samples), dtype=np.object_)
        for place, sample in enumerate(samples):  # NumPy would take a list for an array
            held[place] = sample
        lengths = self._measure(samples, places)
        none = places[:0]
        one = np.ones_like(places)
        long = ~self.batching.layout.fits(lengths)
        if not long.any():
            return Buffer(places, 0 * places, one, lengths, held), none
        if self.batching.oversize == "drop":
            keep = ~long
            kept = Buffer(places, 0 * places, one, lengths, held).take(keep)
            return kept, places[long]
        if self.batching.oversize not in self._ways(lengths):
            raise self._too_long(lengths, places, long)
        items = fit_items(lengths, self.batching.layout, self.batching.oversize)
        whole, starts = items.samples(np.arange(len(items.lengths)))
        starts = np.zeros_like(whole) if starts is None else starts
        pieces = np.bincount(whole)[whole]
        fitted = Buffer(places[whole], starts, pieces, items.lengths.astype(np.int64), held[whole])
        for entry in np.flatnonzero(long[whole]).tolist():
            start, stop = int(starts[entry]), fitted.lengths[entry]
            bounds = (
                (start, start + int(stop))
                if lengths.ndim == 1
                else ((start,) * stop.size, tuple(stop.tolist()))
            )
            fitted.samples[entry] = self.cut(fitted.samples[entry], *bounds)
        return fitted, none

    def again(
        self, samples: list[Any], places: IntArray, pieces: Bounds | None
    ) -> tuple[Buffer, IntArray]:
        """Take in samples once more, of some of which only some pieces are left.

        Args:
            samples: The samples, whole.
            places: int64[k], their places in this part of the stream.
            pieces: Place → (start, stop) of the pieces that are left. Those above the budget are
                cut further.

        Returns:
            As when called.

        Raises:
            PlanMismatchError: If a sample has no such pieces.
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

    def _parts(self, sample: Any, place: int, bounds: list[tuple[int, int]]) -> Buffer:
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
        held = np.empty(len(cuts), dtype=np.object_)
        for number, (start, stop) in enumerate(cuts):
            held[number] = self.cut(sample, start, stop)
        starts, stops = np.array(cuts, dtype=np.int64).T
        several = np.full(len(cuts), len(cuts) + 1)  # more than there are: some are gone
        return Buffer(np.full(len(cuts), place), starts, several, stops - starts, held)

    def _ways(self, lengths: IntArray) -> tuple[str, ...]:
        """Return the policies that can be applied, but for an error."""
        layout = self.batching.layout
        if lengths.ndim == 2 and layout.longest_columns is None:
            return ("drop",)
        one = lengths.ndim == 1 and layout.kind == "packed"
        return ("drop", "split", "truncate") if one else ("drop", "truncate")

    def _measure(self, samples: list[Any], places: IntArray) -> IntArray:
        values = [self.length(sample) for sample in samples]
        if self.num_columns is None:
            self.num_columns = _num_columns(values[0])
        expected = self.num_columns
        try:
            lengths = _lengths_of(values, expected)
        except LengthsError as error:
            for place, value in zip(places.tolist(), values, strict=True):
                told = f"sample {self.shard.number(place)} of the stream has length {value!r}"
                own = _num_columns(value)
                try:
                    _lengths_of([value], own)
                except LengthsError:
                    raise LengthsError(
                        f"{told}, expected a finite whole number of at least 1 (of several "
                        "columns, a tuple of such). Correct length=, or leave such samples out of "
                        "the stream."
                    ) from error
                if own != expected:
                    raise LengthsError(
                        f"{told}: {_counted(own)}, where the first sample has {_counted(expected)}."
                        " Let length= return as many of every sample."
                    ) from error
            raise
        if lengths.ndim == 2:
            check_columns(self.batching.layout, expected)
        return lengths

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


def _no_such_pieces(place: int) -> PlanMismatchError:
    return PlanMismatchError(
        f"the state holds pieces of the sample at place {place} that it does not have. Resume with "
        "the samples and the length= that the pass began with."
    )


def slice_of(sample: Any, start: Any, stop: Any) -> Any:
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
            f"a sample above the budget is {type(sample).__name__}, which cannot be sliced. Say "
            "how to cut one: cut=(sample, start, stop) → sample."
        ) from error


def size_of(sample: Any) -> int:
    """Measure a sample that is one sequence.

    Raises:
        LengthsError: If it is something else. A dict has a `len`, which is not what is meant.
    """
    if isinstance(sample, (dict, tuple)) or not hasattr(sample, "__len__"):
        raise LengthsError(
            f"a sample is {type(sample).__name__}, whose length is not plain. Say how to measure "
            "one: length=sample → int, or one int for each column."
        )
    return len(sample)


def _num_columns(value: Any) -> int:
    """Count the lengths of a sample: 1 for a plain number, or for what is no length at all."""
    return len(value) if isinstance(value, (tuple, list)) or np.ndim(value) == 1 else 1


def _counted(num_columns: int) -> str:
    return "one length" if num_columns == 1 else f"{num_columns} lengths"


def _lengths_of(values: list[Any], num_columns: int) -> IntArray:
    lengths: LengthArray = as_lengths(values, columns=num_columns > 1)
    if lengths.shape[1:] != (() if num_columns == 1 else (num_columns,)):
        raise LengthsError(f"lengths have shape {list(lengths.shape)}.")
    return lengths.astype(np.int64, copy=False)
