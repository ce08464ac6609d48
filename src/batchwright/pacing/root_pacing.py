"""Competence that grows as a root: every new sample gets equal attention."""

from dataclasses import KW_ONLY, dataclass

import numpy as np
import numpy.typing as npt

from batchwright.pacing.progress import grown, part_done
from batchwright.pacing.settings import check_at_least, check_reach, check_share
from batchwright.typing import FloatArray


@dataclass(frozen=True)
class root:  # noqa: N801
    """Make samples eligible as the p-th root of progress: fast first, then ever more slowly.

    c(u) = (start^p + (1 − start^p)·u/reach)^(1/p), and 1 from `reach` on. New samples come at a
    rate proportional to 1 ÷ c^(p−1): with p = 2 half as fast where twice as many are eligible,
    and each is drawn half as often. With p = 1 it is `linear`. Another curve than the root of
    Wu et al., which is `polynomial(p=0.5)`.

    Args:
        p: The degree of the root, at least 0.01. As it goes to 0, this becomes `geometric`.
        start: The share that is eligible first.
        reach: The share of the horizon after which all is eligible. Above 1, the run ends before.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> import batchwright.pacing
        >>> batchwright.pacing.root(p=2, start=0.6)([0, 0.5, 1])
        array([0.6       , 0.82462113, 1.        ])

    Source:
        Platanios, Stretcu, Neubig, Poczos, Mitchell, "Competence-based Curriculum Learning for
        Neural Machine Translation", 2019, arXiv:1903.09848.
    """

    p: float = 2
    _: KW_ONLY
    start: float = 0.01
    reach: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        check_at_least(0.01, self, "p")
        check_share(self, "start")
        check_reach(self, "reach")

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share that is eligible at each progress, float64[m]."""
        done = part_done(progress, self.reach)
        first = self.start**self.p
        # A NumPy number ** another is rounded otherwise than an array of one; `power` is not.
        share = np.power(first + (1 - first) * done, 1 / self.p)
        return grown(share, self.start, done)
