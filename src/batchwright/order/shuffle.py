"""Samples at random."""

from dataclasses import dataclass

import numpy as np

from batchwright.checks import keep_whole
from batchwright.errors import PlanError
from batchwright.order.pools import Pools
from batchwright.typing import LengthArray


@dataclass(frozen=True)
class Shuffle:
    """Visit every sample once an epoch, in random order.

    Args:
        window: Shuffle only inside consecutive windows of this many samples, the windows in
            sequence: for data whose rough sequence matters or that is read from far away.
            None shuffles all.

    Raises:
        PlanError: If the window is less than 1.

    Example:
        >>> Shuffle(window=2)(np.array([3, 5, 2]), seed=0, epoch=0).offsets
        array([0, 2, 3])
    """

    window: int | None = None

    probes = (0,)

    def __post_init__(self) -> None:
        """Check the window."""
        keep_whole(self, optional=("window",), error=PlanError)

    def __call__(self, lengths: LengthArray, *, seed: int, epoch: int) -> Pools:
        """Return all samples, in one pool or in one a window; the batching draws from it."""
        size = lengths.size
        window = size if self.window is None else self.window
        return Pools(np.arange(size), np.append(np.arange(0, size, window), size))
