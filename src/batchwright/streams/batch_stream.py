"""Batches of a stream: the batchings of plans, over a bounded buffer."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from batchwright.batching import Batching
from batchwright.checks import check_positive
from batchwright.errors import BudgetError, PlanError, PlanMismatchError, SourceError
from batchwright.plans import Plan
from batchwright.seeding import generator
from batchwright.streams.buffer import Buffer, Cut, Intake, Measure, size_of, slice_of
from batchwright.streams.source import Samples, Shard, Source
from batchwright.streams.state import (
    Position,
    checksum,
    packed_places,
    pieces_left,
    read_position,
    without_gone_pieces,
)
from batchwright.streams.window import plan_rest, plan_window
from batchwright.typing import IntArray

_PATIENCE = 8
"""Buffers that may be read after a sample before it is emitted first."""


class BatchStream(Iterator[list[Any]]):
    """One pass over a stream: made by `stream`, which describes it.

    Attributes:
        dropped: Numbers in the stream of the samples that this pass dropped because they exceed
            the budget; a pass that was resumed lists those since.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        batching: Batching,
        length: Measure | None,
        cut: Cut | None,
        buffer_size: int,
        seed: int,
        epoch: int,
        world_size: int,
        rank: int,
        accumulate: int,
        part: tuple[int, int],
        presharded: bool,
    ) -> None:
        check_positive(
            "stream",
            buffer_size=buffer_size,
            world_size=world_size,
            accumulate=accumulate,
        )
        shard = Shard(operator.index(part[0]), operator.index(part[1]))
        if not 0 <= shard.index < shard.count:
            raise PlanError(f"part={part}: expected (index, count) with 0 ≤ index < count.")
        if not 0 <= rank < world_size:
            raise PlanError(f"rank={rank} is not in a world of {world_size}.")
        _check_buffer(buffer_size, batching, world_size * accumulate)
        generator(seed, "stream", epoch)  # refuses what is no seed, or no epoch
        self._batching, self._buffer_size, self._rank = batching, buffer_size, rank
        taken = Shard() if presharded else shard
        self._source = Source(samples, taken)
        self._intake = Intake(batching, length or size_of, cut or slice_of, taken)
        self._now = Position(seed, epoch, (shard.index, shard.count), world_size, accumulate)
        self._shares = (world_size, accumulate)
        self._loaded: Position | None = None
        self._held = Buffer.empty()
        self._arrived: list[Buffer] = []
        self._plan: Plan | None = None  # of the window
        self._windows = 0  # that were planned
        self._has_begun = self._has_failed = False
        self._room = 0  # samples that may be read while the window is emitted
        self.dropped: list[int] = []

    def __next__(self) -> list[Any]:
        """Return this rank's next batch.

        Raises:
            PlanError: If the stream failed before. What a broken iterator takes for its end would
                else be taken for the stream's, and what was just read would be lost.
        """
        if self._has_failed:
            raise PlanError(
                "the stream failed while it read ahead, and cannot go on. Make a new one, and "
                "load this one's state_dict(): nothing is lost."
            )
        self._has_begun = self._has_failed = True  # until it is done
        batch = self._next_batch()
        self._has_failed = False
        if batch is None:
            self._now = replace(self._loaded or self._now, ended=True)
            self._loaded = None
            raise StopIteration
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Say where the stream is: a few KB, which JSON can keep, the same on every rank.

        No sample is in it, only which ones were held. Save it at the end of an update.
        """
        return (self._now if self._loaded is None else self._loaded).state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was saved: the identical rest follows.

        What was held is read again, at most some eight buffers of samples of a function
        ``start → iterator``, just what was held of a sequence, and everything from the beginning
        of other sources. No batch is made again but the window's. Under another `world_size` or
        `accumulate`, exactly what was not emitted follows, in other batches.

        Args:
            state: From `state_dict` of a stream of the same arguments; `rank` does not matter.

        Raises:
            PlanMismatchError: If it is no state, or one of another seed, epoch or part. When read:
                if the samples or the settings are not those it was saved with.
            PlanError: If this pass has begun.
        """
        if self._has_begun:
            raise PlanError("this stream has begun: load a state into a new one.")
        position = read_position(state, expected=self._now)
        self._loaded = position if position.ended or position.checksum is not None else None

    def _next_batch(self) -> list[Any] | None:
        if self._loaded is not None and not self._loaded.ended:
            self._resume(self._loaded)
        if (self._loaded or self._now).ended:
            return None
        while self._plan is None or self._now.emitted >= len(self._plan):
            if not self._next_window():
                return None
        plan, emitted, world_size = self._plan, self._now.emitted, self._now.world_size
        self._read_ahead(int(plan.offsets[emitted]) / plan.indices.size)
        batch: list[Any] = self._held.samples[plan[emitted + self._rank]].tolist()
        for place in range(emitted, emitted + world_size):
            self._held.samples[plan[place]] = None  # of all ranks: not needed any more
        emitted += world_size
        ended = self._now.is_last and emitted == len(plan)
        self._now = replace(self._now, emitted=emitted, ended=ended)
        return batch

    def _resume(self, position: Position) -> None:
        """Build the window again that a state was saved in."""
        places = position.places
        samples = self._source.read_again(places, position.read)
        held, _ = self._intake(samples, places)
        self._held = without_gone_pieces(held, position.pieces)
        plan = self._planned(position)
        if checksum(plan, self._held) != position.checksum or position.emitted > len(plan):
            raise PlanMismatchError(
                f"window {position.window} of the stream comes out as another one than when the "
                "state was saved. Resume with the samples, length=, batching and buffer_size that "
                "the pass began with."
            )
        self._loaded, self._now, self._windows = None, position, position.window + 1
        if self._shares == (position.world_size, position.accumulate):
            self._begin(plan)
        elif position.emitted:  # other ranks: what is left of the window is planned anew
            self._held = _without(self._held, plan[: position.emitted].indices)

    def _next_window(self) -> bool:
        """Fill the buffer and plan it; return whether there is anything left."""
        if self._plan is not None:
            self._held = _without(self._held, self._plan.indices)
        self._held, self._arrived = self._held.joined(self._arrived), []
        while not self._source.ended:
            missing = self._buffer_size - self._held.num_samples
            if missing < 1:
                break
            self._held = self._held.joined([self._read(missing)])
        if not self._held.places.size:
            self._check_not_empty()
            return False
        first, held = packed_places(np.unique(self._held.places), self._source.position)
        now = Position(
            self._now.seed,
            self._now.epoch,
            self._now.shard,
            *self._shares,
            window=self._windows,
            read=self._source.position,
            first=first,
            held=held,
            pieces=pieces_left(self._held),
            is_last=self._source.ended,
        )
        plan = self._planned(now)
        self._now, self._windows = replace(now, checksum=checksum(plan, self._held)), now.window + 1
        self._begin(plan)
        return True

    def _begin(self, plan: Plan) -> None:
        self._plan = plan
        self._room = self._buffer_size - _without(self._held, plan.indices).num_samples

    def _planned(self, at: Position) -> Plan:
        """Plan the buffer as it is."""
        draw = partial(generator, at.seed, "stream", at.epoch, *at.shard, at.window)
        shares = {"world_size": at.world_size, "accumulate": at.accumulate}
        if at.is_last:
            return plan_rest(self._held.lengths, self._batching, **shares, draw=draw)
        overdue = self._held.places < at.read - _PATIENCE * self._buffer_size
        return plan_window(self._held.lengths, self._batching, **shares, overdue=overdue, draw=draw)

    def _read_ahead(self, share: float) -> None:
        """Read what replaces the samples that were emitted, so that no window has to wait."""
        arrived = sum(each.num_samples for each in self._arrived)
        missing = int(share * self._room) - arrived
        if missing > 0 and not self._source.ended:
            self._arrived.append(self._read(missing))

    def _read(self, count: int) -> Buffer:
        place = self._source.position
        samples = self._source.read(count)
        arrived, dropped = self._intake(samples, np.arange(place, place + len(samples)))
        self.dropped.extend(self._intake.shard.number(gone) for gone in dropped.tolist())
        return arrived

    def _check_not_empty(self) -> None:
        if self._windows:
            return
        if self._source.position and self._now.shard[1] == 1:
            layout = self._batching.layout
            raise BudgetError(
                f"all {self._source.position} samples of the stream exceed the budget of "
                f"{layout.budget if layout.caps is None else layout.caps} tokens. Raise it."
            )
        if not self._source.position and self._now.shard[0] == 0:
            raise SourceError(
                "the stream gave no sample. If it is an iterator, it can be gone through once: "
                "give a sequence, or a function start → iterator."
            )


def _without(buffer: Buffer, entries: IntArray) -> Buffer:
    keep = np.ones(buffer.places.size, dtype=np.bool_)
    keep[entries] = False
    return buffer.take(keep)


def _check_buffer(buffer_size: int, batching: Batching, update: int) -> None:
    """Raise if the buffer cannot hold an update and leave enough to end with."""
    layout = batching.layout
    has_budget = layout.budget is not None or layout.caps is not None
    rows = 1 if has_budget or not layout.max_samples else layout.max_samples
    if buffer_size < rows * update + update:
        raise BudgetError(
            f"buffer_size={buffer_size} is too small for updates of {update} batches of at least "
            f"{rows} samples: expected {rows * update + update} or more, better a hundred times "
            "that."
        )
