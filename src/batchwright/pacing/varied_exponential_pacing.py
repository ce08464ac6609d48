"""A share that is multiplied at moments of one's choice."""

from dataclasses import KW_ONLY, dataclass

import numpy as np
import numpy.typing as npt

from batchwright.pacing.progress import as_progress, at_most_all, powers
from batchwright.pacing.settings import check_above, check_moments, check_share
from batchwright.typing import FloatArray


@dataclass(frozen=True)
class varied_exponential:  # noqa: N801
    """Multiply the share by `increase` after each of some moments.

    g(u) = min(1, start·increase^k), where k is how many of the `steps` lie before u. Whether
    everything is ever eligible is up to the settings.

    Args:
        steps: Progress at which the share grows, rising; the moment itself still has the old one.
        start: The share that is eligible first.
        increase: The factor, above 1.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> import batchwright.pacing
        >>> pacing = batchwright.pacing.varied_exponential((0.1, 0.5), start=0.25, increase=2)
        >>> pacing([0.1, 0.2, 0.5, 0.6])
        array([0.25, 0.5 , 0.5 , 1.  ])

    Source:
        Hacohen, Weinshall, "On The Power of Curriculum Learning in Training Deep Networks", 2019,
        arXiv:1904.03626.
    """

    steps: tuple[float, ...]
    _: KW_ONLY
    start: float = 0.04
    increase: float = 1.9

    def __post_init__(self) -> None:
        """Check the settings."""
        check_moments(self, "steps")
        check_share(self, "start")
        check_above(1, self, "increase")

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share that is eligible at each progress, float64[m]."""
        passed = np.searchsorted(
            np.array(self.steps, np.float64), as_progress(progress), side="left"
        )
        return at_most_all(self.start * powers(self.increase, passed.astype(np.float64)))
