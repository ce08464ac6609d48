"""The batches of any epoch, never more than a given number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from batchwright._random import generator, random_bits, shuffled
from batchwright.batching import Draft, Request
from batchwright.errors import BatchwrightError, PlanError
from batchwright.layout import Padded
from batchwright.order import Pools, as_pools
from batchwright.order.pools import Kept, variation
from batchwright.oversize import Items
from batchwright.plans import Origin, Plan
from batchwright.typing import Batching, Cost, FloatArray, IntArray, LengthArray, Order
from batchwright.updates import arranged

_ATTEMPTS = 64
"""Attempts at an epoch whose batches are too many."""

_ALIKE = 8
"""After so many attempts with the same number of batches, more would not change it."""

_BEFORE_DEFERRING = 4
"""Attempts at an epoch whose order can do without a few of its samples."""

_REDRAWN = 8
"""Other draws of the same samples that an order is asked for."""


class Counted(NamedTuple):
    """What epochs were found to need: batches, and the samples of the smallest."""

    batches: int
    samples: int


def most_batches(found: Sequence[tuple[int, int]], *, varies: bool, is_declared: bool) -> Counted:
    """Return a number of batches for all epochs, from the batches and samples of some."""
    most, fewest = max(count for count, _ in found), min(size for _, size in found)
    if varies:
        # Other epochs may need more: add the spread of those with one size.
        largest = max(size for _, size in found)
        alike = [count for count, size in found if is_declared or size == largest]
        most = max(most, min(most + max(alike) - min(alike), fewest))
    return Counted(most, fewest)


def refuse_few(eligible: int | None, epoch: int, batches: int, size: int) -> None:
    """Raise PlanError if an epoch draws from fewer samples than a batch holds."""
    if eligible is not None and eligible * batches < size:
        raise PlanError(
            f"in epoch {epoch} the order draws from {eligible} samples at first, "
            f"fewer than the {size / batches:.0f} of a batch: it would hold "
            "the same ones over and over. Admit more from the start (a pacing's start=)."
        )


class Room(NamedTuple):
    """The most batches of an epoch, the fewest samples, and the batches of one update."""

    most: int
    fill: int
    multiple: int


@dataclass(frozen=True, eq=False)
class Laid:
    """An epoch in batches."""

    draft: Draft
    deferred: IntArray  # int64[d], items that were left out
    repeated: IntArray  # int64[r], items that were added because the epoch has too few
    note: str | None = None  # what to warn of. None: nothing


@dataclass(frozen=True, eq=False)
class Epochs:
    """The epochs of a planner."""

    order: Order  # which samples, in what sequence
    batching: Batching  # how samples become batches
    items: Items  # the samples within the budget, or their pieces
    totals: LengthArray  # integer[n], one length of each sample, for the order
    seed: int
    cost: Cost | None  # what balance between ranks is measured in. None: it is not looked at
    empty: IntArray  # int64[e], the samples among the dropped items that are empty
    kept: Kept = field(default_factory=lambda: Kept(4))  # what the batching made for these lengths

    def pools(self, epoch: int, *, seed: int | None = None) -> Pools:
        """Ask the order for an epoch; samples that exceed the budget are gone."""
        return self.items.of(as_pools(self._ordered(epoch, seed), self.totals.size))

    def _ordered(self, epoch: int, seed: int | None = None) -> Pools | IntArray:
        return self.order(self.totals, seed=self.seed if seed is None else seed, epoch=epoch)

    def count(self, multiple: int, least: int = 0) -> Counted:
        """Find a number of batches that suits every epoch.

        Several epochs are looked at where they may differ. An epoch that needs more all the same
        is laid out in another way: see `lay`.

        Args:
            multiple: Batches of one update.
            least: As many batches are made at least, by splitting.
        """
        counts, sizes = [], []
        for epoch, pools in self._probed():
            size = pools.members.size
            if not size:
                raise PlanError(
                    f"epoch {epoch} would hold no sample: all that the order draws for it exceed "
                    "the budget. Raise the budget, or truncate them."
                )
            rng = generator(self.seed, "count")
            request = Request(pools, self.items.lengths, rng, multiple, kept=self.kept)
            count = min(self.batching.count(request), size)  # no batch is empty
            refuse_few(pools.eligible, epoch, max(count, least), size)
            counts.append(count)
            sizes.append(size)
        _, is_declared, varies = variation(self.order)
        found = list(zip(counts, sizes, strict=True))
        return most_batches(found, varies=varies, is_declared=is_declared)

    def tokens(self, epoch: int) -> float:
        """Return the real tokens of an epoch."""
        return float(self.items.lengths_of(self.pools(epoch).members).sum(dtype=np.float64))

    def lay(self, epoch: int, room: Room) -> Laid:
        """Make the batches of an epoch, in the first of these ways that needs no more than `room`.

        1. As the order and the batching say, with several random numbers. An order that draws may
           leave out a few of its draws.
        2. As the order says with another seed, if it gives the same samples.
        3. In the sequence or pools of an epoch that was counted, if it has the same samples, with
           the random numbers of the count.
        4. As one pool, in which all samples may be rearranged.
        5. Without some of the samples, evenly spaced. As many samples as batches always fit.

        So without draws, samples are left out only of an epoch with other samples than those
        counted, which need more batches however they are arranged.
        """
        ordered = as_pools(self._ordered(epoch), self.totals.size, may_be_empty=True)
        pools, repeated = self._filled(self.items.of(ordered), room.fill, epoch)
        nothing = repeated[:0]
        deferred: list[IntArray] = []
        seen = set()
        for attempt in range(_ATTEMPTS):
            rng = generator(self.seed, "batching", epoch, attempt)
            draft = self._draft(pools, rng, room)
            needed = len(draft)
            if needed <= room.most:
                return Laid(draft, np.concatenate((nothing, *deferred)), repeated)
            seen.add(needed)
            if pools.may_defer and attempt >= _BEFORE_DEFERRING:
                pools, left_out = pools.without(1.01 - room.most / needed, at_least=room.fill)
                deferred.append(left_out)
                if not left_out.size:
                    break
            elif attempt + 1 >= _ALIKE and len(seen) == 1 and not pools.may_defer:
                break
        if not pools.may_defer:
            laid = self._laid_otherwise(pools, repeated, epoch, room)
            if laid is not None:
                return laid
        while len(draft) > room.most:
            # Fewer each time, and at last one for each batch.
            size = min(pools.members.size * room.most // len(draft), pools.members.size - 1)
            pools, left_out = pools.evenly_spaced(max(size, room.fill))
            deferred.append(left_out)
            rng = generator(self.seed, "batching", epoch, _ATTEMPTS + len(deferred))
            draft = self._draft(pools, rng, room)
        left_out = np.concatenate(deferred)
        note = None
        if not pools.may_defer:
            note = (
                f"epoch {epoch} needs more than the {room.most} batches of every epoch, for it "
                f"holds other samples than those counted: {left_out.size} of them are left out "
                '(plan.dropped["deferred"] lists them).'
            )
        return Laid(draft, left_out, repeated, note)

    def plan(self, laid: Laid, num_batches: int, origin: Origin) -> Plan:
        """Return the plan of an epoch that was laid: in so many batches, which share updates."""
        draft, items, left_out = laid.draft, self.items, laid.deferred[:0]
        layout = replace(self.batching.layout, max_length=items.max_length)
        if isinstance(layout, Padded) and draft.shapes is not None:
            layout = replace(layout, shapes=draft.shapes)

        def costs_of(draft: Draft) -> FloatArray | None:
            if self.cost is None:
                return None
            offsets = items.batches(draft.indices, draft.offsets).offsets
            lengths = items.lengths_of(draft.indices).astype(np.int64, copy=False)
            return layout.batch_costs(lengths, offsets, self.cost)

        if len(draft) > num_batches:  # at random, or the last of a sequence
            order = np.arange(len(draft))
            if draft.pools is not None:
                order = shuffled(order, generator(self.seed, "last", origin.epoch))
            draft, left_out = draft.without(order[num_batches:])
        if len(draft) < num_batches:
            draft = draft.split_to(num_batches, weights=costs_of(draft))
        places = arranged(
            num_batches,
            draft.pools,
            keys=draft.keys,
            costs=costs_of(draft),
            world_size=origin.world_size,
            accumulate=origin.accumulate,
            rng=generator(self.seed, "deal", origin.epoch),
        )
        dropped = {
            "oversize": np.setdiff1d(items.dropped, self.empty),
            "empty": self.empty,
            "deferred": items.samples(laid.deferred)[0],
            "last": items.samples(left_out)[0],
        }
        return Plan.of(
            items.batches(draft.indices, draft.offsets).select(places),
            dropped={reason: samples for reason, samples in dropped.items() if samples.size},
            layout=layout,
            origin=origin,
            repeated=items.samples(laid.repeated)[0],
        )

    def _laid_otherwise(
        self, pools: Pools, repeated: IntArray, epoch: int, room: Room
    ) -> Laid | None:
        """Arrange the same samples in another way; None where no way needs so few batches."""
        nothing, members = repeated[:0], np.sort(pools.members)

        def has_the_same(other: Pools) -> bool:
            return np.array_equal(np.sort(other.members), members)

        for again in range(_REDRAWN):
            bits = random_bits(generator(self.seed, "order again", epoch, again), 1)[0]
            other = self.pools(epoch, seed=int(bits))
            if np.array_equal(other.members, pools.members) or not has_the_same(other):
                break
            draft = self._draft(other, generator(self.seed, "batching again", epoch, again), room)
            if len(draft) <= room.most:
                return Laid(draft, nothing, repeated)
        needs = f"epoch {epoch} needs more than the {room.most} batches of every epoch"
        for probe, counted in self._probed():
            if not has_the_same(counted):
                continue
            draft = self._draft(counted, generator(self.seed, "count"), room)
            if len(draft) > room.most:
                raise PlanError(
                    f"{needs}, and so do now the samples of epoch {probe}, for which the batching "
                    "made no more of the same random numbers before. A batching has to be a pure "
                    "function of its arguments."
                )
            note = f"{needs}: it takes the sequence of epoch {probe} instead. No sample is lost."
            return Laid(draft, nothing, repeated, note)
        one = Pools(members, np.array([0, members.size]))
        draft = self._draft(one, generator(self.seed, "batching again", epoch), room)
        if len(draft) > room.most:
            return None
        note = f"{needs} in the sequence of its order: it is rearranged. No sample is lost."
        return Laid(draft, nothing, repeated, note)

    def _draft(self, pools: Pools, rng: np.random.Generator, room: Room) -> Draft:
        target = min(room.most, pools.members.size)
        return self.batching.draft(
            Request(pools, self.items.lengths, rng, room.multiple, target, self.kept)
        )

    def _filled(self, pools: Pools, fill: int, epoch: int) -> tuple[Pools, IntArray]:
        """Add samples until there are so many; return what was added too."""
        short = max(0, fill - pools.members.size)
        if not short:
            return pools, pools.members[:0]
        members = pools.members
        if not members.size:  # none was drawn, or all exceed the budget: others stand in
            members = self.items.all()
        if pools.is_free and not pools.may_defer:
            members = shuffled(members, generator(self.seed, "repeat", epoch))
        added = np.resize(members, short)
        return pools.with_more(added), added

    def _probed(self) -> Iterator[tuple[int, Pools]]:
        """Iterate over the epochs to count."""
        probes, is_declared, _ = variation(self.order)
        for epoch in probes:
            try:
                pools = self.pools(epoch)
            except BatchwrightError:
                raise
            except Exception:
                if epoch == probes[0] or is_declared:
                    raise
                return  # a user's own order that is not defined so far ahead
            yield epoch, pools
