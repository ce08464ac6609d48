"""Difficulty by length: the cheapest there is."""

import numpy as np

from batchwright.lengths import as_lengths
from batchwright.typing import FloatArray, IntoLengths


def length(lengths: IntoLengths) -> FloatArray:
    """Score each sample by its length: longer is harder.

    It is confounded with the shape of batches: under a token budget, long samples come in batches
    of few rows. Which of the two helped, only a comparison can tell.

    Args:
        lengths: integer[n], one length per sample: tokens, frames, patches.

    Returns:
        float64[n].

    Raises:
        LengthsError: A length is no whole number of at least 1.

    Complexity:
        O(n).

    Source:
        Platanios, Stretcu, Neubig, Poczos, Mitchell, "Competence-based curriculum learning for
        neural machine translation", 2019, arXiv:1903.09848.

    Example:
        >>> length([7, 3, 12])
        array([ 7.,  3., 12.])
    """
    return as_lengths(lengths).astype(np.float64)
