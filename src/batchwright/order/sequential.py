"""Samples as they come."""

from dataclasses import dataclass

import numpy as np

from batchwright.order.pools import Pools
from batchwright.typing import LengthArray


@dataclass(frozen=True)
class Sequential:
    """Visit samples in the sequence of the data set: 0, 1, 2 and so on.

    The sequence is binding: batches are consecutive runs of it, and stay in it.

    Example:
        >>> Sequential()(np.array([3, 5, 2]), seed=0, epoch=0).members
        array([0, 1, 2])
    """

    probes = (0,)

    def __call__(self, lengths: LengthArray, *, seed: int, epoch: int) -> Pools:
        """Return samples 0 to n - 1, bound to their sequence."""
        return Pools(np.arange(lengths.size), None)
