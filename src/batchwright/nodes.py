"""Batches of several nodes, each of which reads its own shards; an update has batches of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from batchwright._keyed import hash_of, hashed
from batchwright.batches import (
    Arrays,
    Batches,
    Entries,
    Numbers,
    chosen,
    counted,
    halved,
    in_blocks,
    numbers_of,
    text_of,
)
from batchwright.placement import Placement, Spanning
from batchwright.typing import IntArray

_STRATA = 64
"""The fewest strata of length that batches are drawn from, if a part has enough batches."""

_ROUNDS = 4
"""The fewest batches of each stratum in the smallest part."""


@dataclass(frozen=True)
class Nodes:
    """The number of nodes, and of ranks on each. The ranks of a node are consecutive.

    Example:
        >>> Nodes.of(64, ranks_per_node=8), Nodes.of(4, ranks_per_node=8)
        (Nodes(number=8, ranks=8), Nodes(number=1, ranks=4))
    """

    number: int
    ranks: int

    @classmethod
    def of(cls, world_size: int, ranks_per_node: int) -> Nodes:
        """Return the nodes of a world; one node, if `ranks_per_node` does not divide it."""
        if world_size % ranks_per_node:
            return cls(1, world_size)
        return cls(world_size // ranks_per_node, ranks_per_node)


@dataclass(frozen=True, eq=False)
class OnNodes:
    """Batches in a sequence, the line, of which every node takes its own stretch.

    Update `u` consists of the batches of update `u` in the stretch of every node. So a node reads
    neighbouring batches, and an update mixes samples from all over the data.
    """

    line: Batches  # those of one node after the other, the same number for each
    nodes: Nodes
    accumulate: int
    ranks_per_node: int  # as the order has it: for another number of ranks
    places: Numbers

    @classmethod
    def of(cls, line: Batches, world_size: int, accumulate: int, ranks_per_node: int) -> Batches:
        """Divide a line among nodes; its number of batches is a multiple of `world_size`."""
        nodes = Nodes.of(world_size, ranks_per_node)
        return cls(line, nodes, accumulate, ranks_per_node, range(len(line)))

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, number: int) -> Entries:
        """Return one batch of the line."""
        return self.line.batch(int(self._along(np.array([self.places[number]]))[0]))

    def select(self, numbers: Numbers) -> OnNodes:
        """Return a view. A range of a range is O(1)."""
        return replace(self, places=chosen(self.places, numbers))

    def arrays(self) -> Arrays:
        """Return all batches as flat arrays."""
        return self.line.select(self._along(numbers_of(self.places))).arrays()

    def blocks(self) -> Iterator[Arrays]:
        """Compute a thousand batches at a time."""
        return in_blocks(self)

    def split_to(self, num_batches: int) -> Batches:
        """Split the largest of some evenly spaced batches."""
        return halved(self, num_batches)

    def count(self, most: int | None = None) -> int:
        """Count the samples."""
        is_whole = isinstance(self.places, range) and len(self) == len(self.line)
        return self.line.count(most) if is_whole else counted(self, most)

    def identity(self) -> str:
        """Hash the batches of the line, and how they are divided among nodes."""
        text = f"{self.line.identity()} {self.nodes} {self.ranks_per_node} {self.accumulate}"
        text = f"{text} {text_of(self.places)}"
        return hash_of(text.encode())

    def left(self) -> Batches:
        """Return these batches in the order of the line: the rest of each node's stretch."""
        return self.line.select(np.sort(self._along(numbers_of(self.places))))

    def _along(self, places: IntArray) -> IntArray:
        """Return the position on the line of each place of the epoch, int64[k]."""
        ranks = self.nodes.ranks
        turns, rank = np.divmod(places, self.nodes.number * ranks)
        node, own = np.divmod(rank, ranks)
        along: IntArray = node * (len(self.line) // self.nodes.number) + turns * ranks + own
        return along


def placements(
    batches: Sequence[int], nodes: Nodes, accumulate: int, keys: Sequence[int]
) -> list[Placement | Spanning]:
    """Place the batches of consecutive parts on the stretches of all nodes.

    Args:
        batches: Number of batches of each part; their sum is a multiple of the number of nodes.
        nodes: The nodes.
        accumulate: Batches of one update on each rank.
        keys: Key of each part.

    Returns:
        One for each part. If a part is on several stretches, it has a placement for each.
    """
    stretch = sum(batches) // nodes.number
    update = nodes.ranks * accumulate
    cycle = min(nodes.number, _STRATA // update, min(batches) // (_ROUNDS * update))
    cycle = max(1, cycle)
    found: list[Placement | Spanning] = []
    begin = 0
    for many, key in zip(batches, keys, strict=True):
        own, end = [], begin + many
        while begin < end:
            node, start = divmod(begin, stretch)
            here = min(end, (node + 1) * stretch) - begin
            phase = node * cycle // nodes.number
            own.append(
                Placement(here, start, nodes.ranks, accumulate, hashed(node, key), cycle, phase)
            )
            begin += here
        found.append(own[0] if len(own) == 1 else Spanning(tuple(own)))
    return found
