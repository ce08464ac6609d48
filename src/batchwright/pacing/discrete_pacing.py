"""Shares listed one by one."""

from dataclasses import KW_ONLY, dataclass

import numpy as np
import numpy.typing as npt

from batchwright.errors import PlanError
from batchwright.pacing.progress import as_progress
from batchwright.pacing.settings import check_moments, check_shares
from batchwright.typing import FloatArray


@dataclass(frozen=True)
class discrete:  # noqa: N801
    """Go through a list of shares, each held until a moment of its own.

    g(u) = the first of `levels` whose `until` is not before u, or the last of them. Levels may fall
    as well as rise.

    Args:
        levels: The shares, in sequence.
        until: Progress up to which each level but the last holds, that moment included; rising.

    Raises:
        PlanError: If a setting is out of its range, or there is not one level more than `until`;
            when called, if progress is below 0.

    Example:
        >>> import batchwright.pacing
        >>> batchwright.pacing.discrete((0.2, 0.5, 1), until=(0.3, 0.6))([0.3, 0.31, 0.6, 0.61])
        array([0.2, 0.5, 0.5, 1. ])

    Source:
        Li, Yao, Wu, Zhang, Holmes, Li, He, "DeepSpeed Data Efficiency", 2022, arXiv:2212.03597
        (its `fixed_discrete`).
    """

    levels: tuple[float, ...]
    _: KW_ONLY
    until: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the settings."""
        check_shares(self, "levels")
        check_moments(self, "until")
        if len(self.levels) != len(self.until) + 1:
            raise PlanError(
                f"discrete: {len(self.levels)} levels, {len(self.until)} in until: expected one "
                "level more, which holds from the last moment on."
            )

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share that is eligible at each progress, float64[m]."""
        level = np.searchsorted(
            np.array(self.until, np.float64), as_progress(progress), side="left"
        )
        return np.asarray(np.array(self.levels, np.float64)[level])
