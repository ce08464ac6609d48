"""Lengths like those of text, drawn from log-normal distributions."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_BLOCK = 1 << 20


@dataclass(frozen=True)
class LogNormal:
    """Lengths whose logarithm is normal, rounded to whole tokens.

    Attributes:
        mu: Mean of the logarithm; the median is ``exp(mu)`` tokens.
        sigma: Standard deviation of the logarithm.
        cap: Longer samples are cut to this many tokens. None: none is.
    """

    mu: float
    sigma: float
    cap: int | None = None

    def draw(self, size: int, *, dtype: npt.DTypeLike = np.int64) -> npt.NDArray[np.integer]:
        """Draw lengths, integer[size], block by block: memory peaks at the result."""
        lengths = np.empty(size, dtype=dtype)
        for _ in self.fill(lengths):
            pass
        return lengths

    def fill(self, lengths: npt.NDArray[np.integer]) -> Iterator[int]:
        """Draw lengths into an array, integer[n]; yield after each block how many are drawn."""
        rng = np.random.default_rng([lengths.size, 2])
        for start in range(0, lengths.size, _BLOCK):
            block = lengths[start : start + _BLOCK]
            drawn = np.rint(rng.lognormal(self.mu, self.sigma, block.size))
            block[:] = np.clip(drawn, 1, self.cap)
            yield start + block.size


TEXT = LogNormal(mu=5.5, sigma=0.9, cap=2048)
"""Sentences and short texts: median 245 tokens, mean 357."""

DOCUMENTS = LogNormal(mu=7.5, sigma=1.3)
"""Whole documents: median 1,800 tokens, mean 4,200, a few of a million."""
