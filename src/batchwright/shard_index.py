"""An index of data in shards: how many samples of each length every shard has, and their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from batchwright._keyed import hash_of
from batchwright.batches import Entries
from batchwright.batching.cut import offsets_of, ranges
from batchwright.errors import BudgetError, LengthsError, PlanError
from batchwright.index import counted, from_long_to_short
from batchwright.layout import Layout
from batchwright.lengths import as_lengths, fingerprint, logs
from batchwright.order.pools import Kept
from batchwright.oversize import Items, named_limit
from batchwright.typing import FloatArray, IntArray, IntoLengths, LengthArray, Oversize

_OPEN = 4
"""Groups of shards whose rows are cached: of two nodes, each at the change between two groups."""


class RowsOf(Protocol):
    """Reads the rows of a shard, from long to short: as `LengthIndex` sorts samples."""

    def __call__(self, shard: int) -> npt.NDArray[np.unsignedinteger]:
        """Return integer[n], rows of the shard, from 0."""


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Samples of many shards, each sorted by length separately; there is no sort over all shards.

    Sample indices count through the shards in order. The number of samples of each length is kept
    in memory, some kilobytes per shard. The sorted rows of a shard are read when one of its samples
    is planned, and those of a few groups of shards are cached. `sources.index_shards` makes an
    index, `sources.open_index` opens it.

    Attributes:
        names: Names of the shards, for messages.
        sizes: int64[s], samples of each shard.
        begins: int64[s + 1], where the histogram of each shard begins and ends in `values`.
        values: integer[k], the distinct lengths of each shard, from long to short; may be mapped.
        counts: integer[k], how many samples have each.
        rows_of: Reads the rows of a shard, from long to short.
        fingerprint: Hash of the lengths of all shards.
        path: The folder, if there is one.
        stamps: Size and ETag or time of each shard when it was measured. Empty: unknown.

    Example:
        >>> import batchwright as bw
        >>> index = ShardIndex.build([[3, 5, 3], [2, 2, 9, 4]])
        >>> index.num_samples, index.offsets.tolist(), index.locate(np.array([4])).tolist()
        (7, [0, 3, 7], [[1, 1]])
        >>> planner = bw.Planner(index, max_tokens=10)
        >>> sorted(sample for batch in planner(0) for sample in batch.tolist())
        [0, 1, 2, 3, 4, 5, 6]
    """

    names: tuple[str, ...]
    sizes: IntArray
    begins: IntArray
    values: LengthArray
    counts: npt.NDArray[np.integer[Any]]
    rows_of: RowsOf
    fingerprint: str
    path: str | None = None
    stamps: tuple[tuple[int, str], ...] = ()
    opened: Kept = field(default_factory=lambda: Kept(_OPEN), repr=False)

    def __post_init__(self) -> None:
        """Make arrays read-only, also those of a pickle."""
        for array in (self.sizes, self.begins, self.values, self.counts):
            array.setflags(write=False)
        if not self.num_samples:
            raise LengthsError("the shards hold no samples, expected at least one.")

    @classmethod
    def build(cls, shards: Sequence[IntoLengths]) -> ShardIndex:
        """Index lengths that are in memory: an integer[n] for each shard. O(n)."""
        arrays = [as_lengths(each) for each in shards]
        if not arrays:
            raise LengthsError("there are no shards, expected at least one.")
        histograms = [counted(array) for array in arrays]
        return cls(
            tuple(f"shard {number}" for number in range(len(arrays))),
            np.array([array.size for array in arrays], dtype=np.int64),
            offsets_of([values.size for values, _ in histograms]),
            np.concatenate([values for values, _ in histograms]),
            np.concatenate([counts for _, counts in histograms]),
            SortedRows(
                tuple(
                    from_long_to_short(array, *histogram).astype(np.uint32)
                    for array, histogram in zip(arrays, histograms, strict=True)
                )
            ),
            hash_of("".join(fingerprint(array) for array in arrays).encode()),
        )

    @property
    def num_samples(self) -> int:
        """The number of samples in all shards."""
        return int(self.sizes.sum())

    @property
    def num_shards(self) -> int:
        """The number of shards."""
        return self.sizes.size

    @cached_property
    def offsets(self) -> IntArray:
        """The first sample of each shard, and the number of all samples, int64[s + 1]."""
        return offsets_of(self.sizes)

    def histogram(self) -> tuple[IntArray, IntArray]:
        """Count the samples of each length over all shards, from long to short: two int64[r]."""
        return _summed(self.values, self.counts)

    def locate(self, samples: IntArray) -> IntArray:
        """Return the shard of each sample and its row there, int64[m, 2]."""
        shards = self.offsets.searchsorted(samples, side="right") - 1
        return np.stack((shards, samples - self.offsets[shards]), axis=1)

    def checked_rows(self, shard: int) -> npt.NDArray[np.unsignedinteger]:
        """Read the rows of a shard, from long to short; raise PlanError if some are missing."""
        rows = np.asarray(self.rows_of(shard))
        if rows.shape != (self.sizes[shard],) or rows.dtype.kind not in "iu":
            raise PlanError(
                f"the index of {self.names[shard]} has rows {rows.dtype}{list(rows.shape)}, "
                f"expected {self.sizes[shard]} integers. Index it again."
            )
        return rows

    def lengths(self) -> npt.NDArray[np.unsignedinteger]:
        """Return the length of every sample, unsigned[n]. O(n): all shards are read."""
        longest = int(self.values.max())
        found = np.empty(self.num_samples, np.min_scalar_type(longest))
        for shard in range(self.num_shards):
            own = slice(*self.begins[shard : shard + 2].tolist())
            rows = np.asarray(self.checked_rows(shard), dtype=np.int64)
            found[self.offsets[shard] + rows] = np.repeat(self.values[own], self.counts[own])
        return found

    def __array__(
        self, dtype: npt.DTypeLike | None = None, *, copy: bool | None = None
    ) -> npt.NDArray[np.generic]:
        """Return the lengths: an index can be used as lengths, as in ``plan.stats(index)``."""
        return np.asarray(self.lengths(), dtype=dtype)

    def __repr__(self) -> str:
        """Describe the index in a line."""
        where = "" if self.path is None else f", path={self.path!r}"
        return f"ShardIndex({self.num_samples} samples in {self.num_shards} shards{where})"


