"""What the planner asks of a batching, and what it gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from batchwright._random import random_bits
from batchwright.batching.cut import offsets_of
from batchwright.errors import BudgetError
from batchwright.index import from_long_to_short
from batchwright.layout import Shape
from batchwright.lengths import runs
from batchwright.order import Pools
from batchwright.order.pools import Kept
from batchwright.typing import Cuts, FloatArray, IntArray, LengthArray, Wanted
from batchwright.updates import split_offsets

_DRAWS = 4


@dataclass(frozen=True, eq=False)
class Request:
    """The epoch, or the window of a stream, that a batching is to cut into batches."""

    pools: Pools
    lengths: LengthArray  # integer[n], of every sample, none above the budget
    rng: np.random.Generator  # where random sequences come from
    multiple: int = 1  # batches of one update, over all ranks
    # How many batches to aim at. The caller splits batches where there are fewer, and asks again
    # with another `rng` where there are more.
    num_batches: int = 0
    # What the batching made for the same lengths before.
    kept: Kept = field(default_factory=lambda: Kept(4))


@dataclass(frozen=True, eq=False)
class Draft:
    """Batches before they are arranged in updates."""

    indices: IntArray  # int64[m], sample indices, batch after batch
    offsets: IntArray  # int64[b + 1], where batches begin and end
    # int64[p + 1], offsets over *batches*: those of one pool may change places. None: their
    # sequence is binding.
    pools: IntArray | None = None
    # float64[b], about the token-weighted mean log-length of each batch (`lengths.logs`), by which
    # updates are mixed. None: the batches are random samples.
    keys: FloatArray | None = None
    # The only shapes that batches take; see `Layout`. None: any.
    shapes: tuple[Shape, ...] | None = None

    @classmethod
    def of_sequence(cls, request: Request, sequence: IntArray, offsets: IntArray) -> Draft:
        """Cut a drawn sequence: the batches of a single pool may change places."""
        pools = np.array([0, offsets.size - 1]) if request.pools.is_one else None
        return cls(sequence, offsets, pools)

    @classmethod
    def of_pools(cls, parts: Sequence[tuple[IntArray, IntArray]]) -> Draft:
        """Join the batches of each pool: int64[m], its samples; int64[b], samples in each."""
        members, sizes = zip(*parts, strict=True)
        joined = members[0] if len(members) == 1 else np.concatenate(members)  # no second copy
        borders = offsets_of([each.size for each in sizes])
        return cls(joined, offsets_of(np.concatenate(sizes)), borders)

    def __len__(self) -> int:
        return self.offsets.size - 1

    def without(self, batches: IntArray) -> tuple[Draft, IntArray]:
        """Leave out batches, int64[r]; return their samples, too."""
        stay = np.ones(len(self), dtype=np.bool_)
        stay[batches] = False
        sizes = np.diff(self.offsets)
        here = np.repeat(stay, sizes)
        draft = replace(
            self,
            indices=self.indices[here],
            offsets=offsets_of(sizes[stay]),
            pools=None if self.pools is None else np.unique(offsets_of(stay)[self.pools]),
            keys=None if self.keys is None else self.keys[stay],
        )
        return draft, self.indices[~here]

    def split_to(self, num_batches: int, *, weights: FloatArray | None = None) -> Draft:
        """Split batches, the heaviest or largest first, until there are `num_batches`.

        Each stays in its pool.
        """
        if num_batches == len(self):
            return self
        offsets = split_offsets(self.offsets, num_batches, weights=weights)
        parents = np.searchsorted(self.offsets, offsets[:-1], side="right") - 1
        pools = self.pools
        return replace(
            self,
            offsets=offsets,
            pools=None if pools is None else np.searchsorted(offsets, self.offsets[pools]),
            keys=None if self.keys is None else self.keys[parents],
        )


def count_pools(cuts: Cuts, request: Request) -> int:
    """Return how many batches the pools need, each sorted by length and cut."""
    pooled = [runs(request.lengths, pool) for pool in request.pools]
    return max(
        sum(cuts.cut(*each, Wanted(request.multiple, phase=phase)).num_batches for each in pooled)
        for phase in range(cuts.phases)
    )


def cut_pools(cuts: Cuts, request: Request) -> Draft:
    """Sort each pool by length, and cut it. O(m)."""
    pools, rng, strata = request.pools, request.rng, request.multiple
    phase = int(random_bits(rng, 1)[0] % np.uint64(cuts.phases))
    target = request.num_batches if pools.is_one else 0
    parts: list[tuple[IntArray, IntArray]] = []
    keys: list[FloatArray] = []
    for pool in pools:
        values, counts = runs(request.lengths, pool)
        ids = pool[from_long_to_short(request.lengths[pool], values, counts)]
        cut = cuts.cut(values, counts, Wanted(strata, target or None, phase))
        key = int(random_bits(rng, 1)[0])
        samples, offsets = cut.all(np.arange(cut.num_batches), key, ids.__getitem__)
        parts.append((samples.astype(np.int64, copy=False), np.diff(offsets)))
        keys.append(cut.keys())
    return replace(Draft.of_pools(parts), keys=np.concatenate(keys))


def single(owner: str, budget: int | tuple[int, ...]) -> int:
    """Return the budget for lengths [n]; raise BudgetError if there is one for each column."""
    if isinstance(budget, tuple):
        raise BudgetError(
            f"{owner}={budget}) has a budget for each of several columns, and lengths are [n]. "
            "Give one number, or lengths [n, k]."
        )
    return budget


def split_budget(budget: int | tuple[int, ...]) -> tuple[int | None, tuple[int, ...] | None]:
    """Return a budget as `Layout` takes it: one for all, and one for each column."""
    return (None, budget) if isinstance(budget, tuple) else (budget, None)


def probed_count(draw: Callable[[], Draft], *, is_random: bool) -> int:
    """Return a number of batches that most draws do not exceed: of a few the most, and the spread.

    A later draw that needs more is made again by the planner, with other random numbers.
    """
    counts = [len(draw()) for _ in range(_DRAWS if is_random else 1)]
    return 2 * max(counts) - min(counts)
