"""The share of a batch with the smallest losses that is kept."""

from dataclasses import KW_ONLY, dataclass

import numpy as np
import numpy.typing as npt

from batchwright.pacing.progress import part_done
from batchwright.pacing.settings import check_rate, check_reach
from batchwright.typing import FloatArray


@dataclass(frozen=True)
class keep_rate:  # noqa: N801
    """Keep ever fewer of the largest losses, down to the share that is not noise.

    R(u) = 1 − noise_rate·min(1, u/reach). A model learns what is right before it learns what is
    wrong by heart, so everything is kept at first; from `reach` on as much is left out as there
    is noise. The share may be of the samples or, as in the source, of each batch.

    Args:
        noise_rate: The share of wrong labels, at least 0 and below 1. Estimate it: results depend
            on it.
        reach: The share of the horizon after which the rate is constant. The source takes 10 of 200
            epochs.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> import batchwright.pacing
        >>> batchwright.pacing.keep_rate(0.4, reach=0.1)([0, 0.05, 0.1, 1])
        array([1. , 0.8, 0.6, 0.6])

    Source:
        Han, Yao, Yu, Niu, Xu, Hu, Tsang, Sugiyama, "Co-teaching: Robust training of deep neural
        networks with extremely noisy labels", 2018, arXiv:1804.06872.
    """

    noise_rate: float
    _: KW_ONLY
    reach: float = 0.05

    def __post_init__(self) -> None:
        """Check the settings."""
        check_rate(self, "noise_rate")
        check_reach(self, "reach")

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share that is eligible at each progress, float64[m]."""
        return np.asarray(1 - self.noise_rate * part_done(progress, self.reach))
