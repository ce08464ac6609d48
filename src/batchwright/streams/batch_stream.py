"""Batches of a stream: the batchings of plans, over a bounded buffer."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import compress

import numpy as np

from batchwright._checks import check_choice, whole_number
from batchwright._random import generator
from batchwright.batching.custom import BatchingFunction, as_batching, described, rebuilt
from batchwright.errors import BudgetError, PlanError, SourceError
from batchwright.plans import Plan
from batchwright.sharding import warn_of_repeats
from batchwright.streams.intake import (
    Buffer,
    Cut,
    Intake,
    Measure,
    Samples,
    Source,
    size_of,
    slice_of,
)
from batchwright.streams.state import (
    Position,
    Settings,
    checksum,
    packed_places,
    pieces_left,
    read_position,
)
from batchwright.streams.window import plan_rest, plan_window
from batchwright.typing import Batching, IntArray, Last, Sample, State

_PATIENCE = 8
"""Buffers that may be read after a sample before it is emitted first."""

_OPENING = 4
"""Samples that are kept for ranks to compare."""


def stream(
    samples: Samples,
    *,
    batching: Batching | BatchingFunction,
    length: Measure | None = None,
    cut: Cut | None = None,
    buffer_size: int = 20_000,
    seed: int = 0,
    epoch: int = 0,
    world_size: int = 1,
    rank: int = 0,
    accumulate: int = 1,
    part: tuple[int, int] = (0, 1),
    presharded: bool = False,
    last: Last = "short",
) -> BatchStream:
    """Batch samples whose lengths are only known when they arrive.

    Reads `buffer_size` samples, plans them as an epoch, emits a random half of the updates, and
    plans what stays together with the next samples. So long and short ones mix over windows,
    and no window ends in half-filled batches.

    Guarantees that every sample is emitted exactly once (or dropped or cut, where the batching's
    `oversize` says so), that no batch exceeds its budget, and that every rank gets the same
    number of batches, a multiple of `accumulate`: at the end, batches are split for it. It is a
    pure function of the arguments and the samples: all ranks read the whole stream, and each takes
    its share of the same batches without communication. A sample after which eight buffers were
    read is emitted first.

    Args:
        samples: A sequence, a function ``start → iterator`` that begins with sample `start`, or
            anything else to iterate over; the same on every rank. Its `set_epoch`, if there is
            one, is called with `epoch` first.
        batching: How samples become batches, as in `Planner`.
        length: ``sample → length``, one whole number; or a tuple of them, one for each column, such
            as source and target. None is `len`. Called on every sample on every rank.
        cut: ``(sample, start, stop) → sample``, for samples above the budget that are truncated
            or split; None is ``sample[start:stop]``. Of several columns, `start` and `stop` are
            tuples, and None cuts the sequences of a tuple, one for each column.
        buffer_size: The most samples to hold. A larger buffer pads less and mixes further.
        seed: Zero or larger.
        epoch: Zero or larger: another epoch makes other batches.
        world_size: Ranks that share each update.
        rank: This process, from 0.
        accumulate: Batches of one update on each rank.
        part: ``(index, count)``: take only the samples ``index, index + count, …`` of the stream,
            as one of `count` workers of this rank. All guarantees hold for each part.
        presharded: `samples` is that part already: all of it is taken.
        last: What becomes of samples that are too few for a whole last update, as in `Planner`;
            what is left out is listed in `dropped`.

    Returns:
        An iterator of batches, lists of samples (under `Packing`, the samples of a row), with
        `state_dict` and `load_state_dict`. O(k log k) for each window of k samples; each sample
        is planned about twice.

    Raises:
        BudgetError: If a setting is out of range, the buffer too small for two updates, or a
            sample exceeds the budget and no policy was chosen.
        LengthsError: If a length is not a whole number of at least 1, or a sample has more or
            fewer lengths than the first.
        SourceError: If `samples` cannot be read, or there is none.
        PlanError: If rank, part, seed or epoch are out of range.

    Example:
        >>> from batchwright import TokenBudget
        >>> words = "a stream of words of unknown length for two ranks".split()
        >>> batches = list(stream(words, batching=TokenBudget(16), buffer_size=6))
        >>> all(len(batch) * max(map(len, batch)) <= 16 for batch in batches)
        True
    """
    whole = partial(whole_number, "stream")
    buffer_size = whole("buffer_size", buffer_size)
    world_size = whole("world_size", world_size)
    accumulate = whole("accumulate", accumulate)
    whole = partial(whole, least=0, error=PlanError)
    rank = whole("rank", rank, most=world_size - 1)
    seed = whole("seed", seed, most=2**4096)
    epoch = whole("epoch", epoch)
    check_choice("stream", "last", last, ("short", "drop", "repeat"))
    try:
        index, count = map(operator.index, part)
    except (TypeError, ValueError):
        index, count = -1, 0
    if not 0 <= index < count:
        raise PlanError(f"part={part}: expected (index, count) with 0 ≤ index < count.")
    checked = as_batching(batching)
    layout, update = checked.layout, world_size * accumulate
    rows = 1 if layout.limits is not None else layout.max_samples or 1
    if buffer_size < rows * update + update:
        raise BudgetError(
            f"buffer_size={buffer_size} is too small for updates of {update} batches of at least "
            f"{rows} samples: expected {rows * update + update} or more, better a hundred times "
            "that."
        )
    settings = Settings(described(checked), buffer_size, last)
    start = Position(seed, epoch, (index, count), settings, world_size, accumulate)
    source = Source(samples, (0, 1) if presharded else (index, count), epoch)
    intake = Intake(checked, length or size_of, cut or slice_of, source.number)
    return BatchStream(source, intake, start, rank)


class BatchStream(Iterator[list[Sample]]):
    """One pass over a stream, made by `stream`.

    Attributes:
        dropped: Numbers in the stream of the samples that this pass dropped, because they exceed
            the budget or fill no whole update under ``last="drop"``; since it was resumed.
        opening: The first few samples; none if the pass was resumed.
    """

    def __init__(self, source: Source, intake: Intake, start: Position, rank: int) -> None:
        self._source, self._intake, self._rank = source, intake, rank
        self._start = self._now = start
        self._loaded: Position | None = None
        self._held = Buffer.empty()
        self._arrived: list[Buffer] = []
        self._plan: Plan | None = None  # of the window
        self._windows = 0  # that were planned
        self._has_begun = self._has_failed = False
        self._room = 0  # samples that may be read while the window is emitted
        self._keeps = False  # what was emitted: it is repeated
        self.dropped: list[int] = []
        self.opening: list[Sample] = []

    def __getstate__(self) -> State:
        """Pickle the arguments and the position: what is held is read again."""
        made = (self._source.fresh(), self._intake, self._start, self._rank)
        return {"made": made, "at": self.state_dict(), "dropped": self.dropped}

    def __setstate__(self, state: State) -> None:
        self.__init__(*state["made"])  # type: ignore[misc]
        self.load_state_dict(state["at"])
        self.dropped = list(state["dropped"])

    def __next__(self) -> list[Sample]:
        """Return this rank's next batch."""
        if self._has_failed:
            raise PlanError(
                "the stream failed while it read ahead, and cannot continue. Make a new one, and "
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

    def state_dict(self) -> State:
        """Return the position: a few KB, which JSON can keep, the same on every rank.

        It holds no samples, only their numbers. Save it at the end of an update.
        """
        return (self._now if self._loaded is None else self._loaded).state()

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a state of a stream of the same arguments, `rank` apart.

        What was held is read again: just that of a sequence, at most some eight buffers of samples
        of a function ``start → iterator``, everything from the beginning of other sources. Under
        another batching, `buffer_size`, `world_size` or `accumulate`, exactly what was not emitted
        follows, in other batches.

        Raises:
            PlanError: If it is no state, or one of another seed, epoch or part, or this pass has
                begun. When read: if the samples or the settings are not those it was saved with.
        """
        if self._has_begun:
            raise PlanError("this stream has begun: load a state into a new one.")
        position = read_position(state, expected=self._start)
        self._loaded = position if position.ended or position.batches is not None else None

    def _next_batch(self) -> list[Sample] | None:
        if self._loaded is not None and not self._loaded.ended:
            self._resume(self._loaded)
        if (self._loaded or self._now).ended:
            return None
        while self._plan is None or self._now.emitted >= len(self._plan):
            if not self._next_window():
                return None
        plan, emitted, world_size = self._plan, self._now.emitted, self._now.world_size
        self._read_ahead(int(plan.offsets[emitted]) / plan.indices.size)
        batch: list[Sample] = self._held.samples[plan[emitted + self._rank]].tolist()
        if not self._keeps:
            for place in range(emitted, emitted + world_size):
                self._held.samples[plan[place]] = None  # of all ranks: not needed again
        emitted += world_size
        ended = self._now.is_last and emitted == len(plan)
        self._now = replace(self._now, emitted=emitted, ended=ended)
        return batch

    def _resume(self, position: Position) -> None:
        """Build the window again that a state was saved in."""
        then, now, intake = position.settings, self._start.settings, self._intake
        if then.batching is not None and then.batching != now.batching:
            intake = replace(intake, batching=rebuilt(then.batching))
        places = position.places
        samples = self._source.read_again(places, position.read)
        self._held, _ = intake.again(samples, places, position.pieces)
        if not self._held.places.size:
            raise PlanError("the state says that nothing was held in the middle of a pass.")
        plan = self._planned(position, intake.batching)
        hashed = None if plan is None else checksum(plan, self._held)
        if plan is None or hashed != position.batches or position.emitted > len(plan):
            raise PlanError(
                f"window {position.window} of the stream is another one than when the state was "
                "saved. Resume with the samples and the length= that the pass began with, and with "
                "the same batching if it is a function of yours."
            )
        self._loaded, self._now, self._windows = None, position, position.window + 1
        self._intake.num_columns = intake.num_columns
        start = self._start
        same_shares = position.world_size == start.world_size
        if same_shares and position.accumulate == start.accumulate and then == now:
            self._begin(plan)
            return
        # What is left of the window is planned again with the next samples.
        if position.emitted:
            self._held = self._held.without(plan[: position.emitted].indices)
        if intake is not self._intake:  # under the budget there is now
            left = pieces_left(self._held)
            here = np.isin(places, self._held.places)
            kept = list(compress(samples, here.tolist()))
            self._held, dropped = self._intake.again(kept, places[here], left)
            self._drop(dropped)

    def _next_window(self) -> bool:
        """Fill the buffer and plan it; return whether there is anything left."""
        source, start = self._source, self._start
        if self._plan is not None:
            self._held = self._held.without(self._plan.indices)
        self._held, self._arrived = self._held.joined(self._arrived), []
        size = start.settings.buffer_size
        while not source.ended and (missing := size - self._held.num_samples) > 0:
            self._held = self._held.joined([self._read(missing)])
        if not self._held.places.size:
            self._check_not_empty()
            return False
        first, held = packed_places(np.unique(self._held.places), source.position)
        now = replace(
            start,
            window=self._windows,
            read=source.position,
            first=first,
            held=held,
            pieces=pieces_left(self._held),
            is_last=source.ended,
        )
        plan = self._planned(now, self._intake.batching)
        if now.is_last:
            rest = self._held if plan is None else self._held.without(plan.indices)
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
            numbers = self._source.number(self._held.places[again])
            held, world_size = self._held.places.size, self._now.world_size
            warn_of_repeats(numbers, held, world_size, self._now.epoch)
        left = self._held.without(plan.indices).num_samples
        self._room = self._start.settings.buffer_size - left

    def _planned(self, at: Position, batching: Batching) -> Plan | None:
        """Plan the buffer as it is; None where nothing is left of the last window."""
        draw = partial(generator, at.seed, "stream", at.epoch, *at.shard, at.window)
        lengths, world_size, accumulate = self._held.lengths, at.world_size, at.accumulate
        if at.is_last:
            last = at.settings.last
            return plan_rest(lengths, batching, world_size, accumulate, last=last, draw=draw)
        overdue = self._held.places < at.read - _PATIENCE * at.settings.buffer_size
        return plan_window(lengths, batching, world_size, accumulate, overdue=overdue, draw=draw)

    def _read_ahead(self, share: float) -> None:
        """Read as many samples as were emitted, so that no window has to wait."""
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
        self.dropped.extend(self._source.number(places).tolist())

    def _check_not_empty(self) -> None:
        """Refuse a stream without samples; a part may have none where others have some."""
        read, (index, count) = self._source.position, self._now.shard
        if self._windows:
            return
        if read and count == 1:
            limits = self._intake.batching.layout.limits
            raise BudgetError(
                f"all {read} samples of the stream exceed the budget of {limits} tokens. Raise it."
            )
        if not read and index == 0:
            raise SourceError(
                "the stream gave no sample. An iterator can be read once: give a sequence, or a "
                "function start → iterator."
            )
