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
from batchwright.typing import IntArray, LengthArray, Parts, PartsOf, Sorted

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

    def __call__(self, epoch: int, *, attempt: int = 0, most: int | None = None) -> Parts:
        """Return a part for each group of strata."""
        keys = (epoch, attempt) if attempt else (epoch,)
        order = shuffled(np.arange(len(self.cells)), generator(self.seed, "blocks", *keys))
        order = order[self.cells.members_of[order] > 0]
        groups = [order[at : at + self.together] for at in range(0, order.size, self.together)]
        return Parts([self.cells.all_of(group) for group in groups])


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

    Args:
        sizes: Samples of each block (shard, file, row group), in the sequence of the data; or one
            number for all.
        open_blocks: How many are read together. More mix better.

    Raises:
        PlanError: If a size is not a whole number of at least 1; when called, if the sizes do not
            add up to the data.

    Example:
        >>> pools = Blocks(2, open_blocks=1)(np.ones(6, dtype=int), seed=0, epoch=0)
        >>> sorted(sorted(pool.tolist()) for pool in pools)
        [[0, 1], [2, 3], [4, 5]]
    """

    sizes: int | Sequence[int]
    _: KW_ONLY
    open_blocks: int = 8

    probes = tuple(range(8))
    varies = True

    def __post_init__(self) -> None:
        try:
            sizes = np.asarray(self.sizes)
        except ValueError:  # rows of different lengths
            sizes = np.empty(0)
        if sizes.dtype.kind not in "iu" or not sizes.size or sizes.min() < 1 or sizes.ndim > 1:
            raise PlanError(f"Blocks({self.sizes!r:.60}): expected sizes of at least 1 sample.")
        keep_whole(self, "open_blocks", error=PlanError)
        plain = sizes.tolist()
        object.__setattr__(self, "sizes", tuple(plain) if sizes.ndim else plain)

    def __call__(self, lengths: LengthArray, *, seed: int, epoch: int) -> Pools:
        """Return the samples, a pool for each group of blocks. O(n)."""
        edges = self._edges(lengths.size)
        order = shuffled(np.arange(edges.size - 1), generator(seed, "blocks", epoch))
        sizes = np.diff(edges)[order]
        ends = np.concatenate(([0], np.cumsum(sizes)))
        members = np.repeat(edges[order] - ends[:-1], sizes) + np.arange(lengths.size)
        return Pools(members, np.append(ends[: -1 : self.open_blocks], lengths.size))

    def by_length(self, samples: Sorted, num_samples: int, *, seed: int) -> PartsOf | None:
        """Return a part for each group of blocks, if these are large; see `SortedOrder`."""
        edges = self._edges(num_samples)
        blocks = edges.size - 1
        if are_small(-(-blocks // self.open_blocks), num_samples):
            return None
        from batchwright.order.cells import Cells

        cells = Cells.of(samples, np.repeat(np.arange(blocks), np.diff(edges)), blocks)
        return Groups(cells, seed, self.open_blocks)

    def _edges(self, num_samples: int) -> IntArray:
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


def are_small(parts: int, num_samples: int) -> bool:
    """Say whether parts hold so few samples that to cut each costs more than arrays of all."""
    return parts > _FEW and num_samples < parts * _SMALL
