"""Two stages: the easy samples, then all."""

from dataclasses import KW_ONLY, dataclass

import numpy as np
import numpy.typing as npt

from batchwright.pacing.progress import as_progress
from batchwright.pacing.settings import check_reach, check_share
from batchwright.typing import FloatArray


@dataclass(frozen=True)
class single_step:  # noqa: N801
    """Train on the first share until `reach`, then on everything.

    g(u) = start^[u < reach]. The two stages of Bengio et al. (2009).

    Args:
        start: The share that is eligible first.
        reach: The share of the horizon after which all is eligible. Above 1, the run ends before.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> import batchwright.pacing
        >>> batchwright.pacing.single_step(start=0.2, reach=0.5)([0, 0.49, 0.5, 1])
        array([0.2, 0.2, 1. , 1. ])

    Source:
        Hacohen, Weinshall, "On The Power of Curriculum Learning in Training Deep Networks", 2019,
        arXiv:1904.03626.
    """

    _: KW_ONLY
    start: float = 0.1
    reach: float = 0.5

    def __post_init__(self) -> None:
        """Check the settings."""
        check_share(self, "start")
        check_reach(self, "reach")

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share that is eligible at each progress, float64[m]."""
        return np.where(as_progress(progress) < self.reach, float(self.start), 1.0)
