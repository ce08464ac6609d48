"""Samples that alone exceed the budget: an error, dropped, truncated or split."""

from dataclasses import dataclass, field, replace

import numpy as np

from batchwright.batches import Arrays
from batchwright.errors import BudgetError
from batchwright.layout import Layout
from batchwright.order import Pools
from batchwright.typing import IntArray, LengthArray, Oversize

_MOST_PIECES = 2**32
"""More fit into no memory."""


@dataclass(frozen=True, eq=False)
class Items:
    """The things that are planned: samples, or pieces of them, none above the budget."""

    lengths: LengthArray  # integer[k] or [k, c], length of each item
    # int64[d], samples left out because they exceed the budget, or are empty.
    dropped: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    # What longer samples are cut to; of several columns, each. None: none is cut.
    max_length: int | tuple[int, ...] | None = None
    # int64[n + 1], the items of sample `i` are ``first[i]`` to ``first[i + 1] - 1``. None:
    # every sample is one item, itself.
    first: IntArray | None = None

    def of(self, pools: Pools) -> Pools:
        """Turn pools of samples into pools of items. Without a cut, they are the same."""
        if self.dropped.size:
            keep = ~np.isin(pools.members, self.dropped)
            kept = pools.members[keep]
            pools = replace(pools, members=kept, offsets=_shrunk(pools.offsets, keep))
        return pools if self.first is None else self._pieces(pools, self.first)

    def all(self) -> IntArray:
        """Return every item that may be planned, int64[k]."""
        everything = np.arange(len(self.lengths))
        if not self.dropped.size:
            return everything
        return everything[~np.isin(self.samples(everything)[0], self.dropped)]

    def samples(self, items: IntArray) -> tuple[IntArray, IntArray | None]:
        """Return the sample of each item and where in it the item begins, int64[m] each."""
        if self.first is None or not isinstance(self.max_length, int):
            return items, None
        samples = np.searchsorted(self.first, items, side="right") - 1
        return samples, (items - self.first[samples]) * self.max_length

    def batches(self, items: IntArray, offsets: IntArray) -> Arrays:
        """Return batches of samples in place of items."""
        samples, starts = self.samples(items)
        return Arrays(samples, offsets, starts)

    def lengths_of(self, items: IntArray) -> LengthArray:
        """Return the lengths of the entries of batches, integer[m] or [m, c]."""
        found: LengthArray = self.lengths[items]
        return found

    def _pieces(self, pools: Pools, first: IntArray) -> Pools:
        pieces = (first[1:] - first[:-1])[pools.members]
        ends = np.concatenate(([0], np.cumsum(pieces)))
        members = np.repeat(first[pools.members] - ends[:-1], pieces) + np.arange(ends[-1])
        offsets = None if pools.offsets is None else ends[pools.offsets]
        return replace(pools, members=members, offsets=offsets)


def fit_items(lengths: LengthArray, layout: Layout, oversize: Oversize) -> Items:
    """Apply the policy for samples that alone exceed the budget.

    Samples of several columns can be truncated only where each column has its own limit.

    Returns:
        Items, none of which exceeds the budget. Nothing is copied where no sample does.

    Example:
        >>> from batchwright.layout import Packed
        >>> items = fit_items(np.array([3, 25]), Packed(10), "split")
        >>> items.lengths.tolist(), items.first.tolist()
        ([3, 10, 10, 5], [0, 1, 4])
    """
    if lengths.ndim == 2:
        check_columns(layout, lengths.shape[1])
    fits = layout.fits(lengths)
    if fits.all():
        return Items(lengths)
    limit = layout.longest_row if lengths.ndim == 1 else layout.longest_columns
    if oversize == "drop" and fits.any():
        return Items(lengths, dropped=np.flatnonzero(~fits))
    if oversize == "truncate" and limit is not None:
        return Items(np.minimum(lengths, limit), max_length=limit)
    if oversize == "split" and isinstance(limit, int):
        return _split(lengths, limit)
    index = int(np.argmax(lengths) if lengths.ndim == 1 else np.argmin(fits))
    padded = layout.rounded(lengths[[index]].astype(np.int64))
    ways = ["drop"] if limit is None else ["drop", "truncate"]
    if layout.kind == "packed" and lengths.ndim == 1:
        ways.append("split")
    others = " or ".join(repr(way) for way in ways if way != oversize)
    advice = f"Raise it, or choose oversize={others}." if others else "Raise it."
    raise BudgetError(
        f"{named_limit(layout)} is too small for {np.count_nonzero(~fits)} of {len(lengths)} "
        f"samples (index {index}: {padded[0].tolist()} tokens as laid out). {advice}"
    )


def named_limit(layout: Layout) -> str:
    """Return the setting that limits how long samples are, with its value."""
    if layout.shapes is None:
        return f"{layout.setting}={layout.limits!r:.80}"
    return f"edges={[length for _, length in layout.shapes]!r:.80}"


def _split(lengths: LengthArray, limit: int) -> Items:
    whole = lengths.astype(np.int64)
    pieces = -(-whole // limit)
    if pieces.sum(dtype=np.float64) > _MOST_PIECES:
        index = int(np.argmax(lengths))
        raise BudgetError(
            f"capacity={limit} would split the samples into {pieces.sum(dtype=float):.3g} pieces "
            f"(index {index} has {int(lengths[index])} tokens). Raise it, or choose "
            'oversize="drop" or "truncate".'
        )
    first = np.concatenate(([0], np.cumsum(pieces)))
    split = np.full(int(first[-1]), limit)
    split[first[1:] - 1] = whole - (pieces - 1) * limit
    return Items(split, max_length=limit, first=first)


def check_columns(layout: Layout, num_columns: int) -> None:
    """Raise unless samples of that many columns can be held against the budget."""
    if layout.caps is not None and len(layout.caps) != num_columns:
        raise BudgetError(
            f"{layout.setting}={layout.caps} for lengths of {num_columns} columns: expected one "
            "budget, or one for each column."
        )


def _shrunk(offsets: IntArray | None, keep: np.ndarray) -> IntArray | None:
    if offsets is None:
        return None
    kept: IntArray = np.concatenate(([0], np.cumsum(keep)))[offsets]
    return np.unique(kept)  # a pool that lost all its samples is gone
