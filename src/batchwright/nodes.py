"""Batches of several nodes, each of which reads shards of its own; an update has those of all."""

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
"""Strata of length that batches are drawn from at least, where a part has enough of them."""

_ROUNDS = 4
"""Batches of each stratum in the smallest part, at least."""


@dataclass(frozen=True)
class Nodes:
    """How many nodes there are, and the ranks of each: consecutive ones.

    Example:
        >>> Nodes.of(64, ranks_per_node=8), Nodes.of(4, ranks_per_node=8)
        (Nodes(number=8, ranks=8), Nodes(number=1, ranks=4))
    """

    number: int
    ranks: int

    @classmethod
    def of(cls, world_size: int, ranks_per_node: int) -> Nodes:
        """Return the nodes of a world; one, if these do not divide it."""
        if world_size % ranks_per_node:
            return cls(1, world_size)
        return cls(world_size // ranks_per_node, ranks_per_node)


@dataclass(frozen=True, eq=False)
class OnNodes:
    """Batches in a sequence, the line, of which every node takes a stretch of its own.

    Update `u` consists of the batches of update `u` in the stretch of every node. So a node reads
    neighbours, and an update mixes samples from all over the data.
    """

    line: Batches  # as many of each node, one node after the other
    nodes: Nodes
    accumulate: int
    ranks_per_node: int  # as the order has it: for another number of ranks
    places: Numbers

    @classmethod
    def of(cls, line: Batches, world_size: int, accumulate: int, ranks_per_node: int) -> Batches:
        """Share out a line among nodes; its number of batches is a multiple of `world_size`."""
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
        """Return all of them as flat arrays."""
        return self.line.select(self._along(numbers_of(self.places))).arrays()

    def blocks(self) -> Iterator[Arrays]:
        """Compute a thousand batches at a time."""
        return in_blocks(self)

    def split_to(self, num_batches: int) -> Batches:
        """Split the largest of some evenly spaced ones."""
        return halved(self, num_batches)

    def count(self, most: int | None = None) -> int:
        """Count the samples."""
        is_whole = isinstance(self.places, range) and len(self) == len(self.line)
        return self.line.count(most) if is_whole else counted(self, most)

    def identity(self) -> str:
        """Hash the batches of the line, and how nodes share them."""
        text = f"{self.line.identity()} {self.nodes} {self.ranks_per_node} {self.accumulate}"
        text = f"{text} {text_of(self.places)}"
        return hash_of(text.encode())

    def left(self) -> Batches:
        """Return these batches along the line: what is left of each node's stretch in turn."""
        return self.line.select(np.sort(self._along(numbers_of(self.places))))

    def _along(self, places: IntArray) -> IntArray:
        """Return where on the line each place of the epoch is, int64[k]."""
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
        batches: Of each part; together as many for every node.
        nodes: The nodes.
        accumulate: Batches of one update on each rank.
        keys: Of each part.

    Returns:
        One for each part; of a part that lies on several stretches, with a placement for each.
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
