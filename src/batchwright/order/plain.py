"""Orders that visit every sample once: in sequence, shuffled, or a few blocks at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

import numpy as np

from batchwright._checks import keep_whole
from batchwright._random import generator, shuffled
from batchwright.errors import PlanError
from batchwright.order.pools import Pools
from batchwright.typing import (
    FloatArray,
    IntArray,
    LengthArray,
    Parts,
    PartsOf,
    Sorted,
    SortedShards,
)

if TYPE_CHECKING:
    from batchwright.order.cells import Cells

_FEW, _SMALL = 64, 1000
"""Parts that are few in any case, and the samples of a small one."""


@dataclass(frozen=True, eq=False)
class Same:
    """The same parts in every epoch."""

    parts: tuple[Sorted, ...]

    def __call__(self, epoch: int, *, attempt: int = 0, most: int | None = None) -> Parts:
        """Return them."""
        return Parts(self.parts)


@dataclass(frozen=True, eq=False)
class Groups:
    """A few strata at a time, in random sequence."""

    cells: Cells
    seed: int
    together: int
    ranks_per_node: int | None = None

    def __call__(self, epoch: int, *, attempt: int = 0, most: int | None = None) -> Parts:
        """Return a part for each group of strata."""
        keys = (epoch, attempt) if attempt else (epoch,)
        order = shuffled(np.arange(len(self.cells)), generator(self.seed, "blocks", *keys))
        order = order[self.cells.members_of[order] > 0]
        groups = [order[at : at + self.together] for at in range(0, order.size, self.together)]
        parts = [self.cells.all_of(group) for group in groups]
        return Parts(parts, ranks_per_node=self.ranks_per_node)


@dataclass(frozen=True, eq=False)
class ShardGroups:
    """The same groups of shards in every epoch, in random sequence."""

    parts: tuple[Sorted, ...]
    seed: int
    ranks_per_node: int | None

    def __call__(self, epoch: int, *, attempt: int = 0, most: int | None = None) -> Parts:
        """Return all groups."""
        order = np.arange(len(self.parts))
        sequence = shuffled(order, generator(self.seed, "blocks", epoch))
        return Parts(self.parts, sequence=sequence, ranks_per_node=self.ranks_per_node)


@dataclass(frozen=True)
class Sequential:
    """Visit samples in the sequence of the data set, which batches keep.

    Example:
        >>> Sequential()(np.array([3, 5, 2]), seed=0, epoch=0).members
        array([0, 1, 2])
    """

    probes = (0,)
    varies = False

    def __call__(self, lengths: LengthArray, *, seed: int, epoch: int) -> Pools:
        """Return samples 0 to n - 1, bound to their sequence."""
        return Pools(np.arange(lengths.size), None)


@dataclass(frozen=True)
class Shuffle:
    """Visit every sample once an epoch, in random order.

    Args:
        window: Shuffle only inside consecutive windows of this many samples: for data whose rough
            sequence matters, or that is read from far away. None shuffles all.

    Raises:
        PlanError: If the window is less than 1.

    Example:
        >>> Shuffle(window=2)(np.array([3, 5, 2]), seed=0, epoch=0).offsets
        array([0, 2, 3])
    """

    window: int | None = None

    probes = (0,)
    varies = False

    def __post_init__(self) -> None:
        keep_whole(self, optional=("window",), error=PlanError)

    def __call__(self, lengths: LengthArray, *, seed: int, epoch: int) -> Pools:
        """Return all samples, in one pool or one for each window; the batching shuffles them."""
        size = lengths.size
        window = size if self.window is None else self.window
        return Pools(np.arange(size), np.append(np.arange(0, size, window), size))

    def by_length(self, samples: Sorted, num_samples: int, *, seed: int) -> PartsOf | None:
        """Return all samples, or a part for each window, if these are large; see `SortedOrder`."""
        if self.window is None:
            return Same((samples,))
        windows = -(-num_samples // self.window)
        if are_small(windows, num_samples):
            return None
        from batchwright.order.cells import Cells  # few programs need it

        cells = Cells.of(samples, np.arange(num_samples) // self.window, windows)
        filled = np.flatnonzero(cells.members_of)
        return Same(tuple(cells.all_of(filled[at : at + 1]) for at in range(filled.size)))


@dataclass(frozen=True)
class Blocks:
    """Visit blocks of neighbouring samples in random sequence, a few of them at a time.

    An epoch reads every block once. Samples are mixed only among the blocks that are open
    together: at most `open_blocks` have to be in memory at once, or twice that while one group
    follows another.

    With `ranks_per_node`, every node has blocks of its own: it goes through a stretch of the epoch,
    as long as that of any other, and each update mixes the blocks of all nodes. A group of blocks
    where the stretch of one node ends and the next begins is read by both.

    Args:
        sizes: Samples of each block (shard, file, row group), in the sequence of the data; or one
            number for all. None: the shards of a `ShardIndex`; which of them are read together is
            then drawn once for all epochs, shards of long samples with those of short ones, and
            the sequence of these groups anew in each.
        open_blocks: How many are read together. More mix better.
        ranks_per_node: Consecutive ranks that read the same blocks. They have to divide the number
            of ranks: else, and for None, all ranks do.

    Raises:
        PlanError: If a size is not a whole number of at least 1; when called, if the sizes do not
            add up to the data.

    Example:
        >>> pools = Blocks(2, open_blocks=1)(np.ones(6, dtype=int), seed=0, epoch=0)
        >>> sorted(sorted(pool.tolist()) for pool in pools)
        [[0, 1], [2, 3], [4, 5]]
    """

    sizes: int | Sequence[int] | None = None
    _: KW_ONLY
    open_blocks: int = 8
    ranks_per_node: int | None = None

    def __post_init__(self) -> None:
        keep_whole(self, "open_blocks", optional=("ranks_per_node",), error=PlanError)
        if self.sizes is None:
            return
        try:
            sizes = np.asarray(self.sizes)
        except ValueError:  # rows of different lengths
            sizes = np.empty(0)
        if sizes.dtype.kind not in "iu" or not sizes.size or sizes.min() < 1 or sizes.ndim > 1:
            raise PlanError(f"Blocks({self.sizes!r:.60}): expected sizes of at least 1 sample.")
        plain = sizes.tolist()
        object.__setattr__(self, "sizes", tuple(plain) if sizes.ndim else plain)

    @property
    def probes(self) -> Sequence[int]:
        """The epochs that are counted: groups of shards are the same in all."""
        return range(1 if self.sizes is None else 8)

    @property
    def varies(self) -> bool:
        """Whether other epochs may need more batches."""
        return self.sizes is not None

    def __call__(self, lengths: LengthArray, *, seed: int, epoch: int) -> Pools:
        """Return the samples, a pool for each group of blocks. O(n)."""
        if self.ranks_per_node is not None:
            raise PlanError(
                f"{self}: blocks of each node need batches that follow from lengths alone. Leave "
                "out cost=, constraints and columns, or ranks_per_node."
            )
        edges = self._edges(lengths.size)
        order = shuffled(np.arange(edges.size - 1), generator(seed, "blocks", epoch))
        sizes = np.diff(edges)[order]
        ends = np.concatenate(([0], np.cumsum(sizes)))
        members = np.repeat(edges[order] - ends[:-1], sizes) + np.arange(lengths.size)
        return Pools(members, np.append(ends[: -1 : self.open_blocks], lengths.size))

    def by_length(self, samples: Sorted, num_samples: int, *, seed: int) -> PartsOf | None:
        """Return a part for each group of blocks, if these are large; see `SortedOrder`."""
        if self.sizes is None:
            return self._of_shards(samples, seed)
        edges = self._edges(num_samples)
        blocks = edges.size - 1
        is_few = are_small(-(-blocks // self.open_blocks), num_samples)
        if is_few and self.ranks_per_node is None:
            return None
        from batchwright.order.cells import Cells

        cells = Cells.of(samples, np.repeat(np.arange(blocks), np.diff(edges)), blocks)
        return Groups(cells, seed, self.open_blocks, self.ranks_per_node)

    def _of_shards(self, samples: Sorted, seed: int) -> PartsOf:
        """Return a part for each group of shards."""
        if not isinstance(samples, SortedShards):
            raise self._without_sizes()
        groups = alike(samples.surplus(), self.open_blocks, generator(seed, "shards"))
        parts = [samples.some(samples.shards[group]) for group in groups]
        filled = tuple(part for part in parts if part.counts.size)
        return ShardGroups(filled, seed, self.ranks_per_node)

    def _without_sizes(self) -> PlanError:
        return PlanError(f"{self}: give the sizes of blocks, or plan an index of shards.")

    def _edges(self, num_samples: int) -> IntArray:
        if self.sizes is None:
            raise self._without_sizes()
        if isinstance(self.sizes, int):
            edges = np.append(np.arange(0, num_samples, self.sizes), num_samples)
        else:
            edges = np.concatenate(([0], np.cumsum(self.sizes)))
        if edges[-1] != num_samples:
            raise PlanError(
                f"blocks hold {edges[-1]:,} samples, there are {num_samples:,}. Give the size of "
                "every block, in the sequence of the data."
            )
        return edges


def alike(sizes: FloatArray, most: int, rng: np.random.Generator) -> list[IntArray]:
    """Group blocks so that the sums of groups are alike: at most so many in each.

    Blocks are assigned from the largest to the smallest, one to each group at a time, larger blocks
    to groups whose sums are smaller; the first ones at random. O(n log n).

    Example:
        >>> groups = alike(np.array([9.0, 8.0, 2.0, 1.0]), 2, np.random.default_rng(0))
        >>> sorted(group.tolist() for group in groups)
        [[0, 3], [1, 2]]
    """
    order = np.argsort(-sizes, kind="stable")
    number = -(-order.size // most)
    owners, sums = np.empty_like(order), np.zeros(number)
    for begin in range(0, order.size, number):
        blocks = order[begin : begin + number]
        groups = rng.permutation(number)
        groups = groups[np.argsort(sums[groups], kind="stable")][: blocks.size]
        owners[blocks] = groups
        sums[groups] += sizes[blocks]
    return [np.flatnonzero(owners == group) for group in range(number)]


def are_small(parts: int, num_samples: int) -> bool:
    """Say whether parts hold so few samples that to cut each costs more than arrays of all."""
    return parts > _FEW and num_samples < parts * _SMALL
