"""A share that grows as a power of progress."""

from dataclasses import KW_ONLY, dataclass

import numpy.typing as npt

from batchwright.pacing.progress import grown, part_done
from batchwright.pacing.settings import check_above, check_reach, check_share
from batchwright.typing import FloatArray


@dataclass(frozen=True)
class polynomial:  # noqa: N801
    """Make samples eligible as the p-th power of progress.

    g(u) = start + (1 − start)·(u/reach)^p, and 1 from `reach` on. p = 0.5 is the root of the
    source, 1 its linear, 2 its quadratic pacing.

    Args:
        p: The power, above 0. Below 1 is fast first, above 1 is slow first.
        start: The share that is eligible first.
        reach: The share of the horizon after which all is eligible. Above 1, the run ends before.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> import batchwright.pacing
        >>> batchwright.pacing.polynomial(p=2, start=0.2, reach=0.8)([0, 0.4, 0.8])
        array([0.2, 0.4, 1. ])

    Source:
        Wu, Dyer, Neyshabur, "When Do Curricula Work?", 2021, arXiv:2012.03107.
    """

    p: float
    _: KW_ONLY
    start: float = 0.1
    reach: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        check_above(0, self, "p")
        check_share(self, "start")
        check_reach(self, "reach")

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share that is eligible at each progress, float64[m]."""
        done = part_done(progress, self.reach)
        return grown(self.start + (1 - self.start) * done**self.p, self.start, done)
