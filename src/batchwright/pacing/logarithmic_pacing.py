"""A share that grows logarithmically."""

from dataclasses import KW_ONLY, dataclass

import numpy as np
import numpy.typing as npt

from batchwright.pacing.progress import grown, part_done
from batchwright.pacing.settings import check_reach, check_share
from batchwright.typing import FloatArray


@dataclass(frozen=True)
class logarithmic:  # noqa: N801
    """Make samples eligible logarithmically: most of them at once, the rest slowly.

    g(u) = start + (1 − start)·(1 + ln(u/reach + e^−10)/10), and 1 from `reach` on.

    Args:
        start: The share that is eligible first.
        reach: The share of the horizon after which all is eligible. Above 1, the run ends before.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> import batchwright.pacing
        >>> batchwright.pacing.logarithmic(start=0.2)([0, 0.1, 1])
        array([0.2       , 0.8158..., 1.        ])

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
        risen = 1 + np.log(done + np.exp(-10)) / 10
        return grown(self.start + (1 - self.start) * risen, self.start, done)
