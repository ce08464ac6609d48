"""Samples that are learnt already come less often, and count for more when they come."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np

from batchwright.checks import keep_number, keep_whole
from batchwright.errors import PlanError
from batchwright.order.loss_table import LossTable
from batchwright.order.pools import Pools
from batchwright.order.scores import refuse_other_data
from batchwright.order.strata import Strata
from batchwright.typing import FloatArray, IntArray, LengthArray


@dataclass(frozen=True, eq=False)
class UnbiasedDropping:
    """Draw samples with a loss below the mean less often, without changing the mean gradient.

    Of those, a share of `drop` is left out of each pass, and the rest counts 1 ÷ (1 − drop)
    times: multiply losses by `loss_weights`. Epochs stay as large as they are, so that an epoch
    passes over the data more than once. The last epochs are plain shuffles.

    Args:
        table: Where live losses are recorded.
        drop: Share that is left out of each pass, of samples with a loss below the mean.
        until: The first epoch that is a plain shuffle again: 85 % of the run is a common choice.
        warm_up: Epochs of everything before.

    Raises:
        PlanError: If a setting makes no sense.

    Example:
        >>> table = LossTable(4)
        >>> order = UnbiasedDropping(table, drop=0.5, until=9)
        >>> table.record([0, 1, 2, 3], [1.0, 1.0, 5.0, 5.0])
        >>> order.loss_weights(1).round(3).tolist()
        [1.5, 1.5, 0.75, 0.75]

    Source: Z. Qin et al., *InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data
    Pruning*, 2024, arXiv:2303.04947.
    """

    table: LossTable
    _: KW_ONLY
    drop: float = 0.5
    until: int
    warm_up: int = 1

    probes = (0,)  # a cut of later epochs would be one of losses that are not there yet
    varies = True

    def __post_init__(self) -> None:
        """Check the settings."""
        if not isinstance(self.table, LossTable):
            raise PlanError(f"UnbiasedDropping(table={self.table!r:.60}): expected a LossTable.")
        keep_number(
            self,
            "drop",
            lambda share: 0 < share < 1,
            "a share between 0 and 1",
            error=PlanError,
        )
        keep_whole(self, "warm_up", "until", error=PlanError)
        if self.until < self.warm_up:
            raise PlanError(
                f"UnbiasedDropping(drop={self.drop}, warm_up={self.warm_up}, until={self.until}): "
                "expected a share between 0 and 1, at least 1 epoch, and no earlier end than that."
            )

    def __call__(self, lengths: LengthArray, *, seed: int, epoch: int) -> Pools:
        """Return the samples of an epoch. O(n)."""
        refuse_other_data(self.table.losses.size, lengths.size, name="the loss table")
        if not self.warm_up <= epoch < self.until:
            return Pools(np.arange(lengths.size), np.array([0, lengths.size]))
        low, high = self.split(epoch)
        strata = Strata(np.concatenate((low, high)), np.array([0, low.size, lengths.size]))
        shares = np.array([low.size * (1 - self.drop), high.size])
        means = strata.mean_lengths(lengths)
        passes = float(lengths.sum(dtype=np.float64)) / float((shares * means).sum())
        counts = np.round(shares * passes).astype(np.int64)
        return strata.draw(counts[None], seed=seed, epoch=epoch)

    def split(self, epoch: int) -> tuple[IntArray, IntArray]:
        """Return the samples with a loss below the mean, and all others, unseen ones included."""
        losses = self.table.cut(epoch).losses
        if np.isnan(losses).all():
            return np.empty(0, dtype=np.int64), np.arange(losses.size)
        low = losses < np.nanmean(losses.astype(np.float64))  # a NaN is not below anything
        return np.flatnonzero(low), np.flatnonzero(~low)

    def loss_weights(self, epoch: int) -> FloatArray:
        """Return what each sample's loss is to be multiplied by in an epoch, float64[n].

        Their mean over the draws of the epoch is 1, and each sample counts, in the mean, as much
        as any other.
        """
        weights = np.ones(self.table.losses.size)
        if not self.warm_up <= epoch < self.until:
            return weights
        low, high = self.split(epoch)
        weights[low] = 1 / (1 - self.drop)
        drawn = low.size * (1 - self.drop) + high.size
        return weights * (drawn / weights.size)
