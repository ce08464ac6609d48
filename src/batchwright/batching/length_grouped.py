"""Batches of a fixed size, roughly sorted by length: what trainers offer, as a control."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchwright.batching.draft import Draft
from batchwright.batching.fixed_size import FixedSize
from batchwright.lengths import totals
from batchwright.order import Pools
from batchwright.typing import LengthArray

MEGABATCH = 50
"""Batches whose samples are sorted together."""


@dataclass(frozen=True)
class LengthGrouped(FixedSize):
    """Sort the samples of every 50 batches by length, and keep that sequence.

    Batches, and so updates, descend from long samples to short ones, again and again, as under
    ``group_by_length`` of Hugging Face Transformers. Takes the arguments of `FixedSize`.
    """

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
