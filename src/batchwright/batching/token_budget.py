"""Padded batches that never exceed a budget of tokens."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

import numpy as np

from batchwright._checks import budgets, check_choice, keep_number, keep_whole, takes
from batchwright.batching.cut import Cut, offsets_of
from batchwright.batching.cuts import (
    MaxSamples,
    RowLimit,
    cut_by_update,
    cut_in_windows,
    cut_sequence,
    cut_strips,
    fit_stretches,
    on_grid,
)
from batchwright.batching.draft import (
    Draft,
    Request,
    count_pools,
    cut_pools,
    probed_count,
    single,
    split_budget,
)
from batchwright.errors import BudgetError
from batchwright.layout import Padded
from batchwright.lengths import logs
from batchwright.typing import Cuts, IntArray, Oversize, Wanted

_PHASES = 8
"""Grids of lengths that epochs take turns with."""

_LEAST_SLACK = 0.001
"""Below it, cells of the grid are many and hold next to nothing."""


@dataclass(frozen=True)
class TokenBudget:
    """Fill padded batches up to a budget: many short samples, or few long ones.

    Guarantees ``rows × longest row ≤ max_tokens`` in every batch, and that no sample is dropped.
    Batches are cut from one sort by length; the sequence of an order that binds it is kept.

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
            stratum of the epoch. ``"update"``: the same share of every length in each update, more
            even than a plain shuffle draws, for more padding. An integer k: the same in each window
            of k updates, for less padding than ``"update"``. Several columns can only be
            stratified.
        slack: Lengths that differ by up to this share, 0 or 0.001 to 1, are batched as if equal, on
            a grid that moves from epoch to epoch: samples share batches with more different ones
            over the epochs (see `stats.variety.variety`), for padding of about half of it. For
            ``mixing="stratified"`` and lengths [n]; a binding order needs none.
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
    slack: float = 0.0
    area: Literal["sum", "product"] = "sum"

    def __post_init__(self) -> None:
        budget = budgets("TokenBudget", "max_tokens", self.max_tokens)
        object.__setattr__(self, "max_tokens", budget)
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
        keep_number(
            self,
            "slack",
            lambda value: value == 0 or _LEAST_SLACK <= value <= 1,
            f"0, or a number from {_LEAST_SLACK} to 1",
        )
        if self.slack and self.mixing != "stratified":
            raise BudgetError(
                f"TokenBudget(slack={self.slack}, mixing={self.mixing!r}): slack is for "
                'mixing="stratified"; other mixings draw other batches in every epoch without.'
            )
        if self.pad_to_multiple_of > np.min(budget):
            raise BudgetError(
                f"TokenBudget(max_tokens={self.max_tokens}, pad_to_multiple_of="
                f"{self.pad_to_multiple_of}): not even one row fits. Raise max_tokens."
            )

    @property
    def layout(self) -> Padded:
        """Padded rows within the budget."""
        budget, caps = split_budget(self.max_tokens)
        most = None if callable(self.max_samples) else self.max_samples
        return Padded(budget, most, self.pad_to_multiple_of, area=self.area, caps=caps)

    @property
    def limit(self) -> RowLimit:
        """How many rows of a length, [n], make a batch."""
        return RowLimit(
            single("TokenBudget(max_tokens", self.max_tokens),
            self.max_samples,
            self.pad_to_multiple_of,
            self.batch_size_multiple_of,
        )

    def like(self, lengths: IntArray, phase: int) -> IntArray:
        """Return the length that each of some lengths is batched as, int64[m]: see `slack`."""
        if not self.slack:
            return lengths
        values = np.unique(lengths)[::-1]
        edges, _ = on_grid(values, np.ones_like(values), self.slack, phase / _PHASES)
        found: IntArray = edges[np.searchsorted(-edges, -lengths, side="right") - 1]
        return found

    def cuts(self, values: IntArray, counts: IntArray) -> Cuts:
        """Return itself: see `Cuts`."""
        return self

    @property
    def phases(self) -> int:
        """How many grids of lengths epochs are cut by: with `slack` several."""
        return _PHASES if self.slack else 1

    def cut(self, values: IntArray, counts: IntArray, wanted: Wanted) -> Cut:
        """Cut sorted samples into `num_batches`, or as few as the budget allows; see `Cuts`."""
        strata, num_batches, phase = wanted
        if self.slack:
            values, counts = on_grid(values, counts, self.slack, phase / _PHASES)
        updates = None if num_batches is None else num_batches // strata
        found = None
        if self.mixing in {"update", 1}:
            found = cut_by_update(values, counts, self.limit, strata, updates)
        elif self.mixing != "stratified":
            found = cut_in_windows(
                values,
                counts,
                self.limit,
                strata=strata,
                window=int(self.mixing),
                num_updates=updates,
            )
        if found is not None:
            return found.split_to(max(num_batches or 0, found.num_batches))
        return fit_stretches(values, counts, self.limit, num_batches)

    def count(self, request: Request) -> int:
        """Return how many batches the pools need, with room for sequences that need more."""
        pools, lengths = request.pools, request.lengths
        if lengths.ndim == 2 or not pools.is_free:
            return probed_count(lambda: self.draft(request), is_random=pools.is_free)
        return count_pools(self._for(request), request)

    def draft(self, request: Request) -> Draft:
        """Sort and cut. O(m)."""
        pools, lengths, multiple = request.pools, request.lengths, self.batch_size_multiple_of
        if lengths.ndim == 2:
            self._check_columns(lengths.shape[1])
        if not pools.is_free:
            sequence = pools.sequence(request.rng)
            ordered = lengths[sequence].astype(np.int64, copy=False)
            allowed = self.limit if lengths.ndim == 1 else self.layout.rows_allowed
            offsets = offsets_of(cut_sequence(ordered, allowed, multiple))
            return Draft.of_sequence(request, sequence, offsets)
        if lengths.ndim == 2:
            layout = self.layout
            strips = [cut_strips(lengths, pool, layout, request.rng, multiple) for pool in pools]
            draft = Draft.of_pools(strips)
            ordered = lengths[draft.indices].astype(np.int64)
            areas = layout.areas(np.maximum.reduceat(ordered, draft.offsets[:-1]))
            return replace(draft, keys=logs(areas.astype(np.float64)))
        return cut_pools(self._for(request), request)

    def _for(self, request: Request) -> TokenBudget:
        """Return the setting for pools: only a single one can be cut by update."""
        return self if request.pools.is_one else replace(self, mixing="stratified")

    def _check_columns(self, num_columns: int) -> None:
        if self.mixing != "stratified":
            raise BudgetError(
                f"mixing={self.mixing!r} for lengths of {num_columns} columns: expected "
                '"stratified".'
            )
        if self.slack:
            raise BudgetError(
                f"slack={self.slack} for lengths of {num_columns} columns: it is for lengths [n]. "
                "Leave it out: batches of columns change from epoch to epoch without."
            )
        if callable(self.max_samples):
            raise BudgetError("max_samples as a function of length is for lengths [n], not [n, k].")
