"""A share that grows exponentially."""

from dataclasses import KW_ONLY, dataclass

import numpy as np
import numpy.typing as npt

from batchwright.pacing.progress import grown, part_done
from batchwright.pacing.settings import check_reach, check_share
from batchwright.typing import FloatArray


@dataclass(frozen=True)
class exponential:  # noqa: N801
    """Make samples eligible exponentially: hardly any more until nearly `reach`, then all.

    g(u) = start + (1 − start)·(e^(10·u/reach) − 1)/(e^10 − 1), and 1 from `reach` on.

    Args:
        start: The share that is eligible first.
        reach: The share of the horizon after which all is eligible. Above 1, the run ends before.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> import batchwright.pacing
        >>> batchwright.pacing.exponential(start=0.2)([0, 0.5, 0.9, 1])
        array([0.2       , 0.20535428, 0.49428059, 1.        ])

    Source:
        Wu, Dyer, Neyshabur, "When Do Curricula Work?", 2021, arXiv:2012.03107.
    """

    _: KW_ONLY
    start: float = 0.1
    reach: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        check_share(self, "start")
        check_reach(self, "reach")

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share that is eligible at each progress, float64[m]."""
        done = part_done(progress, self.reach)
        risen = np.expm1(10 * done) / np.expm1(10)
        return grown(self.start + (1 - self.start) * risen, self.start, done)
