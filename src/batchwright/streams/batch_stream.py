"""Batches of a stream: the batchings of plans, over a bounded buffer."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import compress
from typing import Any

import numpy as np

from batchwright.batching import Batching
from batchwright.batching.custom import described, rebuilt
from batchwright.checks import check_choice, check_positive
from batchwright.errors import BudgetError, PlanError, PlanMismatchError, SourceError
from batchwright.plans import Plan
from batchwright.seeding import generator
from batchwright.sharding import warn_of_repeats
from batchwright.streams.buffer import Buffer, Cut, Intake, Measure, size_of, slice_of
from batchwright.streams.source import Samples, Shard, Source
from batchwright.streams.state import (
    Position,
    Settings,
    checksum,
    packed_places,
    pieces_left,
    read_position,
)
from batchwright.streams.window import plan_rest, plan_window
from batchwright.typing import IntArray, Last

_PATIENCE = 8
"""Buffers that may be read after a sample before it is emitted first."""


_OPENING = 4
"""Samples that are kept for ranks to compare."""


class BatchStream(Iterator[list[Any]]):
    """One pass over a stream: made by `stream`, which describes it.

    Attributes:
        dropped: Numbers in the stream of the samples that this pass dropped because they exceed
            the budget, or fill no whole update under ``last="drop"``; a pass that was resumed lists
            those since.
        opening: The first few samples; none if the pass was resumed.
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
        last: Last,
    ) -> None:
        numbers = {"buffer_size": buffer_size, "world_size": world_size, "accumulate": accumulate}
        check_positive("stream", **numbers)
        check_choice("stream", "last", last, ("short", "drop", "repeat"))
        buffer_size, world_size, accumulate = map(operator.index, numbers.values())
        shard, rank = _shard(part), _whole("rank", rank)
        if not 0 <= rank < world_size:
            raise PlanError(f"rank={rank} is not in a world of {world_size}.")
        _check_buffer(buffer_size, batching, world_size * accumulate)
        generator(seed, "stream", epoch)  # refuses what is no seed, or no epoch
        seed, epoch = operator.index(seed), operator.index(epoch)
        self._arguments = {
            "samples": samples,
            "batching": batching,
            "length": length,
            "cut": cut,
            "buffer_size": buffer_size,
            "seed": seed,
            "epoch": epoch,
            "world_size": world_size,
            "rank": rank,
            "accumulate": accumulate,
            "part": (shard.index, shard.count),
            "presharded": presharded,
            "last": last,
        }
        self._batching, self._buffer_size, self._rank = batching, buffer_size, rank
        self._settings = Settings(described(batching), buffer_size, last)
        taken = Shard() if presharded else shard
        self._source = Source(samples, taken, epoch)
        self._intake = Intake(batching, length or size_of, cut or slice_of, taken)
        place = (shard.index, shard.count)
        self._now = Position(seed, epoch, place, self._settings, world_size, accumulate)
        self._shares = (world_size, accumulate)
        self._loaded: Position | None = None
        self._held = Buffer.empty()
        self._arrived: list[Buffer] = []
        self._plan: Plan | None = None  # of the window
        self._windows = 0  # that were planned
        self._has_begun = self._has_failed = False
        self._room = 0  # samples that may be read while the window is emitted
        self._keeps = False  # what was emitted: it comes once more
        self.dropped: list[int] = []
        self.opening: list[Any] = []

    def __getstate__(self) -> dict[str, Any]:
        """Go to another process: what is read and held stays, and is read again there."""
        return {"arguments": self._arguments, "at": self.state_dict(), "dropped": self.dropped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive, and go on where the stream was."""
        self.__init__(**state["arguments"])  # type: ignore[misc]
        self.load_state_dict(state["at"])
        self.dropped = list(state["dropped"])

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
        self._loaded = position if position.ended or position.batches is not None else None

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
            if not self._keeps:
                self._held.samples[plan[place]] = None  # of all ranks: not needed any more
        emitted += world_size
        ended = self._now.is_last and emitted == len(plan)
        self._now = replace(self._now, emitted=emitted, ended=ended)
        return batch

    def _resume(self, position: Position) -> None:
        """Build the window again that a state was saved in."""
        then = position.settings
        batching = self._batching
        if then.batching is not None and then.batching != self._settings.batching:
            batching = rebuilt(then.batching)
        places = position.places
        samples = self._source.read_again(places, position.read)
        intake = replace(self._intake, batching=batching)
        self._held, _ = intake.again(samples, places, position.pieces)
        if not self._held.places.size:
            raise PlanMismatchError("the state says that nothing was held in the middle of a pass.")
        plan = self._planned(position, batching)
        hashed = None if plan is None else checksum(plan, self._held)
        if plan is None or hashed != position.batches or position.emitted > len(plan):
            raise PlanMismatchError(
                f"window {position.window} of the stream comes out as another one than when the "
                "state was saved. Resume with the samples and length= that the pass began with; "
                "the batching, if it is a function of yours, has to be the same as well."
            )
        self._loaded, self._now, self._windows = None, position, position.window + 1
        self._intake.num_columns = intake.num_columns
        same_shares = self._shares == (position.world_size, position.accumulate)
        if same_shares and then == self._settings:
            self._begin(plan)
            return
        # What is left of the window is planned anew, with what comes.
        if position.emitted:
            self._held = _without(self._held, plan[: position.emitted].indices)
        if batching is not self._batching:
            self._refit(samples, places)

    def _refit(self, samples: list[Any], places: IntArray) -> None:
        """Take in what is left of a window once more, under the budget there is now."""
        left = pieces_left(self._held)
        here = np.isin(places, self._held.places)
        kept = list(compress(samples, here.tolist()))
        self._held, dropped = self._intake.again(kept, places[here], left)
        self._drop(dropped)

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
            self._settings,
            *self._shares,
            window=self._windows,
            read=self._source.position,
            first=first,
            held=held,
            pieces=pieces_left(self._held),
            is_last=self._source.ended,
        )
        plan = self._planned(now, self._batching)
        if now.is_last:
            rest = self._held if plan is None else _without(self._held, plan.indices)
            self._drop(np.unique(rest.places))
        if plan is None:
            return False
        self._now, self._windows = replace(now, batches=checksum(plan, self._held)), now.window + 1
        self._begin(plan)
        return True

    def _begin(self, plan: Plan) -> None:
        self._plan = plan
        again = plan.indices[np.unique(plan.indices).size :]  # only the last window has any
        self._keeps = again.size > 0
        if self._keeps and self._now.settings.last == "short":
            number = self._intake.shard.number
            numbers = np.array([number(place) for place in self._held.places[again].tolist()])
            held, world_size = self._held.places.size, self._now.world_size
            warn_of_repeats(numbers, held, world_size, self._now.epoch)
        self._room = self._buffer_size - _without(self._held, plan.indices).num_samples

    def _planned(self, at: Position, batching: Batching) -> Plan | None:
        """Plan the buffer as it is; None: of the last window nothing is left."""
        draw = partial(generator, at.seed, "stream", at.epoch, *at.shard, at.window)
        shares: dict[str, Any] = {"world_size": at.world_size, "accumulate": at.accumulate}
        lengths, settings = self._held.lengths, at.settings
        if at.is_last:
            return plan_rest(lengths, batching, **shares, last=settings.last, draw=draw)
        overdue = self._held.places < at.read - _PATIENCE * settings.buffer_size
        return plan_window(lengths, batching, **shares, overdue=overdue, draw=draw)

    def _read_ahead(self, share: float) -> None:
        """Read what replaces the samples that were emitted, so that no window has to wait."""
        arrived = sum(each.num_samples for each in self._arrived)
        missing = int(share * self._room) - arrived
        if missing > 0 and not self._source.ended:
            self._arrived.append(self._read(missing))

    def _read(self, count: int) -> Buffer:
        place = self._source.position
        samples = self._source.read(count)
        if not place:
            self.opening = samples[:_OPENING]
        arrived, dropped = self._intake(samples, np.arange(place, place + len(samples)))
        self._drop(dropped)
        return arrived

    def _drop(self, places: IntArray) -> None:
        self.dropped.extend(self._intake.shard.number(place) for place in places.tolist())

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


def _whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise PlanError(f"{name}={value!r}: expected an integer.") from error


def _shard(part: tuple[int, int]) -> Shard:
    try:
        index, count = map(operator.index, part)
    except (TypeError, ValueError):
        index, count = -1, 0
    if not 0 <= index < count:
        raise PlanError(f"part={part}: expected (index, count) with 0 ≤ index < count.")
    return Shard(index, count)


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
