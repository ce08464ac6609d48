"""Padded batches that never exceed a budget of tokens."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import numpy as np

from batchwright.batching.columns import cut_columns, cut_strips
from batchwright.batching.cuts import MaxSamples, RowLimit, cut_runs, cut_sequence, fit_runs
from batchwright.batching.draft import Draft, Oversize
from batchwright.batching.fixed_size import one_pool
from batchwright.batching.probing import probed_count
from batchwright.batching.windows import count_in_windows, cut_in_windows
from batchwright.checks import budgets, check_choice, keep_whole, takes
from batchwright.errors import BudgetError
from batchwright.layout import Layout
from batchwright.lengths import logs, runs
from batchwright.order import Pools
from batchwright.seeding import sorted_by_length
from batchwright.typing import IntArray, LengthArray


@dataclass(frozen=True)
class TokenBudget:
    """Fill padded batches up to a budget: many short samples, or few long ones.

    Guarantees ``rows × longest row ≤ max_tokens`` in every batch, and that no sample is
    dropped. Inside each pool of the order, batches are cut from one sort by length; a binding
    sequence is cut where it stands.

    Samples may have several lengths, [n, k]: a row is then padded in every column, and takes the
    sum of them, or their product.

    Args:
        max_tokens: The budget of one batch, padding included. A memory setting. For several
            columns also one budget for each.
        max_samples: The most samples in a batch; or a function from padded lengths int64[m] to
            that, int64[m] of at least 1 that never rises with length: a budget of its own for
            each length, such as ``memory.rows_by_length(limit)``.
        pad_to_multiple_of: Rows are padded to a multiple of this, and the budget counts it.
        batch_size_multiple_of: Batches larger than this hold a multiple of it, except the
            last of a pool and those split for equal counts.
        oversize: What becomes of a sample longer than the budget: ``"error"``, ``"drop"``, or
            ``"truncate"``.
        mixing: What an update is made of. ``"stratified"``: one random batch of every length
            stratum of the epoch. ``"update"``: exactly the samples that a plain shuffle would
            draw, sorted only inside the update. An integer k: batches of random windows of k
            updates, for updates of one batch. Several columns can only be stratified.
        area: What a row of several columns takes: the ``"sum"`` of its lengths, or their
            ``"product"``: the cells of an image of height × width.

    Raises:
        BudgetError: If a setting makes no sense.

    Example:
        >>> import batchwright as bw
        >>> plan = bw.plan([9, 1, 8, 2, 2], batching=TokenBudget(18))
        >>> sorted(sorted(batch.tolist()) for batch in plan)
        [[0, 2], [1, 3, 4]]
    """

    max_tokens: int | tuple[int, ...]
    _: KW_ONLY
    max_samples: MaxSamples = None
    pad_to_multiple_of: int = 1
    batch_size_multiple_of: int = 1
    oversize: Oversize = "error"
    mixing: Literal["stratified", "update"] | int = "stratified"
    area: Literal["sum", "product"] = "sum"

    def __post_init__(self) -> None:
        """Check the settings."""
        object.__setattr__(
            self, "max_tokens", budgets("TokenBudget", "max_tokens", self.max_tokens)
        )
        caps = self.max_tokens if isinstance(self.max_tokens, tuple) else (self.max_tokens,)
        check_choice("TokenBudget", "area", self.area, ("sum", "product"))
        keep_whole(self, "pad_to_multiple_of", "batch_size_multiple_of")
        if isinstance(self.max_samples, type) or not callable(self.max_samples):
            keep_whole(self, optional=("max_samples",))
        elif not takes(self.max_samples, None):
            raise BudgetError(
                f"TokenBudget(max_samples={self.max_samples!r:.60}): expected a number, or a "
                "function of padded lengths."
            )
        check_choice("TokenBudget", "oversize", self.oversize, ("error", "drop", "truncate"))
        if isinstance(self.mixing, str):
            check_choice("TokenBudget", "mixing", self.mixing, ("stratified", "update"))
        else:
            keep_whole(self, "mixing")
        if self.pad_to_multiple_of > min(caps):
            raise BudgetError(
                f"TokenBudget(max_tokens={self.max_tokens}, pad_to_multiple_of="
                f"{self.pad_to_multiple_of}): not even one row fits. Raise max_tokens."
            )

    @property
    def layout(self) -> Layout:
        """Padded rows within the budget."""
        caps = self.max_tokens if isinstance(self.max_tokens, tuple) else None
        return Layout(
            "padded",
            None if isinstance(self.max_tokens, tuple) else self.max_tokens,
            self._fixed_max_samples,
            self.pad_to_multiple_of,
            area=self.area,
            caps=caps,
        )

    @property
    def _fixed_max_samples(self) -> int | None:
        return None if callable(self.max_samples) else self.max_samples

    @property
    def _limit(self) -> RowLimit:
        if isinstance(self.max_tokens, tuple):
            raise BudgetError(
                f"TokenBudget(max_tokens={self.max_tokens}) has a budget for each of several "
                "columns, and lengths are [n]. Give one number, or lengths [n, k]."
            )
        return RowLimit(
            self.max_tokens,
            self.max_samples,
            self.pad_to_multiple_of,
            self.batch_size_multiple_of,
        )

    def count(
        self, pools: Pools, lengths: LengthArray, *, rng: np.random.Generator, multiple: int
    ) -> int:
        """Return how many batches the pools need; see `Batching.count`.

        With mixing other than stratified, room is left for windows that happen to need more.
        """
        if lengths.ndim == 2:
            return probed_count(
                lambda: self._of_columns(pools, lengths, rng), is_random=pools.is_free
            )
        window = self._window(pools, multiple)
        if window == 1:
            return probed_count(
                lambda: self._in_sequence(pools, lengths, rng), is_random=pools.is_free
            )
        limit = self._limit
        total = 0
        for pool in pools:
            values, counts = runs(lengths, pool)
            total += cut_runs(counts, limit(values)).size
        if window is None or window >= total:
            return total
        ordered = _lengths_of(pools.sequence(rng), lengths)
        return max(total, count_in_windows(ordered, limit, window))

    def draft(
        self,
        pools: Pools,
        lengths: LengthArray,
        *,
        rng: np.random.Generator,
        multiple: int,
        num_batches: int,
    ) -> Draft:
        """Sort and cut; see `Batching.draft`. O(m) but for one sort of 64-bit keys."""
        if lengths.ndim == 2:
            return self._of_columns(pools, lengths, rng)
        window = self._window(pools, multiple)
        if window == 1:
            return self._in_sequence(pools, lengths, rng)
        limit = self._limit
        if window is not None and window < num_batches:
            sequence = pools.sequence(rng)
            ordered = _lengths_of(sequence, lengths)
            cut = cut_in_windows(ordered, limit, window, num_batches=num_batches)
            if cut is not None:
                return self._sorted(sequence, lengths, *cut, rng)
        pooled = [runs(lengths, pool) for pool in pools]
        cuts = [self._cut(*run, num_batches, len(pooled)) for run in pooled]
        edges = np.concatenate(([0], np.cumsum([cut.size for cut in cuts])))
        return self._sorted(pools.members, lengths, np.concatenate(cuts), edges, rng)

    def _window(self, pools: Pools, multiple: int) -> int | None:
        """Return the batches that are cut from one sort: 1 keeps a sequence, None is a pool."""
        if not pools.is_free:
            return 1
        if self.mixing == "stratified" or pools.offsets is None or pools.offsets.size > 2:
            return None
        return multiple if self.mixing == "update" else int(self.mixing) * multiple

    def _of_columns(self, pools: Pools, lengths: LengthArray, rng: np.random.Generator) -> Draft:
        layout, multiple = self.layout, self.batch_size_multiple_of
        if self.mixing != "stratified":
            raise BudgetError(
                f"mixing={self.mixing!r} for lengths of {lengths.shape[1]} columns: expected "
                '"stratified".'
            )
        if callable(self.max_samples):
            raise BudgetError("max_samples as a function of length is for lengths [n], not [n, k].")
        if not pools.is_free:
            sequence = pools.members
            columns = lengths[sequence].astype(np.int64, copy=False)
            sizes = cut_columns(columns, layout, batch_size_multiple_of=multiple)
            return Draft(sequence, _offsets(sizes))
        cuts = [
            cut_strips(lengths, pool, layout, rng, batch_size_multiple_of=multiple)
            for pool in pools
        ]
        members = np.concatenate([ordered for ordered, _ in cuts])
        offsets = _offsets(np.concatenate([sizes for _, sizes in cuts]))
        borders = np.concatenate(([0], np.cumsum([sizes.size for _, sizes in cuts])))
        longest = np.maximum.reduceat(lengths[members].astype(np.int64), offsets[:-1])
        return Draft(members, offsets, borders, logs(layout.areas(longest).astype(np.float64)))

    def _in_sequence(self, pools: Pools, lengths: LengthArray, rng: np.random.Generator) -> Draft:
        sequence = pools.sequence(rng)
        offsets = _offsets(cut_sequence(_lengths_of(sequence, lengths), self._limit))
        return Draft(sequence, offsets, one_pool(pools, offsets.size - 1))

    def _cut(self, values: IntArray, counts: IntArray, target: int, num_pools: int) -> IntArray:
        if num_pools == 1:
            fitted = fit_runs(values, counts, self._limit, num_batches=target)
            if fitted is not None:
                return fitted
        return cut_runs(counts, self._limit(values))

    def _sorted(
        self,
        members: IntArray,
        lengths: LengthArray,
        sizes: IntArray,
        pools: IntArray,
        rng: np.random.Generator,
    ) -> Draft:
        offsets = _offsets(sizes)
        ordered = sorted_by_length(members, lengths, rng, pools=offsets[pools])
        longest = lengths[ordered[offsets[:-1]]].astype(np.float64)
        return Draft(ordered, offsets, pools, logs(longest))


def _lengths_of(members: IntArray, lengths: LengthArray) -> IntArray:
    return lengths[members].astype(np.int64, copy=False)


def _offsets(sizes: IntArray) -> IntArray:
    return np.concatenate(([0], np.cumsum(sizes)))
