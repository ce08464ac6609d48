"""The seam between a batching and the planner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from batchwright.layout import Layout, Shape
from batchwright.order import Pools
from batchwright.typing import FloatArray, IntArray, LengthArray
from batchwright.updates import split_offsets

Oversize: TypeAlias = Literal["error", "drop", "truncate", "split"]
"""What becomes of a sample that alone exceeds the budget."""


@dataclass(frozen=True, eq=False)
class Draft:
    """Batches as a batching leaves them, before they are arranged in updates.

    Attributes:
        indices: int64[m], sample indices, batch after batch.
        offsets: int64[b + 1], where batches begin and end.
        pools: int64[p + 1], offsets over *batches*: those of one pool may change places. None:
            their sequence is binding.
        keys: float64[b], about the token-weighted mean log-length of each batch
            (`lengths.logs`), by which updates are mixed. None: the
            batches are random samples already.
        shapes: The only shapes that batches take; see `Layout`. None: any.
    """

    indices: IntArray
    offsets: IntArray
    pools: IntArray | None = None
    keys: FloatArray | None = None
    shapes: tuple[Shape, ...] | None = None

    def __len__(self) -> int:
        """Count the batches."""
        return self.offsets.size - 1

    def without(self, batches: IntArray) -> tuple[Draft, IntArray]:
        """Leave out batches, int64[r]; return the samples of those, too."""
        stay = np.ones(len(self), dtype=np.bool_)
        stay[batches] = False
        sizes = np.diff(self.offsets)
        here = np.repeat(stay, sizes)
        pools = None
        if self.pools is not None:
            pools = np.unique(np.concatenate(([0], np.cumsum(stay)))[self.pools])
        draft = Draft(
            self.indices[here],
            np.concatenate(([0], np.cumsum(sizes[stay]))),
            pools,
            None if self.keys is None else self.keys[stay],
            self.shapes,
        )
        return draft, self.indices[~here]

    def split_to(self, num_batches: int, *, weights: FloatArray | None = None) -> Draft:
        """Split batches until there are `num_batches`, each staying in its pool.

        Args:
            num_batches: How many to end with, at least as many as there are.
            weights: float64[b], the heaviest are split first; None goes by samples.

        Returns:
            A draft of the same samples in the same sequence.

        Raises:
            PlanError: If there are fewer samples than batches asked for.
        """
        if num_batches == len(self):
            return self
        offsets = split_offsets(self.offsets, num_batches, weights=weights)
        parents = np.searchsorted(self.offsets, offsets[:-1], side="right") - 1
        pools = None
        if self.pools is not None:
            pools = np.searchsorted(offsets, self.offsets[self.pools])
        keys = None if self.keys is None else self.keys[parents]
        return Draft(self.indices, offsets, pools, keys, self.shapes)


@runtime_checkable
class Batching(Protocol):
    """Says how the samples of an epoch become batches.

    Pure functions of their arguments. A batch may exceed no budget, a sample may be in no batch
    twice, and none may be left out.
    """

    @property
    def layout(self) -> Layout:
        """How a batch lies in memory, and the budget it keeps."""
        ...

    @property
    def oversize(self) -> Oversize:
        """What becomes of a sample that alone exceeds the budget."""
        ...

    def count(
        self, pools: Pools, lengths: LengthArray, *, rng: np.random.Generator, multiple: int
    ) -> int:
        """Return a number of batches that every epoch of this order can keep.

        Args:
            pools: The samples of one epoch.
            lengths: integer[n], tokens, none above the budget.
            rng: Where random sequences come from, should the number depend on them.
            multiple: Batches of one update, over all ranks.

        Returns:
            The number of batches, not rounded to the multiple unless it helps.
        """
        ...

    def draft(
        self,
        pools: Pools,
        lengths: LengthArray,
        *,
        rng: np.random.Generator,
        multiple: int,
        num_batches: int,
    ) -> Draft:
        """Make the batches of one epoch.

        Args:
            pools: The samples of the epoch.
            lengths: integer[n], tokens, none above the budget.
            rng: Where random sequences come from.
            multiple: Batches of one update, over all ranks.
            num_batches: How many to aim at. Fewer are split by the caller; more make it draw
                again, with another `rng`.

        Returns:
            The draft.
        """
        ...
