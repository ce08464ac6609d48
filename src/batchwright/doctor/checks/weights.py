"""The weight of a target in the gradient of an update, for each of its batches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from batchwright.doctor.records import Backward, Rank, Run, Update
from batchwright.typing import FloatArray

SEVERAL = 3
"""Nothing is said of fewer updates."""

_PART = 0.7
"""If several losses are added, a factor from here up to 1 is not taken for a division."""


@dataclass(frozen=True, eq=False)
class Weighed:
    """An update, with the weight of each of its batches, over all ranks that were seen."""

    shares: FloatArray  # float64[batches]: of all targets of a batch; 1 in all for a mean
    counts: FloatArray  # float64[batches]: targets in it. NaN: unknown
    accumulate: int  # batches on a rank
    is_sum: bool  # whether the loss is a sum, which the script divides by itself
    errors: tuple[float, ...] = ()  # of the gradient, where it was measured
    is_part: bool = False  # whether other losses were added; their factors are left out then
    is_plain: bool = True  # whether such a factor may not be a division

    @property
    def is_counted(self) -> bool:
        """Whether the targets of all batches are known."""
        return bool(np.isfinite(self.counts).all())

    @property
    def total(self) -> float:
        """The weight of all targets of the update together: 1 in a mean over them."""
        return float(self.shares.sum())

    @property
    def ratio(self) -> float:
        """The weight of a target in one batch over that in another; 1: all are the same."""
        weights = self.shares / self.counts
        return float(weights.max() / weights.min())

    @property
    def misplaced(self) -> float:
        """The share of the weight that is on other targets than in the mean over all."""
        due = self.counts / self.counts.sum()
        return float(np.abs(self.shares / self.total - due).sum() / 2)


def weighed(run: Run) -> list[Weighed]:
    """Return the updates whose batches can be compared.

    Left out are updates with another number of batches than most, as at the end of an epoch; with
    a batch that has fewer rows than the others; and those in which a batch is not one call of
    `backward`, as when several losses train one model.

    Args:
        run: What was seen.

    Returns:
        Them, in sequence; all have the same `accumulate`.

    Example:
        >>> from batchwright.doctor.records import Batch, Rank
        >>> batches = tuple(Batch(None, rows=2, width=8) for _ in range(2))
        >>> means = tuple(Backward(1.5, "mean", factor=0.5, counted=n) for n in (4, 12))
        >>> run = Run((Rank(0, 1, loaders=(), updates=(Update(batches, means),)),))
        >>> [(each.ratio, each.total, each.misplaced) for each in weighed(run)]
        [(3.0, 1.0, 0.25)]
    """
    ranks = [rank for rank in run.ranks if rank.updates]
    if not ranks or any(_is_interleaved(rank) for rank in ranks):
        return []
    usual = usual_backwards(ranks[0])
    rows = _usual_rows(ranks)
    found = (
        _weigh(updates, usual)
        for updates in zip(*(rank.updates for rank in ranks), strict=False)
        if all(_is_whole(update, usual, rows) for update in updates)
    )
    return [each for each in found if each is not None]


def usual_backwards(rank: Rank) -> int:
    """Return how many calls of `backward` most updates of a rank have.

    Example:
        >>> from batchwright.doctor.records import Rank
        >>> once, twice = Update((), (Backward(),)), Update((), (Backward(),) * 2)
        >>> usual_backwards(Rank(0, 1, loaders=(), updates=(twice, once, twice)))
        2
    """
    counts = Counter(len(update.backwards) for update in rank.updates)
    return counts.most_common(1)[0][0] if counts else 0


def _is_interleaved(rank: Rank) -> bool:
    """Return whether batches of several loaders alternate in training, maybe with other losses."""
    times = [[each.time for each in loader.batches] for loader in rank.loaders if loader.trains]
    spans = sorted((min(each), max(each)) for each in times if each)
    return any(after[0] < before[1] for before, after in pairwise(spans))


def _usual_rows(ranks: Sequence[Rank]) -> int:
    """Return the rows of a batch if all but a last one have the same number; else 0."""
    loaders = [rank.trained for rank in ranks]
    rows = [each.rows for loader in loaders if loader is not None for each in loader.batches]
    largest = max(rows, default=0)
    return largest if 2 * rows.count(largest) >= len(rows) else 0


def _is_whole(update: Update, backwards: int, rows: int) -> bool:
    """Return whether an update is like most: it has as many batches, and none is short."""
    is_like_most = len(update.batches) == len(update.backwards) == backwards > 0
    return is_like_most and all(batch.rows >= rows for batch in update.batches)


def _weigh(updates: Sequence[Update], accumulate: int) -> Weighed | None:
    """Return the weights in one update of all ranks; None where one is not known."""
    backwards = [each for update in updates for each in update.backwards]
    kinds = {each.reduction for each in backwards}
    known = [each for each in map(_share, backwards) if each is not None]
    if len(known) < len(backwards):
        known = _means_over_tokens(updates)
    if not known or len(kinds) > 1:
        return None
    shares, counts = np.array(known, np.float64).T
    parts = [each.part for each in backwards if each.part is not None]
    is_plain = all(_PART <= each <= 1 for each in parts)
    if parts and is_plain:
        shares = shares / np.array([each.part or 1.0 for each in backwards])
    return Weighed(
        shares=shares / len(updates),  # gradients are averaged over ranks
        counts=counts,
        accumulate=accumulate,
        is_sum="sum" in kinds,
        errors=tuple(_errors(updates)),
        is_part=bool(parts),
        is_plain=is_plain,
    )


def _share(backward: Backward) -> tuple[float, float] | None:
    """Return the weight of all targets of a batch together, and their number."""
    factor, counted = backward.factor, backward.counted
    if factor is None or not 0 < factor < math.inf or counted == 0:
        return None
    if backward.reduction == "mean":
        return factor, math.nan if counted is None else counted
    if backward.reduction == "sum" and counted is not None:
        return factor * counted, counted
    return None


def _means_over_tokens(updates: Sequence[Update]) -> list[tuple[float, float]]:
    """Return the same for sums that are divided by the tokens of their batch; none if they are not.

    The number of targets in such a sum is unknown, for example under a mask; but its divisor is
    known. If that is proportional to the tokens of each batch, or to all but one per row (as when
    the next token is predicted), these are the targets.
    """
    pairs = [
        pair
        for update in updates
        for pair in zip(update.batches, update.backwards, strict=True)
        if pair[0].lengths is not None and pair[1].reduction == "sum" and pair[1].factor is not None
    ]
    if len(pairs) < sum(len(update.backwards) for update in updates):
        return []
    factors = np.array([backward.factor for _, backward in pairs], np.float64)
    rows, tokens = np.array([(each.rows, each.tokens) for each, _ in pairs], np.float64).T
    counts = min((tokens, tokens - rows), key=lambda counts: _spread(factors * counts))
    if _spread(counts) < 1.01 or _spread(factors * counts) > 1.001:
        return []
    return list(zip((factors * counts).tolist(), counts.tolist(), strict=True))


def _spread(values: FloatArray) -> float:
    """Return the largest over the smallest; infinity if not all are positive."""
    return float(values.max() / values.min()) if (values > 0).all() else math.inf


def _errors(updates: Sequence[Update]) -> Iterator[float]:
    for update in updates:
        if update.gradient_error is not None and math.isfinite(update.gradient_error):
            yield update.gradient_error
