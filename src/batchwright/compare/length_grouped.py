"""Batches of a fixed size, roughly sorted by length: what trainers offer, here as a control."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchwright.batching.draft import Draft, Oversize
from batchwright.batching.fixed_size import FixedSize
from batchwright.layout import Layout
from batchwright.lengths import totals
from batchwright.order import Pools
from batchwright.typing import LengthArray

MEGABATCH = 50
"""Batches whose samples are sorted together."""


@dataclass(frozen=True)
class LengthGrouped:
    """Sort the samples of each 50 batches by length, and keep that sequence: no plan of ours.

    Batches, and so updates, descend from long samples to short ones, again and again, as under
    ``group_by_length`` of Hugging Face Transformers.

    Args:
        batch_size: Samples in a batch.
        pad_to_multiple_of: Rows are padded to a multiple of this.
    """

    batch_size: int
    pad_to_multiple_of: int = 1

    @property
    def layout(self) -> Layout:
        """Padded rows, a limited number of them."""
        return FixedSize(self.batch_size, self.pad_to_multiple_of).layout

    @property
    def oversize(self) -> Oversize:
        """No sample is too long for a batch that counts samples."""
        return "error"

    def count(
        self, pools: Pools, lengths: LengthArray, *, rng: np.random.Generator, multiple: int
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
        """Sort within megabatches, and cut. O(m log m)."""
        sequence = pools.sequence(rng)
        group = np.arange(sequence.size) // (MEGABATCH * self.batch_size)
        descending = np.lexsort((-totals(lengths)[sequence].astype(np.int64), group))
        edges = np.append(np.arange(0, sequence.size, self.batch_size), sequence.size)
        return Draft(sequence[descending], edges)
