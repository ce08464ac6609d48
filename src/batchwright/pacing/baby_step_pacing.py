"""Bins of difficulty, one more at a time."""

from dataclasses import KW_ONLY, dataclass

import numpy as np
import numpy.typing as npt

from batchwright.pacing.progress import part_done, whole_steps
from batchwright.pacing.settings import check_count, check_reach
from batchwright.typing import FloatArray


@dataclass(frozen=True)
class baby_step:  # noqa: N801
    """Add one bin of samples at a time, easiest first, and keep those before.

    g(u) = min(1, (⌊u·bins/reach⌋ + 1) ÷ bins). Each bin, the last too, is the newest for an equal
    part of the way to `reach`, so that all is eligible one such part before it.

    Args:
        bins: How many bins of equal size the samples are cut into.
        reach: The share of the horizon that the bins divide.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> import batchwright.pacing
        >>> batchwright.pacing.baby_step(bins=4)([0, 0.24, 0.25, 0.5, 0.75, 1])
        array([0.25, 0.25, 0.5 , 0.75, 1.  , 1.  ])

    Source:
        Bengio, Louradour, Collobert, Weston, "Curriculum Learning", 2009; Spitkovsky, Alshawi,
        Jurafsky, "From Baby Steps to Leapfrog", 2010.
    """

    bins: int = 5
    _: KW_ONLY
    reach: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        check_count(self, "bins")
        check_reach(self, "reach")

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share that is eligible at each progress, float64[m]."""
        added = whole_steps(part_done(progress, self.reach) * self.bins, 1)
        return np.asarray(np.minimum(added + 1, self.bins) / self.bins)
