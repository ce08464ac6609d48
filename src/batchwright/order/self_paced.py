"""Samples that the model finds easy, by its own losses."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field

import numpy as np
import numpy.typing as npt

from batchwright.checks import keep_number, keep_whole
from batchwright.errors import PlanError
from batchwright.order.loss_table import LossTable
from batchwright.order.pools import Pools
from batchwright.order.scores import as_groups, refuse_other_data
from batchwright.order.strata import Strata
from batchwright.typing import IntArray, LengthArray


@dataclass(frozen=True, eq=False)
class SelfPaced:
    """Leave out the samples with the largest live losses: where labels are wrong, mostly those.

    The share that is kept falls from 1 to ``1 - noise_rate`` and stays there. Epochs stay as
    large as they are, in tokens: what is left is drawn in passes. A small reserve goes to those
    left out whose loss is the oldest, so that none is judged once and for all.

    A pure function of seed, epoch, and the table's cut for that epoch.

    Args:
        table: Where live losses are recorded.
        noise_rate: Share of wrong labels, between 0 and 1: estimate it, see
            `batchwright.difficulty.out_of_fold`. Half the true rate costs most of the gain.
        warm_up: Epochs of everything before: a model that knows nothing cannot judge.
        epochs: Epochs after the warm-up over which the share falls.
        reserve: Share of an epoch that goes to those left out.
        groups: [n], leave out within each group (class) instead of over all: a hard class is not
            thrown away as a whole.

    Raises:
        PlanError: If a setting makes no sense.
        ScoresError: If groups are not one for each sample.

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

    probes = (0,)  # a cut of later epochs would be one of losses that are not there yet
    varies = True

    def __post_init__(self) -> None:
        """Check the settings."""
        if not isinstance(self.table, LossTable):
            raise PlanError(f"SelfPaced(table={self.table!r:.60}): expected a LossTable.")
        for name in ("noise_rate", "reserve"):
            keep_number(
                self,
                name,
                lambda share: 0 <= share < 1,
                "a share of 0 or more, below 1",
                error=PlanError,
            )
        keep_whole(self, "warm_up", error=PlanError)
        keep_number(self, "epochs", lambda epochs: epochs > 0, "a positive number", error=PlanError)
        if self.groups is not None:
            groups = as_groups(self.groups, name="groups")
            refuse_other_data(groups.size, self.table.losses.size, name="groups")
            object.__setattr__(self, "groups", groups)

    def __call__(self, lengths: LengthArray, *, seed: int, epoch: int) -> Pools:
        """Return the samples of an epoch. O(n log n)."""
        refuse_other_data(self.table.losses.size, lengths.size, name="the loss table")
        if epoch < self.warm_up:
            return Pools(np.arange(lengths.size), np.array([0, lengths.size]))
        kept, left_out = self.split(epoch)
        tokens = float(lengths.sum(dtype=np.float64))
        again = left_out[: round(self.reserve * lengths.size)]
        strata = Strata(np.concatenate((kept, again)), np.cumsum([0, kept.size, again.size]))
        left = tokens - float(lengths[again].sum(dtype=np.float64))
        draws = max(1, round(left / strata.mean_lengths(lengths)[0]))
        return strata.draw(np.array([[draws, again.size]]), seed=seed, epoch=epoch)

    def split(self, epoch: int) -> tuple[IntArray, IntArray]:
        """Return the samples kept in an epoch, and those left out, the oldest losses first."""
        cut = self.table.cut(epoch)
        if self.groups is None:
            groups = np.zeros(cut.losses.size, dtype=np.int64)
        else:
            groups = np.unique(np.asarray(self.groups), return_inverse=True)[1].ravel()
        # A share that falls linearly: `batchwright.pacing.keep_rate`.
        share = 1 - self.noise_rate * min(1.0, (epoch - self.warm_up + 1) / self.epochs)
        # Samples never seen come first: they are kept.
        losses = np.where(np.isnan(cut.losses), -np.inf, cut.losses)
        order = np.lexsort((losses, groups))
        sizes = np.bincount(groups)
        place = np.arange(order.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        most = np.maximum(np.round(np.round(share * sizes, 6)), 1)
        is_kept = place < np.repeat(most, sizes)
        kept, left_out = np.sort(order[is_kept]), np.sort(order[~is_kept])
        return kept, left_out[np.argsort(cut.recorded[left_out], kind="stable")]
