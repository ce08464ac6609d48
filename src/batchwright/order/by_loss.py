"""Orders that choose samples by their live losses: what is probably mislabelled, or learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace

import numpy as np
import numpy.typing as npt

from batchwright._checks import keep_number, keep_whole
from batchwright._random import generator, shuffled
from batchwright.errors import PlanError
from batchwright.order.loss_table import LossTable
from batchwright.order.pools import Pools
from batchwright.order.scores import as_groups, keep_positive, refuse_other_data
from batchwright.typing import FloatArray, IntArray, LengthArray


@dataclass(frozen=True, eq=False)
class SelfPaced:
    """Leave out the samples with the largest live losses: with noisy labels, mostly wrong ones.

    The share that is kept falls from 1 to ``1 - noise_rate`` and stays there. Epochs keep their
    size in tokens: what is left is drawn in passes. A small reserve goes to the samples left out
    whose losses are the oldest, so that they are judged again.

    Args:
        table: Where live losses are recorded.
        noise_rate: Share of wrong labels, between 0 and 1: estimate it, see
            `batchwright.advise.profile_labels`. Half the true rate loses most of the gain.
        warm_up: Epochs of all samples first, for losses that mean something.
        epochs: Epochs after the warm-up over which the share falls.
        reserve: Share of an epoch that goes to those left out.
        groups: [n], leave out within each group (class) instead of over all, so that a hard class
            is not left out as a whole.

    Raises:
        LengthsError: If groups are not one for each sample.

    Example:
        >>> table = LossTable(4)
        >>> order = SelfPaced(table, noise_rate=0.25, warm_up=1, epochs=1, reserve=0)
        >>> table.record([0, 1, 2, 3], [0.1, 9.0, 0.2, 0.3])
        >>> sorted(set(order(np.array([5, 5, 5, 5]), seed=0, epoch=1).members.tolist()))
        [0, 2, 3]

    Source: M. P. Kumar et al., *Self-Paced Learning for Latent Variable Models*, 2010; keep rate:
    B. Han et al., *Co-teaching*, 2018, arXiv:1804.06872.
    """

    table: LossTable
    _: KW_ONLY
    noise_rate: float
    warm_up: int = 1
    epochs: float = 5.0
    reserve: float = 0.05
    groups: npt.ArrayLike | None = field(default=None, repr=False)

    probes = (0,)  # the losses of later epochs are not there yet
    varies = True

    def __post_init__(self) -> None:
        _check_table(self, self.table)
        is_share = "a share of 0 or more, below 1"
        for name in ("noise_rate", "reserve"):
            keep_number(self, name, lambda share: 0 <= share < 1, is_share, error=PlanError)
        keep_whole(self, "warm_up", error=PlanError)
        keep_positive(self, "epochs")
        if self.groups is not None:
            groups = as_groups(self.groups, name="groups")
            refuse_other_data(groups.size, self.table.losses.size, name="groups")
            object.__setattr__(self, "groups", groups)

    def __call__(self, lengths: LengthArray, *, seed: int, epoch: int) -> Pools:
        """Return the samples of an epoch. O(n log n)."""
        refuse_other_data(self.table.losses.size, lengths.size, name="the loss table")
        if epoch < self.warm_up:
            return Pools.one(np.arange(lengths.size))
        kept, left_out = self.split(epoch)
        again = left_out[: round(self.reserve * lengths.size)]
        left = lengths.sum(dtype=np.float64) - lengths[again].sum(dtype=np.float64)
        draws = max(1, round(left / lengths[kept].mean(dtype=np.float64)))
        return _drawn((kept, again), (draws, again.size), seed, epoch)

    def split(self, epoch: int) -> tuple[IntArray, IntArray]:
        """Return the samples kept in an epoch, and those left out, the oldest losses first."""
        cut = self.table.cut(epoch)
        groups = np.zeros(cut.losses.size, dtype=np.int64)
        if self.groups is not None:
            groups = np.unique(np.asarray(self.groups), return_inverse=True)[1]
        share = 1 - self.noise_rate * min(1.0, (epoch - self.warm_up + 1) / self.epochs)
        # Samples never seen come first: they are kept.
        losses = np.where(np.isnan(cut.losses), -np.inf, cut.losses)
        order = np.lexsort((losses, groups))
        sizes = np.bincount(groups)
        place = np.arange(order.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        most = np.maximum(np.round(np.round(share * sizes, 6)), 1)
        is_kept = place < np.repeat(most, sizes)
        left_out = np.sort(order[~is_kept])
        oldest_first = np.argsort(cut.recorded[left_out], kind="stable")
        return np.sort(order[is_kept]), left_out[oldest_first]


@dataclass(frozen=True, eq=False)
class UnbiasedDropping:
    """Draw samples with a loss below the mean less often, without changing the mean gradient.

    Of those, a share of `drop` is left out of each pass, and the rest counts 1 ÷ (1 − drop)
    times: multiply losses by `loss_weights`. Epochs keep their size, so an epoch passes over the
    data more than once. The last epochs are plain shuffles.

    Args:
        table: Where live losses are recorded.
        drop: Share of the samples with a loss below the mean that is left out of each pass.
        until: The first epoch that is a plain shuffle again: 85 % of the run is a common choice.
        warm_up: Epochs of all samples first.

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

    probes = (0,)  # the losses of later epochs are not there yet
    varies = True

    def __post_init__(self) -> None:
        _check_table(self, self.table)
        between = "a share between 0 and 1"
        keep_number(self, "drop", lambda share: 0 < share < 1, between, error=PlanError)
        keep_whole(self, "warm_up", "until", error=PlanError)
        if self.until < self.warm_up:
            raise PlanError(
                f"UnbiasedDropping(warm_up={self.warm_up}, until={self.until}): expected until to "
                "be at least warm_up."
            )

    def __call__(self, lengths: LengthArray, *, seed: int, epoch: int) -> Pools:
        """Return the samples of an epoch. O(n)."""
        refuse_other_data(self.table.losses.size, lengths.size, name="the loss table")
        if not self.warm_up <= epoch < self.until:
            return Pools.one(np.arange(lengths.size))
        low, high = self.split(epoch)
        shares = np.array([1 - self.drop, 1.0])
        tokens = np.array([lengths[part].sum(dtype=np.float64) for part in (low, high)])
        passes = float(tokens.sum()) / float((shares * tokens).sum())
        draws = np.round(shares * [low.size, high.size] * passes).astype(np.int64)
        return _drawn((low, high), draws.tolist(), seed, epoch)

    def split(self, epoch: int) -> tuple[IntArray, IntArray]:
        """Return the samples with a loss below the mean, and all others, unseen ones included."""
        losses = self.table.cut(epoch).losses
        if np.isnan(losses).all():
            return np.empty(0, dtype=np.int64), np.arange(losses.size)
        low = losses < np.nanmean(losses.astype(np.float64))  # False for NaN
        return np.flatnonzero(low), np.flatnonzero(~low)

    def loss_weights(self, epoch: int) -> FloatArray:
        """Return the factor of each sample's loss in an epoch, float64[n].

        Their mean over the draws of the epoch is 1, and each sample counts as much as any other
        in expectation.
        """
        weights = np.ones(self.table.losses.size)
        if not self.warm_up <= epoch < self.until:
            return weights
        low, high = self.split(epoch)
        weights[low] = 1 / (1 - self.drop)
        drawn = low.size * (1 - self.drop) + high.size
        return weights * (drawn / weights.size)


def _check_table(order: object, table: object) -> None:
    if not isinstance(table, LossTable):
        owner = type(order).__name__
        raise PlanError(f"{owner}(table={table!r:.60}): expected a LossTable.")


def _drawn(strata: tuple[IntArray, ...], draws: Sequence[int], seed: int, epoch: int) -> Pools:
    """Draw from strata in passes: no member twice before every other was drawn once."""
    parts = [
        np.resize(shuffled(members, generator(seed, "passes", epoch, number)), many)
        for number, (members, many) in enumerate(zip(strata, draws, strict=True))
    ]
    eligible = sum(members.size for members, many in zip(strata, draws, strict=True) if many)
    pools = Pools.one(np.concatenate(parts))
    return replace(pools, eligible=eligible, may_defer=True)
