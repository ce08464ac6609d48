"""Epochs as functions: batches are computed from samples sorted by length, when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from batchwright._keyed import hashed, key_of
from batchwright.batches import Batches, OnDemand, Part
from batchwright.batching.cut import Cut, offsets_of
from batchwright.batching.fixed_size import Even
from batchwright.epochs import Counted, most_batches, refuse_few
from batchwright.errors import PlanError
from batchwright.index import LengthIndex
from batchwright.indexed import Indexed
from batchwright.layout import Layout
from batchwright.lengths import Lengths
from batchwright.nodes import Nodes, OnNodes, placements
from batchwright.order.plain import Blocks
from batchwright.order.pools import Kept, variation
from batchwright.placement import Placement, Spanning
from batchwright.plans import Origin, Plan
from batchwright.shard_index import Sharded, ShardIndex
from batchwright.typing import (
    Batching,
    Cuts,
    IntArray,
    Order,
    Parts,
    PartsOf,
    Sorted,
    SortedBatching,
    SortedOrder,
    Wanted,
)

_ATTEMPTS = 32
"""Attempts at an epoch that needs too many batches."""


@dataclass(frozen=True, eq=False)
class Functions:
    """The epochs of a planner whose order and batching look only at lengths."""

    order: Order
    parts: PartsOf
    cuts: Cuts
    seed: int
    layout: Layout
    dropped: dict[str, IntArray]
    least: Kept = field(default_factory=lambda: Kept(1))  # cuts of parts that all epochs have

    @classmethod
    def of(
        cls,
        lengths: LengthIndex | ShardIndex | Lengths,
        order: Order,
        batching: Batching,
        seed: int,
    ) -> Functions | None:
        """Return the epochs, or None where the order or the batching needs more than lengths."""
        if not isinstance(order, SortedOrder) or not isinstance(batching, SortedBatching):
            return None
        samples: Indexed | Sharded
        if isinstance(lengths, ShardIndex):
            samples, items = Sharded.of(lengths, batching.layout, batching.oversize)
        elif isinstance(lengths, LengthIndex) or lengths.array.ndim == 1:
            index = LengthIndex.build(lengths) if isinstance(lengths, Lengths) else lengths
            samples, items = Indexed.of(index, batching.layout, batching.oversize)
        else:
            return None
        cuts = batching.cuts(samples.values, samples.counts)
        parts = None if cuts is None else order.by_length(samples, samples.num_samples, seed=seed)
        if cuts is None or parts is None:
            return None
        layout = replace(cuts.layout, max_length=items.max_length)
        dropped = {"oversize": items.dropped} if items.dropped.size else {}
        return cls(order, parts, cuts, seed, layout, dropped)

    def count(self, multiple: int, least: int = 0) -> Counted:
        """Find a number of batches that suits every epoch; see `Epochs.count`."""
        probes, _, varies = variation(self.order)
        found = []
        for epoch in probes:
            parts = self.parts(epoch)
            size = _size(parts)
            most = max(
                sum(cut.num_batches for cut in self._least(parts.each, multiple, phase))
                for phase in range(self.cuts.phases)
            )
            refuse_few(parts.eligible, epoch, max(most, least), size)
            found.append((most, size))
        return most_batches(found, varies=varies, is_declared=True)

    def tokens(self, epoch: int) -> float:
        """Return the real tokens of an epoch."""
        parts = self.parts(epoch).each
        return float(sum((each.values * each.counts.astype(np.float64)).sum() for each in parts))

    def sized(self, num_batches: int, world_size: int, accumulate: int) -> Sized:
        """Return the epochs in so many batches each."""
        probes, _, varies = variation(self.order)
        if varies or len(probes) > 1:
            return Sized(self, num_batches, world_size, accumulate)
        parts, strata = self.parts(0).each, world_size * accumulate
        phases = range(self.cuts.phases)
        cuts = tuple(self.cut(parts, num_batches, strata, phase) for phase in phases)
        return Sized(self, num_batches, world_size, accumulate, cuts)

    def cut(
        self, parts: Sequence[Sorted], num_batches: int, strata: int, phase: int
    ) -> list[Cut | Even]:
        """Cut the parts of an epoch into so many batches together, or more, if they need more."""
        if len(parts) == 1:
            return [self._cut(parts[0], strata, phase, num_batches)]
        found = [*self._least(parts, strata, phase)]
        least = np.array([each.num_batches for each in found])
        most = np.array([int(each.counts.sum()) for each in parts])
        shares = _shared(num_batches, least, most)
        for number in np.flatnonzero(shares > least).tolist():
            found[number] = self._cut(parts[number], strata, phase, int(shares[number]))
        return found

    def _least(self, parts: Sequence[Sorted], strata: int, phase: int) -> Sequence[Cut | Even]:
        """Cut each part into as few batches as the budget allows."""

        def made() -> tuple[Cut | Even, ...]:
            return tuple(self._cut(each, strata, phase) for each in parts)

        probes, _, varies = variation(self.order)
        is_alike = len(probes) == 1 and not varies
        return self.least.get((strata, phase), made) if is_alike else made()

    def _cut(
        self, part: Sorted, strata: int, phase: int, num_batches: int | None = None
    ) -> Cut | Even:
        return self.cuts.cut(part.values, part.counts, Wanted(strata, num_batches, phase))


@dataclass(frozen=True, eq=False)
class Sized:
    """Epochs in a given number of batches, for a number of ranks."""

    functions: Functions
    num_batches: int
    world_size: int
    accumulate: int
    cuts: tuple[list[Cut | Even], ...] | None = None  # of each phase. None: epochs differ

    def __call__(self, origin: Origin) -> Plan | None:
        """Return the plan of an epoch. None: it has too few samples. O(parts) where all are alike.

        The same seed and epoch give the same plan on every machine.
        """
        functions, key = self.functions, key_of(origin.seed, "epoch", origin.epoch)
        samples, cuts = self._cut(origin.epoch, key % functions.cuts.phases)
        if sum(cut.num_batches for cut in cuts) != self.num_batches:
            return None
        sequence = range(len(cuts)) if samples.sequence is None else samples.sequence.tolist()
        placed = self._placed([cuts[number] for number in sequence], sequence, key, samples)
        parts = tuple(
            Part(samples.each[number], cuts[number], placement, hashed(2 * number + 1, key))
            for number, placement in zip(sequence, placed, strict=True)
        )
        batches: Batches = OnDemand.of(parts)
        if samples.ranks_per_node is not None:
            ranks = samples.ranks_per_node
            batches = OnNodes.of(batches, self.world_size, self.accumulate, ranks)
        dropped = functions.dropped
        if samples.deferred is not None and samples.deferred.size:
            dropped = dropped | {"deferred": samples.deferred}
        return Plan.of(batches, dropped=dropped, layout=functions.layout, origin=origin)

    def _placed(
        self, cuts: Sequence[Cut | Even], numbers: Sequence[int], key: int, samples: Parts
    ) -> Sequence[Placement | Spanning | None]:
        """Place the batches of parts one after the other; those of even batches stay."""
        if not all(isinstance(cut, Cut) for cut in cuts):
            return [None] * len(cuts)
        batches, keys = [cut.num_batches for cut in cuts], [hashed(2 * n, key) for n in numbers]
        if samples.ranks_per_node is not None:
            nodes = Nodes.of(self.world_size, samples.ranks_per_node)
            return placements(batches, nodes, self.accumulate, keys)
        starts = offsets_of(batches)[:-1].tolist()
        return [
            Placement(many, start, self.world_size, self.accumulate, own)
            for many, start, own in zip(batches, starts, keys, strict=True)
        ]

    def _cut(self, epoch: int, phase: int) -> tuple[Parts, list[Cut | Even]]:
        """Return the parts of an epoch, and where to cut them.

        Parts that need too many batches are replaced by others of the same samples, at last by
        those of an epoch that was counted; or by parts of fewer draws, which always fit.
        """
        functions, most = self.functions, None
        if self.cuts is not None:
            return functions.parts(epoch), self.cuts[phase]
        for attempt in range(_ATTEMPTS + 1):
            if attempt == _ATTEMPTS:  # not reached by an order that leaves out draws
                epoch = variation(functions.order).probes[0]
            parts = functions.parts(epoch, attempt=attempt % _ATTEMPTS, most=most)
            size = _size(parts)
            if size < self.num_batches:
                return parts, []
            cuts = functions.cut(
                parts.each, self.num_batches, self.world_size * self.accumulate, phase
            )
            needed = sum(cut.num_batches for cut in cuts)
            if needed == self.num_batches:
                break
            fewer = min(size * self.num_batches // needed, size - 1)
            most = self.num_batches if attempt > _ATTEMPTS // 2 else max(self.num_batches, fewer)
        return parts, cuts


def of_shards(
    index: ShardIndex, order: Order, batching: Batching, seed: int, others: Sequence[str]
) -> Functions:
    """Return the epochs of shards, whose lengths are never all in memory.

    Raises:
        PlanError: If the order or the batching needs all lengths, or `others`, settings that do.
    """
    unfit = [*([] if isinstance(order, Blocks) else [f"order={order}"]), *others]
    functions = None if unfit else Functions.of(index, order, batching, seed)
    if functions is None:
        named = ", ".join(unfit) or f"batching={batching}"
        raise PlanError(
            f"an index of shards cannot be planned with {named}, which needs all lengths at "
            "once. Leave that out, with order=Blocks(open_blocks=…); or plan from one sorted "
            "index, LengthIndex.build(index.lengths())."
        )
    return functions


def _size(parts: Parts) -> int:
    return sum(int(each.counts.sum()) for each in parts.each)


def _shared(num_batches: int, least: IntArray, most: IntArray) -> IntArray:
    """Share out batches among parts: each gets its least, and of the rest about its share."""
    shares = least.copy()
    while (missing := num_batches - int(shares.sum())) > 0 and (shares < most).any():
        more = np.minimum(missing * least // int(least.sum()), most - shares)
        if not more.any():  # fewer than parts: to the largest that can
            able = np.flatnonzero(shares < most)
            more = np.zeros_like(shares)
            more[able[np.argsort(-least[able], kind="stable")[:missing]]] = 1
        shares += more
    return shares
