"""A share that grows by the same factor in equal times."""

from dataclasses import KW_ONLY, dataclass

import numpy.typing as npt

from batchwright.pacing.progress import grown, part_done, powers
from batchwright.pacing.settings import check_reach, check_share
from batchwright.typing import FloatArray


@dataclass(frozen=True)
class geometric:  # noqa: N801
    """Make samples eligible geometrically: the share grows by the same factor in equal times.

    g(u) = start^(1 − u/reach), and 1 from `reach` on.

    Args:
        start: The share that is eligible first.
        reach: The share of the horizon after which all is eligible. Above 1, the run ends before.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> import batchwright.pacing
        >>> batchwright.pacing.geometric(start=0.01)([0, 0.5, 1])
        array([0.01, 0.1 , 1.  ])

    Source:
        Zhou et al., "CurML: A Curriculum Machine Learning Library", 2022 (its `geom`).
    """

    _: KW_ONLY
    start: float = 0.01
    reach: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        check_share(self, "start")
        check_reach(self, "reach")

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share that is eligible at each progress, float64[m]."""
        done = part_done(progress, self.reach)
        return grown(powers(self.start, 1 - done), self.start, done)
