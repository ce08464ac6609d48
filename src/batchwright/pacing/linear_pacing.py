"""A share that grows evenly."""

from dataclasses import KW_ONLY, dataclass

import numpy.typing as npt

from batchwright.pacing.progress import grown, part_done
from batchwright.pacing.settings import check_reach, check_share
from batchwright.typing import FloatArray


@dataclass(frozen=True)
class linear:  # noqa: N801
    """Make samples eligible evenly: as many in each part of the way to `reach`.

    c(u) = start + (1 − start)·u/reach, and 1 from `reach` on. The linear competence of Platanios
    et al., and the linear pacing of Wu et al.

    Args:
        start: The share that is eligible first.
        reach: The share of the horizon after which all is eligible. Above 1, the run ends before.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> import batchwright.pacing
        >>> batchwright.pacing.linear(start=0.2)([0, 0.5, 1])
        array([0.2, 0.6, 1. ])

    Source:
        Platanios, Stretcu, Neubig, Poczos, Mitchell, "Competence-based Curriculum Learning for
        Neural Machine Translation", 2019, arXiv:1903.09848.
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
        return grown(self.start + (1 - self.start) * done, self.start, done)
