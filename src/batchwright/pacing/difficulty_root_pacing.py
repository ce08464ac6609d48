"""A percentile of difficulty that grows as a root, in round steps."""

from dataclasses import KW_ONLY, dataclass

import numpy as np
import numpy.typing as npt

from batchwright.pacing.progress import grown, part_done, whole_steps
from batchwright.pacing.settings import check_above, check_reach, check_share
from batchwright.typing import FloatArray


@dataclass(frozen=True)
class difficulty_root:  # noqa: N801
    """Let the percentile of difficulty grow as a root of progress, rounded down to steps.

    d(u) = start + (1 − start)·(u/reach)^(1/p), rounded down to a multiple of `step`, but never
    below `start`, and 1 from `reach` on. p = 1 is the source's `fixed_linear`. Difficulty is a
    share of the samples here; for lengths in tokens take `length_warm_up`.

    Args:
        p: The degree of the root, above 0.
        start: The share that is eligible first.
        step: The share that levels are multiples of; 0.01 is a percentile.
        reach: The share of the horizon after which all is eligible. Above 1, the run ends before.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> import batchwright.pacing
        >>> batchwright.pacing.difficulty_root(start=0.05, step=0.1)([0, 0.25, 0.5, 1])
        array([0.05, 0.5 , 0.7 , 1.  ])

    Source:
        Li, Yao, Wu, Zhang, Holmes, Li, He, "DeepSpeed Data Efficiency", 2022, arXiv:2212.03597
        (its `fixed_root`).
    """

    p: float = 2
    _: KW_ONLY
    start: float = 0.01
    step: float = 0.01
    reach: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        check_above(0, self, "p")
        check_share(self, "start", "step")
        check_reach(self, "reach")

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share that is eligible at each progress, float64[m]."""
        done = part_done(progress, self.reach)
        share = np.asarray(self.start + (1 - self.start) * done ** (1 / self.p))
        return grown(whole_steps(share, self.step) * self.step, self.start, done)