@dataclass(frozen=True)
class SortedRows:
    """The rows of shards that are in memory."""

    rows: tuple[npt.NDArray[np.unsignedinteger], ...]

    def __call__(self, shard: int) -> npt.NDArray[np.unsignedinteger]:
        """Return the rows of a shard."""
        return self.rows[shard]


@dataclass(frozen=True, eq=False)
class Opened:
    """Samples of a few shards, from long to short."""

    rows: npt.NDArray[np.unsignedinteger]  # of one shard after the other
    ends: IntArray  # int64[e], positions at which runs of equal length in one shard end
    shifts: IntArray  # int64[e], from positions to entries of `rows`
    first: IntArray  # int64[e], the first sample of the shard

    def take(self, positions: IntArray) -> IntArray:
        """Return the samples at some positions, int64[...]."""
        at = self.ends.searchsorted(positions, side="right")
        found: IntArray = self.rows[positions + self.shifts[at]].astype(np.int64)
        found += self.first[at]
        return found


@dataclass(frozen=True, eq=False)
class Sharded:
    """Samples of some shards, all within the budget, from long to short; see `Sorted`."""

    index: ShardIndex
    shards: IntArray  # int64[k]
    longest: int | None = None  # longer samples are left out. None: no limit
    limit: int | None = None  # longer samples are cut to this. None: no limit
    values: IntArray = field(init=False)
    counts: IntArray = field(init=False)

    def __post_init__(self) -> None:
        """Count the samples of each length."""
        values, counts, _ = self._runs()
        if self.longest is not None:
            values, counts = (each[values <= self.longest] for each in (values, counts))
        if self.limit is not None:
            values = np.minimum(values, self.limit)
        values, counts = _summed(values, counts)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "counts", counts)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without what can be counted again."""
        return Sharded, (self.index, self.shards, self.longest, self.limit)

    @classmethod
    def of(cls, index: ShardIndex, layout: Layout, oversize: Oversize) -> tuple[Sharded, Items]:
        """Apply the policy for samples that alone exceed the budget; see `Indexed.of`."""
        shards, nothing = np.arange(index.num_shards), np.empty(0, dtype=np.int64)
        if layout.fits(np.array([index.values.max()], dtype=np.int64)).all():
            return cls(index, shards), Items(nothing)
        fits = layout.fits(index.values.astype(np.int64))
        if oversize == "drop" and fits.any():
            longest = int(index.values[fits].max())
            return cls(index, shards, longest), Items(nothing, _longer(index, longest))
        if oversize == "truncate" and layout.longest_row is not None:
            limit = layout.longest_row
            return cls(index, shards, limit=limit), Items(nothing, max_length=limit)
        at = int(np.argmax(index.values))
        shard = int(index.begins.searchsorted(at, side="right")) - 1
        raise BudgetError(
            f"{named_limit(layout)} is too small for {int(index.counts[~fits].sum())} of "
            f"{index.num_samples} samples (the longest, row {int(index.rows_of(shard)[0])} of "
            f"{index.names[shard]}, has {int(index.values[at])} tokens). Raise it, or choose "
            "oversize='drop' or 'truncate'."
        )

    @property
    def num_samples(self) -> int:
        """The number of samples in the data."""
        return self.index.num_samples

    def surplus(self) -> FloatArray:
        """Return how much longer the samples of each shard are than the mean, float64[k].

        It is in logarithms, summed over tokens, as is the length mix of updates.
        """
        values, counts, which = self._runs()
        tokens, logarithms = values * counts.astype(np.float64), logs(values.astype(np.float64))
        mean = (tokens * logarithms).sum() / tokens.sum()
        weights = tokens * (logarithms - mean)
        return np.bincount(which, weights, self.shards.size).astype(np.float64)

    def some(self, shards: IntArray) -> Sharded:
        """Return the samples of some of the shards, int64[k]."""
        return Sharded(self.index, shards, self.longest, self.limit)

    def take(self, positions: IntArray) -> IntArray:
        """Return the samples at some positions, int64[...]."""
        key = (self.shards.tobytes(), self.longest, self.limit)
        return self.index.opened.get(key, self._opened).take(positions)

    def entries(self, taken: npt.NDArray[np.integer[Any]]) -> Entries:
        """Return the taken samples as entries: no sample is split."""
        return Entries(taken.astype(np.int64, copy=False))

    def identity(self) -> str:
        """Hash the lengths of all shards, and which samples these are."""
        return f"{self.index.fingerprint} {hash_of(self.shards.tobytes())} {self.longest}"

    def _runs(self) -> tuple[IntArray, IntArray, IntArray]:
        """Return the runs of equal length in all shards: lengths, counts, and shards."""
        begins = self.index.begins[self.shards]
        many = self.index.begins[self.shards + 1] - begins
        at = ranges(begins, many)
        return (
            self.index.values[at].astype(np.int64),
            self.index.counts[at].astype(np.int64),
            np.repeat(np.arange(self.shards.size), many),
        )

    def _opened(self) -> Opened:
        """Read the rows of all shards, and merge their runs of equal length."""
        index = self.index
        rows = [index.checked_rows(shard) for shard in self.shards.tolist()]
        values, counts, which = self._runs()
        begins = np.cumsum(counts) - counts
        order = np.lexsort((which, -values))
        if self.longest is not None:
            order = order[values[order] <= self.longest]
        many = counts[order]
        ends = np.cumsum(many)
        first = index.offsets[self.shards][which[order]]
        return Opened(np.concatenate(rows), ends, begins[order] + many - ends, first)


def _summed(values: LengthArray, counts: npt.NDArray[np.integer[Any]]) -> tuple[IntArray, IntArray]:
    """Add up the counts of equal lengths, from long to short: two int64[r]."""
    order = np.argsort(values, kind="stable")[::-1]
    ordered = values[order].astype(np.int64)
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] + 1))
    return ordered[starts], np.add.reduceat(counts[order], starts, dtype=np.int64)


def _longer(index: ShardIndex, longest: int) -> IntArray:
    """Return the samples that are longer, in increasing order. Only their shards are read."""
    run_shards = np.repeat(np.arange(index.num_shards), np.diff(index.begins))
    many = np.bincount(run_shards, index.counts * (index.values > longest), index.num_shards)
    found = [
        index.offsets[shard] + np.asarray(index.checked_rows(shard)[: int(many[shard])], np.int64)
        for shard in np.flatnonzero(many).tolist()
    ]
    return np.sort(np.concatenate(found))
