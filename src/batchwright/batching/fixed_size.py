"""Batches of a fixed number of samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchwright.batching.draft import Draft, Oversize
from batchwright.checks import keep_whole
from batchwright.layout import Layout
from batchwright.order import Pools
from batchwright.typing import LengthArray


@dataclass(frozen=True)
class FixedSize:
    """Put a fixed number of samples into each batch, in the sequence of the order.

    The last batch takes what is left, and a few are split where ranks need equal counts; none
    is dropped. The plain way, and the control for every other.

    Args:
        batch_size: Samples in a batch.
        pad_to_multiple_of: Rows are padded to a multiple of this.

    Example:
        >>> import batchwright as bw
        >>> plan = bw.plan([3, 5, 2, 4, 1], batching=FixedSize(2), order=bw.Sequential())
        >>> [batch.tolist() for batch in plan]
        [[0, 1], [2, 3], [4]]
    """

    batch_size: int
    pad_to_multiple_of: int = 1

    def __post_init__(self) -> None:
        """Check the settings."""
        keep_whole(self, "batch_size", "pad_to_multiple_of")

    @property
    def layout(self) -> Layout:
        """Padded rows, a limited number of them."""
        return Layout(max_samples=self.batch_size, multiple=self.pad_to_multiple_of)

    @property
    def oversize(self) -> Oversize:
        """No sample is too long for a batch that counts samples."""
        return "error"

    def count(
        self,
        pools: Pools,
        lengths: LengthArray,
        *,
        rng: np.random.Generator,
        multiple: int,
    ) -> int:
        """Return the number of samples over the batch size, rounded up."""
        return -(-pools.members.size // self.batch_size)

    def draft(
        self,
        pools: Pools,
        lengths: LengthArray,
        *,
        rng: np.random.Generator,
        multiple: int,
        num_batches: int,
    ) -> Draft:
        """Cut the sequence of the order every `batch_size` samples. O(m)."""
        sequence = pools.sequence(rng)
        edges = np.append(np.arange(0, sequence.size, self.batch_size), sequence.size)
        return Draft(sequence, edges, one_pool(pools, edges.size - 1))


def one_pool(pools: Pools, num_batches: int) -> np.ndarray | None:
    """Return the pools of batches cut from a drawn sequence: all may change places, or none."""
    is_one = pools.offsets is not None and pools.offsets.size == 2
    return np.array([0, num_batches]) if is_one else None
