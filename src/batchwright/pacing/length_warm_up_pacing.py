"""Sequences that get longer."""

from dataclasses import KW_ONLY, dataclass

import numpy as np
import numpy.typing as npt

from batchwright.errors import PlanError
from batchwright.pacing.progress import part_done, whole_steps
from batchwright.pacing.settings import check_count, check_reach
from batchwright.typing import IntArray


@dataclass(frozen=True)
class length_warm_up:  # noqa: N801
    """Let sequences grow from a shortest to a longest length, in even steps.

    L(u) = min_length + step·⌊n·u/reach⌋ with n = ⌊(max_length − min_length) ÷ step⌋, and max_length
    from `reach` on. A remainder of the division comes with the last step. Cutting or reshaping
    sequences to this length is up to the caller.

    Args:
        min_length: The longest sequence allowed at first, in tokens.
        max_length: The longest sequence allowed from `reach` on, in tokens.
        step: By how many tokens the length grows at a time; a multiple of 8 suits tensor cores.
        reach: The share of the horizon after which sequences have their full length. Above 1, the
            run ends before.

    Raises:
        PlanError: If a setting is out of its range, or min_length is above max_length; when called,
            if progress is below 0.

    Example:
        >>> import batchwright.pacing
        >>> batchwright.pacing.length_warm_up(8, 30, step=8, reach=0.5)([0, 0.24, 0.25, 0.5, 1])
        array([ 8,  8, 16, 30, 30])

    Source:
        Li, Zhang, He, "The Stability-Efficiency Dilemma: Investigating Sequence Length Warmup for
        Training GPT Models", 2022, arXiv:2108.06084; Composer's `SeqLengthWarmup`.
    """

    min_length: int
    max_length: int
    _: KW_ONLY
    step: int = 8
    reach: float = 0.3

    def __post_init__(self) -> None:
        """Check the settings."""
        check_count(self, "min_length", "max_length", "step")
        check_reach(self, "reach")
        if self.min_length > self.max_length:
            raise PlanError(
                f"length_warm_up(min_length={self.min_length}, max_length={self.max_length}): "
                "expected min_length to be at most max_length, as sequences grow."
            )

    def __call__(self, progress: npt.ArrayLike) -> IntArray:
        """Return the longest sequence allowed at each progress, int64[m], in tokens."""
        done = part_done(progress, self.reach)
        steps = (self.max_length - self.min_length) // self.step
        lengths = self.min_length + self.step * whole_steps(done * steps, 1).astype(np.int64)
        return np.where(done >= 1, np.int64(self.max_length), lengths)
