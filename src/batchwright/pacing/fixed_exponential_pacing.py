"""A share that is multiplied at even intervals."""

from dataclasses import KW_ONLY, dataclass

import numpy.typing as npt

from batchwright.pacing.progress import as_progress, at_most_all, powers, whole_steps
from batchwright.pacing.settings import check_above, check_reach, check_share
from batchwright.typing import FloatArray


@dataclass(frozen=True)
class fixed_exponential:  # noqa: N801
    """Multiply the share by `increase` after every `step_length`.

    g(u) = min(1, start·increase^⌊u/step_length⌋). Whether everything is ever eligible is up to
    the settings: the last share is that at u = 1.

    Args:
        start: The share that is eligible first.
        increase: The factor, above 1.
        step_length: The share of the horizon between two increases.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> import batchwright.pacing
        >>> pacing = batchwright.pacing.fixed_exponential(start=0.1, increase=2, step_length=0.2)
        >>> pacing([0, 0.2, 0.4, 0.6, 0.8])
        array([0.1, 0.2, 0.4, 0.8, 1. ])

    Source:
        Hacohen, Weinshall, "On The Power of Curriculum Learning in Training Deep Networks", 2019,
        arXiv:1904.03626.
    """

    _: KW_ONLY
    start: float = 0.04
    increase: float = 1.9
    step_length: float = 0.1

    def __post_init__(self) -> None:
        """Check the settings."""
        check_share(self, "start")
        check_above(1, self, "increase")
        check_reach(self, "step_length")

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share that is eligible at each progress, float64[m]."""
        steps = whole_steps(as_progress(progress), self.step_length)
        return at_most_all(self.start * powers(self.increase, steps))
