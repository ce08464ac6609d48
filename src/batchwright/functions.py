"""Epochs as functions: batches are computed from samples sorted by length, when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from batchwright._keyed import hashed, key_of
from batchwright.batches import Deal, OnDemand, Part
from batchwright.batching.cut import Cut, Cuts, Even
from batchwright.epochs import Counted, most_batches
from batchwright.indexed import Indexed
from batchwright.layout import Layout
from batchwright.order.pools import variation
from batchwright.oversize import Items
from batchwright.plans import Origin, Plan
from batchwright.typing import (
    Batching,
    IntArray,
    Order,
    PartsOf,
    Sorted,
    SortedBatching,
    SortedOrder,
)


@dataclass(frozen=True, eq=False)
class Functions:
    """The epochs of a planner whose order and batching look only at lengths."""

    order: Order
    parts: PartsOf
    cuts: Cuts
    seed: int
    layout: Layout
    dropped: dict[str, IntArray]

    @classmethod
    def of(
        cls, samples: Indexed, items: Items, order: Order, batching: Batching, seed: int
    ) -> Functions | None:
        """Return the epochs, or None where the settings of an order or a batching forbid it."""
        if not isinstance(order, SortedOrder) or not isinstance(batching, SortedBatching):
            return None
        cuts = batching.cuts(samples.values, samples.counts)
        parts = None if cuts is None else order.by_length(samples, seed=seed)
        if cuts is None or parts is None:
            return None
        layout = replace(cuts.layout, max_length=items.max_length)
        dropped = {"oversize": items.dropped} if items.dropped.size else {}
        return cls(order, parts, cuts, seed, layout, dropped)

    def count(self, multiple: int) -> Counted:
        """Find a number of batches that suits every epoch; see `Epochs.count`."""
        probes, _, varies = variation(self.order)
        found = []
        for epoch in probes:
            parts = self.parts(epoch)
            most = max(
                sum(self._cut(each, multiple, phase).num_batches for each in parts)
                for phase in range(self.cuts.phases)
            )
            found.append((most, sum(int(each.counts.sum()) for each in parts)))
        return most_batches(found, varies=varies, is_declared=True)

    def tokens(self, epoch: int) -> float:
        """Return the real tokens of an epoch."""
        return float(
            sum((each.values * each.counts.astype(np.float64)).sum() for each in self.parts(epoch))
        )

    def sized(self, num_batches: int, world_size: int, accumulate: int) -> Sized:
        """Return the epochs in so many batches each."""
        phases = range(self.cuts.phases)
        if variation(self.order).varies:
            return Sized(self, num_batches, world_size, accumulate)
        parts, strata = self.parts(0), world_size * accumulate
        cuts = tuple(self.cut(parts, num_batches, strata, phase) for phase in phases)
        return Sized(self, num_batches, world_size, accumulate, cuts)

    def cut(
        self, parts: Sequence[Sorted], num_batches: int, strata: int, phase: int
    ) -> list[Cut | Even] | None:
        """Cut the parts of an epoch into so many batches together. None: they need more."""
        if len(parts) == 1:
            found = [self._cut(parts[0], strata, phase, num_batches)]
        else:
            least = np.array([self._cut(each, strata, phase).num_batches for each in parts])
            most = np.array([int(each.counts.sum()) for each in parts])
            shares = _shared(num_batches, least, most).tolist()
            found = [
                self._cut(each, strata, phase, share)
                for each, share in zip(parts, shares, strict=True)
            ]
        return found if sum(each.num_batches for each in found) == num_batches else None

    def _cut(
        self, part: Sorted, strata: int, phase: int, num_batches: int | None = None
    ) -> Cut | Even:
        return self.cuts.cut(
            part.values, part.counts, strata=strata, num_batches=num_batches, phase=phase
        )


@dataclass(frozen=True, eq=False)
class Sized:
    """Epochs in a given number of batches, for a number of ranks."""

    functions: Functions
    num_batches: int
    world_size: int
    accumulate: int
    cuts: tuple[list[Cut | Even] | None, ...] | None = None  # of each phase. None: epochs differ

    def __call__(self, origin: Origin) -> Plan | None:
        """Return the plan of an epoch. None: it needs more batches. O(parts) where all are alike.

        The same seed and epoch give the same plan on every machine.
        """
        functions, update = self.functions, self.world_size * self.accumulate
        samples, key = functions.parts(origin.epoch), key_of(origin.seed, "epoch", origin.epoch)
        phase = key % functions.cuts.phases
        if self.cuts is not None:
            cuts = self.cuts[phase]
        else:
            cuts = functions.cut(samples, self.num_batches, update, phase)
        if cuts is None:
            return None
        parts, start = [], 0
        for number, (each, cut) in enumerate(zip(samples, cuts, strict=True)):
            deal = None
            if isinstance(cut, Cut):
                own = hashed(2 * number, key)
                deal = Deal(cut.num_batches, start, self.world_size, self.accumulate, own)
            parts.append(Part(each, cut, deal, hashed(2 * number + 1, key)))
            start += cut.num_batches
        batches = OnDemand.of(tuple(parts))
        return Plan.of(batches, dropped=functions.dropped, layout=functions.layout, origin=origin)


def is_by_length(order: Order, batching: Batching) -> bool:
    """Say whether an order and a batching may look only at lengths; see `Functions.of`."""
    return isinstance(order, SortedOrder) and isinstance(batching, SortedBatching)


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
