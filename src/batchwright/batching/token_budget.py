"""Padded batches that never exceed a budget of tokens."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

import numpy as np

from batchwright._checks import budgets, check_choice, keep_whole, takes
from batchwright._random import sorted_by_length
from batchwright.batching.cuts import (
    MaxSamples,
    RowLimit,
    count_in_windows,
    cut_in_windows,
    cut_runs,
    cut_sequence,
    cut_strips,
    fit_runs,
)
from batchwright.batching.draft import (
    Draft,
    Oversize,
    Request,
    layout_within,
    offsets_of,
    probed_count,
    single,
)
from batchwright.errors import BudgetError
from batchwright.layout import Padded
from batchwright.lengths import logs, runs
from batchwright.typing import IntArray


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
        max_samples: The most samples in a batch; or a function of padded lengths, int64[m] →
            int64[m] of at least 1 that never rises with length, such as
            ``memory.rows_by_length(limit)``.
        pad_to_multiple_of: Rows are padded to a multiple of this, and the budget counts it.
        batch_size_multiple_of: Batches larger than this hold a multiple of it, except the
            last of a pool and those split for equal counts.
        oversize: What becomes of a sample longer than the budget: ``"error"``, ``"drop"``, or
            ``"truncate"``.
        mixing: What an update is made of. ``"stratified"``: one random batch of every length
            stratum of the epoch. ``"update"``: exactly the samples that a plain shuffle would
            draw, sorted only inside the update. An integer k: batches from random windows of k
            updates, for updates of one batch. Several columns can only be stratified.
        area: What a row of several columns takes: the ``"sum"`` of its lengths, or their
            ``"product"``: the cells of an image of height × width.

    Raises:
        BudgetError: If a setting is out of range, or not even one row fits.

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
        given = budgets("TokenBudget", "max_tokens", self.max_tokens)
        object.__setattr__(self, "max_tokens", given)
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
        if self.pad_to_multiple_of > (min(given) if isinstance(given, tuple) else given):
            raise BudgetError(
                f"TokenBudget(max_tokens={self.max_tokens}, pad_to_multiple_of="
                f"{self.pad_to_multiple_of}): not even one row fits. Raise max_tokens."
            )

    @property
    def layout(self) -> Padded:
        """Padded rows within the budget."""
        return layout_within(
            Padded,
            self.max_tokens,
            max_samples=None if callable(self.max_samples) else self.max_samples,
            multiple=self.pad_to_multiple_of,
            area=self.area,
        )

    @property
    def _limit(self) -> RowLimit:
        return RowLimit(
            single("TokenBudget(max_tokens", self.max_tokens),
            self.max_samples,
            self.pad_to_multiple_of,
            self.batch_size_multiple_of,
        )

    def count(self, request: Request) -> int:
        """Return how many batches the pools need, with room for windows that need more."""
        pools, lengths = request.pools, request.lengths
        window = self._window(request)
        if lengths.ndim == 2 or window == 1:
            return probed_count(lambda: self.draft(request), is_random=pools.is_free)
        limit = self._limit
        total = 0
        for pool in pools:
            values, counts = runs(lengths, pool)
            total += cut_runs(counts, limit(values)).size
        if window is None or window >= total:
            return total
        ordered = lengths[pools.sequence(request.rng)].astype(np.int64, copy=False)
        return max(total, count_in_windows(ordered, limit, window))

    def draft(self, request: Request) -> Draft:
        """Sort and cut. O(m) but for one sort of 64-bit keys."""
        pools, lengths, target = request.pools, request.lengths, request.num_batches
        if lengths.ndim == 2:
            self._check_columns(lengths.shape[1])
        window = self._window(request)
        if window == 1:
            return self._in_sequence(request)
        if lengths.ndim == 2:
            return self._in_strips(request)
        if window is not None and window < target:
            sequence = pools.sequence(request.rng)
            ordered = lengths[sequence].astype(np.int64, copy=False)
            cut = cut_in_windows(ordered, self._limit, window, num_batches=target)
            if cut is not None:
                return self._sorted(request, sequence, *cut)
        limit, pooled = self._limit, [runs(lengths, pool) for pool in pools]
        cuts = [cut_runs(counts, limit(values)) for values, counts in pooled]
        if len(pooled) == 1:
            fitted = fit_runs(*pooled[0], limit, num_batches=target)
            cuts = cuts if fitted is None else [fitted]
        borders = offsets_of([cut.size for cut in cuts])
        return self._sorted(request, pools.members, np.concatenate(cuts), borders)

    def _window(self, request: Request) -> int | None:
        """Return the batches that are cut from one sort: 1 keeps a sequence, None is a pool."""
        if not request.pools.is_free:
            return 1
        if self.mixing == "stratified" or not request.pools.is_one or request.lengths.ndim == 2:
            return None
        return request.multiple * (1 if self.mixing == "update" else int(self.mixing))

    def _check_columns(self, num_columns: int) -> None:
        if self.mixing != "stratified":
            raise BudgetError(
                f"mixing={self.mixing!r} for lengths of {num_columns} columns: expected "
                '"stratified".'
            )
        if callable(self.max_samples):
            raise BudgetError("max_samples as a function of length is for lengths [n], not [n, k].")

    def _in_sequence(self, request: Request) -> Draft:
        sequence = request.pools.sequence(request.rng)
        lengths = request.lengths[sequence].astype(np.int64, copy=False)
        allowed = self._limit if lengths.ndim == 1 else self.layout.rows_allowed
        sizes = cut_sequence(lengths, allowed, self.batch_size_multiple_of)
        return Draft.of_sequence(request, sequence, offsets_of(sizes))

    def _in_strips(self, request: Request) -> Draft:
        lengths, layout, multiple = request.lengths, self.layout, self.batch_size_multiple_of
        parts = [cut_strips(lengths, pool, layout, request.rng, multiple) for pool in request.pools]
        draft = Draft.of_pools(parts)
        longest = np.maximum.reduceat(lengths[draft.indices].astype(np.int64), draft.offsets[:-1])
        return replace(draft, keys=logs(layout.areas(longest).astype(np.float64)))

    def _sorted(
        self, request: Request, members: IntArray, sizes: IntArray, borders: IntArray
    ) -> Draft:
        offsets, lengths = offsets_of(sizes), request.lengths
        ordered = sorted_by_length(members, lengths, request.rng, pools=offsets[borders])
        longest = lengths[ordered[offsets[:-1]]].astype(np.float64)
        return Draft(ordered, offsets, borders, logs(longest))
