"""The same share throughout."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchwright.pacing.progress import as_progress
from batchwright.pacing.settings import check_share
from batchwright.typing import FloatArray


@dataclass(frozen=True)
class constant:  # noqa: N801
    """Keep the same share eligible from start to end.

    g(u) = share. With 1, the default, every sample is eligible from the start: the control that
    any curriculum is measured against. Below 1 the hardest samples are left out for good.

    Args:
        share: The share that is eligible.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> import batchwright.pacing
        >>> batchwright.pacing.constant()([0, 0.5, 1])
        array([1., 1., 1.])
    """

    share: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        check_share(self, "share")

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share that is eligible at each progress, float64[m]."""
        return np.full_like(as_progress(progress), self.share)
