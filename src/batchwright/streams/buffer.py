"""What a stream holds: samples that arrived and are in no batch yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright.batching import Batching
from batchwright.errors import BudgetError, LengthsError
from batchwright.lengths import as_lengths
from batchwright.oversize import fit_items
from batchwright.streams.source import Shard
from batchwright.typing import IntArray, LengthArray

Cut: TypeAlias = Callable[[Any, int, int], Any]
"""``(sample, start, stop) → sample``: the tokens from `start` up to `stop` of one."""


@dataclass(frozen=True, eq=False)
class Buffer:
    """Samples, or pieces of them, none above the budget.

    Attributes:
        places: int64[k], ascending: place of each one's sample in this part of the stream.
        starts: int64[k], where in its sample a piece begins.
        pieces: int64[k], in how many its sample was split.
        lengths: int64[k], tokens.
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
        if not others:
            return self
        return Buffer(
            *(np.concatenate([getattr(each, name) for each in (self, *others)]) for name in _FIELDS)
        )


_FIELDS = ("places", "starts", "pieces", "lengths", "samples")


@dataclass(frozen=True, eq=False)
class Intake:
    """Measures samples as they arrive, and applies the policy for those above the budget.

    Attributes:
        batching: Its budget and policy.
        length: ``sample → length``.
        cut: Cuts samples that are truncated or split.
        shard: The part of the stream, for the numbers that errors name.
    """

    batching: Batching
    length: Callable[[Any], int]
    cut: Cut
    shard: Shard

    def __call__(self, samples: list[Any], places: IntArray) -> tuple[Buffer, IntArray]:
        """Take in samples.

        Args:
            samples: The samples.
            places: int64[k], their places in this part of the stream.

        Returns:
            What is to be batched, and the places of samples that were dropped, int64[d]. O(k),
            and one call of `length` a sample.

        Raises:
            LengthsError: Naming the first sample whose length is no whole number of at least 1.
            BudgetError: Naming the longest that exceeds the budget, under ``"error"``.
        """
        if not samples:
            return Buffer.empty(), places
        held = np.empty(len(samples), dtype=np.object_)
        for place, sample in enumerate(samples):  # NumPy would take a list for an array
            held[place] = sample
        lengths = self._measure(samples, places)
        none = places[:0]
        one = np.ones_like(places)
        limit = self._limit
        long = lengths > limit if limit is not None else np.zeros(len(samples), dtype=np.bool_)
        if not long.any():
            return Buffer(places, 0 * places, one, lengths, held), none
        if self.batching.oversize == "error":
            raise self._too_long(lengths, places, int(np.count_nonzero(long)))
        if self.batching.oversize == "drop":
            keep = ~long
            kept = Buffer(places, 0 * places, one, lengths, held).take(keep)
            return kept, places[long]
        items = fit_items(lengths, self.batching.layout, self.batching.oversize)
        whole, starts = items.samples(np.arange(items.lengths.size))
        starts = np.zeros_like(whole) if starts is None else starts
        pieces = np.bincount(whole)[whole]
        fitted = Buffer(places[whole], starts, pieces, items.lengths.astype(np.int64), held[whole])
        for entry in np.flatnonzero(long[whole]).tolist():
            start = int(starts[entry])
            stop = start + int(fitted.lengths[entry])
            fitted.samples[entry] = self.cut(fitted.samples[entry], start, stop)
        return fitted, none

    @property
    def _limit(self) -> int | None:
        layout = self.batching.layout
        return None if layout.budget is None else layout.budget // layout.multiple * layout.multiple

    def _measure(self, samples: list[Any], places: IntArray) -> IntArray:
        values = [self.length(sample) for sample in samples]
        try:
            return _lengths_of(values)
        except LengthsError as error:
            for place, value in zip(places.tolist(), values, strict=True):
                try:
                    _lengths_of([value])
                except LengthsError:
                    raise LengthsError(
                        f"sample {self.shard.number(place)} of the stream has length {value!r}, "
                        "expected a finite whole number of at least 1. Correct length=, or leave "
                        "such samples out of the stream."
                    ) from error
            raise

    def _too_long(self, lengths: IntArray, places: IntArray, many: int) -> BudgetError:
        worst = int(np.argmax(lengths))
        layout = self.batching.layout
        padded = layout.kind == "padded"
        name, ways = ("max_tokens", "") if padded else ("capacity", ', "split"')
        return BudgetError(
            f"{name}={layout.budget} is smaller than sample {self.shard.number(int(places[worst]))}"
            f" of the stream, {int(lengths[worst])} tokens ({many} of the {lengths.size} just "
            f'read are too long). Raise {name}, or choose oversize="drop"{ways} or "truncate".'
        )


def slice_of(sample: Any, start: int, stop: int) -> Any:
    """Cut a sample that is one sequence.

    Raises:
        LengthsError: If it is something else.
    """
    try:
        return sample[start:stop]
    except (TypeError, KeyError, IndexError) as error:
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
            "one: length=sample → int."
        )
    return len(sample)


def _lengths_of(values: list[Any]) -> IntArray:
    lengths: LengthArray = as_lengths(values)
    return lengths.astype(np.int64, copy=False)
