"""A share that waits, then is all: by what is done of the way."""

from dataclasses import KW_ONLY, dataclass

import numpy as np
import numpy.typing as npt

from batchwright.pacing.progress import grown, part_done
from batchwright.pacing.settings import check_reach, check_share
from batchwright.typing import FloatArray


@dataclass(frozen=True)
class step:  # noqa: N801
    """Make all samples eligible at `reach`, and only the first share until then.

    g(u) = min(1, start + ⌊u/reach⌋). The same values as `single_step`, by the formula of the
    source's code.

    Args:
        start: The share that is eligible first.
        reach: The share of the horizon after which all is eligible. Above 1, the run ends before.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> import batchwright.pacing
        >>> batchwright.pacing.step(start=0.2, reach=0.5)([0, 0.49, 0.5, 1])
        array([0.2, 0.2, 1. , 1. ])

    Source:
        Wu, Dyer, Neyshabur, "When Do Curricula Work?", 2021, arXiv:2012.03107.
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
        done = part_done(progress, self.reach)
        return grown(self.start + np.floor(done), self.start, done)
