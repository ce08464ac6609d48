"""What the functions of this package have in common."""

from typing import Protocol

import numpy.typing as npt

from batchwright.typing import FloatArray, IntArray


class Pacing(Protocol):
    """Says how much of the data is eligible as training goes on.

    A pure function of progress: it keeps no state, so it may rise, fall and rise again, and a
    resumed run asks it for the same share. Any callable of this shape is a pacing.
    """

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share of the samples that are eligible, in (0, 1].

        Args:
            progress: float[m], 0 or more: what was consumed ÷ the horizon of the curriculum.
                More than 1 counts as 1.

        Returns:
            float64[m]: one share for each progress; a number gives float64[].
        """
        ...


class LengthPacing(Protocol):
    """Says how long a sequence may be as training goes on: a `Pacing`, in tokens."""

    def __call__(self, progress: npt.ArrayLike) -> IntArray:
        """Return the longest sequence allowed at each progress, int64[m], in tokens."""
        ...
