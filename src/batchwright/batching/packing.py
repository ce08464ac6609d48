"""Rows filled without padding: several samples one behind the other."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import numpy as np

from batchwright.batching.best_fit import Fill, best_fit_decreasing
from batchwright.batching.draft import Draft, Oversize
from batchwright.batching.fixed_size import one_pool
from batchwright.batching.pack_columns import fill_columns, next_fit_columns
from batchwright.batching.probing import probed_count
from batchwright.checks import budgets, check_choice, keep_whole
from batchwright.errors import BudgetError
from batchwright.layout import Layout
from batchwright.lengths import MOST_TOKENS, logs, refuse_uncountable, runs
from batchwright.order import Pools
from batchwright.seeding import sorted_by_length
from batchwright.typing import IntArray, LengthArray


@dataclass(frozen=True)
class Packing:
    """Pack samples into rows of a capacity; each batch is one row.

    Guarantees that no row exceeds the capacity and that no sample is cut, unless it is longer
    than the capacity and `oversize` says so.

    Samples may have several lengths, [n, k]. With a capacity for each column, a row is as many
    rows beside one another, such as a packed source and its packed target; with one capacity, the
    columns of a row share it.

    Args:
        capacity: Tokens of a row. For several columns also one capacity for each.
        method: ``"best_fit"``: longest first, each into the fullest row that holds it; rows are
            99.99 % full on most data. ``"next_fit"``: the sequence of the order, kept; each
            row ends where the next sample does not fit.
        max_samples: The most samples in a row.
        align: Samples begin at multiples of this inside the row.
        oversize: What becomes of a sample longer than the capacity: ``"error"``, ``"drop"``,
            ``"truncate"``, or ``"split"`` into pieces that are planned like samples. Several
            columns cannot be split, and truncated only where each has its capacity.

    Raises:
        BudgetError: If a setting makes no sense.

    Example:
        >>> import batchwright as bw
        >>> plan = bw.plan([6, 4, 3, 7], batching=Packing(10))
        >>> sorted(sorted(row.tolist()) for row in plan)
        [[0, 1], [2, 3]]
        >>> pairs = bw.plan([[6, 1], [4, 2], [3, 5], [1, 3]], batching=Packing((7, 7)))
        >>> sorted(sorted(row.tolist()) for row in pairs)
        [[0, 3], [1, 2]]
    """

    capacity: int | tuple[int, ...]
    _: KW_ONLY
    method: Literal["best_fit", "next_fit"] = "best_fit"
    max_samples: int | None = None
    align: int = 1
    oversize: Oversize = "error"

    def __post_init__(self) -> None:
        """Check the settings."""
        object.__setattr__(self, "capacity", budgets("Packing", "capacity", self.capacity))
        keep_whole(self, "align", optional=("max_samples",))
        check_choice("Packing", "method", self.method, ("best_fit", "next_fit"))
        check_choice("Packing", "oversize", self.oversize, ("error", "drop", "truncate", "split"))
        if self.align > min(self._capacities):
            raise BudgetError(
                f"Packing(capacity={self.capacity}, align={self.align}): nothing fits."
            )

    @property
    def layout(self) -> Layout:
        """Samples one behind the other within the capacity."""
        if isinstance(self.capacity, tuple):
            return Layout("packed", None, self.max_samples, self.align, caps=self.capacity)
        return Layout("packed", self.capacity, self.max_samples, self.align)

    def count(
        self, pools: Pools, lengths: LengthArray, *, rng: np.random.Generator, multiple: int
    ) -> int:
        """Return how many rows the pools need; see `Batching.count`."""
        rows = self._rows(lengths)
        if rows.ndim == 2 and self._is_best_fit(pools):
            return self._columns(pools, rows, rng).offsets.size - 1
        if self._is_best_fit(pools):
            return sum(self._fill(rows, pool).num_rows for pool in pools)
        return probed_count(
            lambda: self.draft(pools, lengths, rng=rng, multiple=multiple, num_batches=0),
            is_random=pools.is_free,
        )

    def draft(
        self,
        pools: Pools,
        lengths: LengthArray,
        *,
        rng: np.random.Generator,
        multiple: int,
        num_batches: int,
    ) -> Draft:
        """Fill the rows; see `Batching.draft`. O(m) but for one sort of 64-bit keys."""
        lengths = self._rows(lengths)
        if lengths.ndim == 2 and self._is_best_fit(pools):
            return self._columns(pools, lengths, rng)
        if self._is_best_fit(pools):
            return self._best_fit(pools, lengths, rng)
        sequence = pools.sequence(rng)
        rows = self.layout.rounded(lengths[sequence].astype(np.int64, copy=False))
        if rows.ndim == 2:
            offsets = next_fit_columns(rows, self._whole_columns, max_samples=self.max_samples)
        else:
            offsets = next_fit(rows, self._whole_capacity, max_samples=self.max_samples)
        return Draft(sequence, offsets, one_pool(pools, offsets.size - 1))

    @property
    def _capacities(self) -> tuple[int, ...]:
        return self.capacity if isinstance(self.capacity, tuple) else (self.capacity,)

    @property
    def _whole_capacity(self) -> int:
        return min(self._capacities[0], MOST_TOKENS - 1) // self.align * self.align

    @property
    def _whole_columns(self) -> IntArray:
        capacities = np.minimum(np.array(self._capacities, dtype=np.int64), MOST_TOKENS - 1)
        return capacities // self.align * self.align

    def _rows(self, lengths: LengthArray) -> LengthArray:
        """Return what samples take of a row: in each column, or of one capacity in all."""
        if isinstance(self.capacity, tuple):
            if lengths.ndim == 1:
                raise BudgetError(
                    f"Packing(capacity={self.capacity}) has a capacity for each of several "
                    "columns, and lengths are [n]. Give one number, or lengths [n, k]."
                )
            return lengths
        if lengths.ndim == 1:
            return lengths
        return self.layout.areas(self.layout.rounded(lengths.astype(np.int64, copy=False)))

    def _is_best_fit(self, pools: Pools) -> bool:
        return self.method == "best_fit" and pools.is_free

    def _fill(self, lengths: LengthArray, pool: IntArray) -> Fill:
        values, counts = runs(lengths, pool)
        return best_fit_decreasing(
            self.layout.rounded(values),
            counts,
            self._whole_capacity,
            max_samples=self.max_samples,
        )

    def _best_fit(self, pools: Pools, lengths: LengthArray, rng: np.random.Generator) -> Draft:
        ids = sorted_by_length(pools.members, lengths, rng, pools=pools.offsets)
        offsets, keys = [np.zeros(1, dtype=np.int64)], []
        start = 0
        for pool in pools:
            fill = self._fill(lengths, pool)
            stop = start + pool.size
            ids[start:stop] = fill.hand_out(ids[start:stop])
            offsets.append(start + fill.offsets()[1:])
            tokens = fill.lengths.astype(np.float64)
            keys.append(fill.per_row(tokens * logs(tokens)) / fill.per_row(tokens))
            start = stop
        edges = np.concatenate(([0], np.cumsum([each.size for each in keys])))
        return Draft(ids, np.concatenate(offsets), edges, np.concatenate(keys))

    def _columns(self, pools: Pools, lengths: LengthArray, rng: np.random.Generator) -> Draft:
        rows = self.layout.rounded(lengths.astype(np.int64, copy=False))
        fills = [
            fill_columns(rows, pool, self._whole_columns, rng, max_samples=self.max_samples)
            for pool in pools
        ]
        ids = np.concatenate([ordered for ordered, _ in fills])
        offsets = np.concatenate(([0], np.cumsum(np.concatenate([sizes for _, sizes in fills]))))
        edges = np.concatenate(([0], np.cumsum([sizes.size for _, sizes in fills])))
        tokens = self.layout.areas(rows[ids]).astype(np.float64)
        sums = np.add.reduceat(np.stack((tokens * logs(tokens), tokens)), offsets[:-1], axis=1)
        return Draft(ids, offsets, edges, sums[0] / sums[1])


def next_fit(rows: IntArray, capacity: int, *, max_samples: int | None = None) -> IntArray:
    """Cut a sequence into rows without changing it.

    Args:
        rows: int64[m], tokens of each sample, none above the capacity.
        capacity: Tokens of a row.
        max_samples: The most samples in a row.

    Returns:
        int64[b + 1], where rows begin and end. O(b log m).

    Example:
        >>> next_fit(np.array([6, 4, 3, 7]), 10).tolist()
        [0, 2, 4]
    """
    refuse_uncountable(rows.sum(dtype=np.float64))
    ends = np.cumsum(rows)
    offsets = [0]
    while offsets[-1] < rows.size:
        start = offsets[-1]
        used = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, used + capacity, side="right"))
        offsets.append(stop if max_samples is None else min(stop, start + max_samples))
    return np.array(offsets, dtype=np.int64)
