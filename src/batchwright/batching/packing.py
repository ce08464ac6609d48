"""Rows filled without padding: several samples in each."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from functools import lru_cache, reduce
from typing import ClassVar, Literal

import numpy as np

from batchwright._checks import budgets, check_choice, keep_whole
from batchwright._random import shuffled
from batchwright.batching.cut import Cut
from batchwright.batching.draft import (
    Draft,
    Request,
    count_pools,
    cut_pools,
    probed_count,
    single,
    split_budget,
)
from batchwright.batching.packers import best_fit_decreasing, next_fit, pack_columns, rows_of
from batchwright.errors import BudgetError
from batchwright.layout import Packed
from batchwright.lengths import MOST_TOKENS, fingerprint, logs
from batchwright.typing import Cuts, IntArray, LengthArray, Oversize, Wanted


@dataclass(frozen=True)
class Packing:
    """Pack samples into rows of a capacity; each batch is one row.

    Guarantees that no row exceeds the capacity and that no sample is cut, unless it is longer
    than the capacity and `oversize` says so.

    Samples may have several lengths, [n, k]. With a capacity for each column, a row is a packed
    source and its packed target, for example; with one capacity, the columns share it.

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
        BudgetError: If a setting is out of range, or nothing fits.

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
        object.__setattr__(self, "capacity", budgets("Packing", "capacity", self.capacity))
        keep_whole(self, "align", optional=("max_samples",))
        check_choice("Packing", "method", self.method, ("best_fit", "next_fit"))
        check_choice("Packing", "oversize", self.oversize, ("error", "drop", "truncate", "split"))
        if self.align > np.min(self.capacity):
            raise BudgetError(
                f"Packing(capacity={self.capacity}, align={self.align}): nothing fits."
            )

    @property
    def layout(self) -> Packed:
        """Samples one after the other within the capacity."""
        budget, caps = split_budget(self.capacity)
        return Packed(budget, self.max_samples, self.align, caps=caps)

    def cuts(self, values: IntArray, counts: IntArray) -> Cuts | None:
        """Return itself: see `Cuts`."""
        single("Packing(capacity", self.capacity)
        return self if self.method == "best_fit" else None

    phases: ClassVar[int] = 1

    def cut(self, values: IntArray, counts: IntArray, wanted: Wanted) -> Cut:
        """Fill rows with sorted samples; see `Cuts`."""
        filled = _filled(
            self.layout.rounded(values).tobytes(),
            counts.tobytes(),
            int(self.whole[0]),
            self.max_samples,
        )
        return filled.split_to(max(wanted.num_batches or 0, filled.num_batches))

    def count(self, request: Request) -> int:
        """Return how many rows the pools need."""
        pools, rows = request.pools, self.taken(request.lengths)
        if self.method == "next_fit" or not pools.is_free:
            return probed_count(lambda: self.draft(request), is_random=pools.is_free)
        if rows.ndim == 1:
            return count_pools(self, replace(request, lengths=rows))
        return len(self.draft(request))

    def draft(self, request: Request) -> Draft:
        """Fill the rows. O(m)."""
        pools, rows = request.pools, self.taken(request.lengths)
        if self.method == "best_fit" and pools.is_free:
            if rows.ndim == 1:
                return cut_pools(self, replace(request, lengths=rows, num_batches=0))
            return self._columns(request, rows)
        sequence = pools.sequence(request.rng)
        taken = self.layout.rounded(rows[sequence].astype(np.int64, copy=False))
        capacities = self.whole if rows.ndim == 2 else int(self.whole[0])
        offsets = next_fit(taken, capacities, max_samples=self.max_samples)
        return Draft.of_sequence(request, sequence, offsets)

    @property
    def whole(self) -> IntArray:
        """The capacities, rounded down to `align`."""
        capacities = np.minimum(np.atleast_1d(self.capacity), MOST_TOKENS - 1)
        whole: IntArray = capacities.astype(np.int64) // self.align * self.align
        return whole

    def taken(self, lengths: LengthArray) -> LengthArray:
        """Return what samples take of a row: in each column, or of one capacity together."""
        if lengths.ndim == 1:
            single("Packing(capacity", self.capacity)
        if lengths.ndim == 1 or isinstance(self.capacity, tuple):
            return lengths
        return self.layout.areas(self.layout.rounded(lengths.astype(np.int64, copy=False)))

    def _columns(self, request: Request, lengths: LengthArray) -> Draft:
        """Pack samples from large to small: by what they take of a row, summed over columns.

        By the fullest column alone, best fit needs 1 to 2 % more rows. Where no two samples are
        equal, every epoch has the same rows; which of them share an update is drawn anew.
        """
        rows = self.layout.rounded(lengths.astype(np.int64, copy=False))
        parts = []
        for pool in request.pools:
            ids = shuffled(pool, request.rng)
            shares = rows[ids] / self.whole
            total = reduce(np.add, shares.T)  # `sum` promises no one sequence on every machine
            by_size = np.lexsort((*rows[ids].T, -shares.max(axis=1), -total))
            ids = ids[by_size]
            placed = self._placed(request, rows[ids])
            parts.append(rows_of(placed, ids))
        draft = Draft.of_pools(parts)
        tokens = self.layout.areas(rows[draft.indices]).astype(np.float64)
        both = np.stack((tokens * logs(tokens), tokens))
        sums = np.add.reduceat(both, draft.offsets[:-1], axis=1)
        return replace(draft, keys=sums[0] / sums[1])

    def _placed(self, request: Request, columns: IntArray) -> IntArray:
        return request.kept.get(
            fingerprint(columns),
            lambda: pack_columns(columns, self.whole, max_samples=self.max_samples),
        )


@lru_cache(maxsize=4)
def _filled(lengths: bytes, counts: bytes, capacity: int, max_samples: int | None) -> Cut:
    """Fill rows once for epochs of the same lengths, int64[r] each."""
    values, many = (np.frombuffer(each, dtype=np.int64) for each in (lengths, counts))
    return best_fit_decreasing(values, many, capacity, max_samples=max_samples)
