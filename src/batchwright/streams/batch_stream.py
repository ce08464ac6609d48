"""Batches of a stream: the batchings of plans, over a bounded buffer."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from typing import Any

import numpy as np

from batchwright._checks import check_choice, whole_number
from batchwright._random import generator
from batchwright.batching import Batching
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
    Shard,
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
from batchwright.typing import IntArray, Last, Sample, State

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
    its share of the same batches without communication. At most `buffer_size` samples are held,
    besides the batch handed out. After the first batch, which waits for a full buffer, samples are
    read as batches are emitted. A sample after which eight buffers were read is emitted first.

    Args:
        samples: A sequence, a function ``start → iterator`` that begins with sample `start`, or
            anything else to iterate over; the same on every rank. Its `set_epoch`, if there is
            one, is called with `epoch` first.
        batching: How samples become batches: `TokenBudget`, `Packing`, `FixedSize`, or a function
            ``(order, lengths, rng) → Plan``.
        length: ``sample → length``, one whole number; None is `len`. Or a tuple of them, as many
            for every sample: one for each column, such as source and target. Called on every
            sample on every rank: keep it cheap, and do costly work on the batch.
        cut: ``(sample, start, stop) → sample``, for samples above the budget that are truncated
            or split; None is ``sample[start:stop]``. Of several columns, `start` and `stop` are
            tuples, and None cuts the sequences of a tuple, one for each column.
        buffer_size: Samples to hold. A larger buffer pads less and mixes further.
        seed: Zero or larger.
        epoch: Zero or larger: another epoch makes other batches.
        world_size: Ranks that share each update.
        rank: This process, from 0.
        accumulate: Batches of one update on each rank.
        part: ``(index, count)``: take only the samples ``index, index + count, …`` of the stream,
            as one of `count` workers of this rank. All guarantees hold for each part.
        presharded: `samples` is that part already: all of it is taken.
        last: What becomes of samples that are too few for a whole last update, however batches are
            split. ``"short"``: the last update has fewer batches, as many on every rank; where not
            every rank gets one, some samples are repeated, with a warning. ``"drop"``: they are
            left out, and listed in `dropped`. ``"repeat"``: the update is filled with repeated
            samples.

    Returns:
        An iterator of batches, lists of samples (under `Packing`, the samples of a row), with
        `state_dict` and `load_state_dict`. O(k log k) for each window of k samples; each sample
        is planned about twice.

    Raises:
        BudgetError: If a setting is out of range, or the buffer too small for two updates. When
            read: if a sample exceeds the budget and no policy was chosen.
        LengthsError: When read: if a length is not a whole number of at least 1, or a sample has
            more or fewer lengths than the first.
        SourceError: If `samples` cannot be read; when read: if there is none.
        PlanError: If rank, part, seed or epoch are out of range.

    Example:
        >>> from batchwright import TokenBudget
        >>> words = "a stream of words of unknown length for two ranks".split()
        >>> batches = list(stream(words, batching=TokenBudget(16), buffer_size=6))
        >>> all(len(batch) * max(map(len, batch)) <= 16 for batch in batches)
        True
        >>> sorted(sum(batches, [])) == sorted(words)
        True

        Pairs of a source and a target, padded each:

        >>> pairs = [([1] * source, [2] * (source + 1)) for source in (3, 1, 2, 3)]
        >>> sizes = lambda pair: (len(pair[0]), len(pair[1]))
        >>> batches = list(stream(pairs, length=sizes, batching=TokenBudget((6, 8)), buffer_size=4))
        >>> sorted(sorted(map(sizes, batch)) for batch in batches)
        [[(1, 2), (2, 3)], [(3, 4), (3, 4)]]
    """
    return BatchStream(
        _Arguments(
            samples=samples,
            batching=as_batching(batching),
            length=length or size_of,
            cut=cut or slice_of,
            buffer_size=buffer_size,
            seed=seed,
            epoch=epoch,
            world_size=world_size,
            rank=rank,
            accumulate=accumulate,
            part=part,
            presharded=presharded,
            last=last,
        )
    )


@dataclass(frozen=True)
class _Arguments:
    """The arguments of `stream`, checked."""

    samples: Samples
    batching: Batching
    length: Measure
    cut: Cut
    buffer_size: int
    seed: int
    epoch: int
    world_size: int
    rank: int
    accumulate: int
    part: tuple[int, int]
    presharded: bool
    last: Last

    def __post_init__(self) -> None:
        check = partial(whole_number, "stream")
        sizes = ("buffer_size", "world_size", "accumulate")
        numbers = {name: check(name, getattr(self, name)) for name in sizes}
        check_choice("stream", "last", self.last, ("short", "drop", "repeat"))
        check = partial(check, least=0, error=PlanError)
        numbers["rank"] = check("rank", self.rank, most=numbers["world_size"] - 1)
        numbers["seed"] = check("seed", self.seed, most=2**4096)
        numbers["epoch"] = check("epoch", self.epoch)
        for name, number in numbers.items():
            object.__setattr__(self, name, number)
        try:
            index, count = map(operator.index, self.part)
        except (TypeError, ValueError):
            index, count = -1, 0
        if not 0 <= index < count:
            raise PlanError(f"part={self.part}: expected (index, count) with 0 ≤ index < count.")
        object.__setattr__(self, "part", (index, count))
        layout, update = self.batching.layout, self.world_size * self.accumulate
        has_budget = layout.budget is not None or layout.caps is not None
        rows = 1 if has_budget or not layout.max_samples else layout.max_samples
        if self.buffer_size < rows * update + update:
            raise BudgetError(
                f"buffer_size={self.buffer_size} is too small for updates of {update} batches of "
                f"at least {rows} samples: expected {rows * update + update} or more, better a "
                "hundred times that."
            )


class BatchStream(Iterator[list[Sample]]):
    """One pass over a stream, made by `stream`.

    Attributes:
        dropped: Numbers in the stream of the samples that this pass dropped, because they exceed
            the budget or fill no whole update under ``last="drop"``; since it was resumed.
        opening: The first few samples; none if the pass was resumed.
    """

    def __init__(self, given: _Arguments) -> None:
        self._given, self._batching = given, given.batching
        settings = Settings(described(given.batching), given.buffer_size, given.last)
        taken = Shard() if given.presharded else Shard(*given.part)
        self._source = Source(given.samples, taken, given.epoch)
        self._intake = Intake(given.batching, given.length, given.cut, taken)
        self._start = self._now = Position(
            given.seed, given.epoch, given.part, settings, given.world_size, given.accumulate
        )
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
        return {"given": self._given, "at": self.state_dict(), "dropped": self.dropped}

    def __setstate__(self, state: State) -> None:
        self.__init__(state["given"])  # type: ignore[misc]
        self.load_state_dict(state["at"])
        self.dropped = list(state["dropped"])

    def __next__(self) -> list[Sample]:
        """Return this rank's next batch.

        Raises:
            PlanError: If the stream failed before: what was just read would be lost.
        """
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

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of a stream of the same arguments, `rank` apart.

        What was held is read again: just that of a sequence, at most some eight buffers of samples
        of a function ``start → iterator``, everything from the beginning of other sources. Under
        another batching, `buffer_size`, `world_size` or `accumulate`, exactly what was not emitted
        follows, in other batches.

        Raises:
            PlanError: If it is no state, or one of another seed, epoch or part. When read:
                if the samples or the settings are not those it was saved with.
            PlanError: If this pass has begun.
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
        batch: list[Sample] = self._held.samples[plan[emitted + self._given.rank]].tolist()
        for place in range(emitted, emitted + world_size):
            if not self._keeps:
                self._held.samples[plan[place]] = None  # of all ranks: not needed again
        emitted += world_size
        ended = self._now.is_last and emitted == len(plan)
        self._now = replace(self._now, emitted=emitted, ended=ended)
        return batch

    def _resume(self, position: Position) -> None:
        """Build the window again that a state was saved in."""
        then, now = position.settings, self._start.settings
        batching = self._batching
        if then.batching is not None and then.batching != now.batching:
            batching = rebuilt(then.batching)
        places = position.places
        samples = self._source.read_again(places, position.read)
        intake = replace(self._intake, batching=batching)
        self._held, _ = intake.again(samples, places, position.pieces)
        if not self._held.places.size:
            raise PlanError("the state says that nothing was held in the middle of a pass.")
        plan = self._planned(position, batching)
        hashed = None if plan is None else checksum(plan, self._held)
        if plan is None or hashed != position.batches or position.emitted > len(plan):
            raise PlanError(
                f"window {position.window} of the stream is another one than when the state was "
                "saved. Resume with the samples and the length= that the pass began with, and with "
                "the same batching if it is a function of yours."
            )
        self._loaded, self._now, self._windows = None, position, position.window + 1
        self._intake.num_columns = intake.num_columns
        shares = (position.world_size, position.accumulate)
        if shares == (self._given.world_size, self._given.accumulate) and then == now:
            self._begin(plan)
            return
        # What is left of the window is planned again with the next samples.
        if position.emitted:
            self._held = self._held.without(plan[: position.emitted].indices)
        if batching is not self._batching:  # under the budget there is now
            left = pieces_left(self._held)
            here = np.isin(places, self._held.places)
            kept = list(compress(samples, here.tolist()))
            self._held, dropped = self._intake.again(kept, places[here], left)
            self._drop(dropped)

    def _next_window(self) -> bool:
        """Fill the buffer and plan it; return whether there is anything left."""
        if self._plan is not None:
            self._held = self._held.without(self._plan.indices)
        self._held, self._arrived = self._held.joined(self._arrived), []
        size = self._given.buffer_size
        while not self._source.ended and (missing := size - self._held.num_samples) > 0:
            self._held = self._held.joined([self._read(missing)])
        if not self._held.places.size:
            self._check_not_empty()
            return False
        first, held = packed_places(np.unique(self._held.places), self._source.position)
        now = replace(
            self._start,
            window=self._windows,
            read=self._source.position,
            first=first,
            held=held,
            pieces=pieces_left(self._held),
            is_last=self._source.ended,
        )
        plan = self._planned(now, self._batching)
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
            number = self._intake.shard.number
            numbers = np.array([number(place) for place in self._held.places[again].tolist()])
            held, world_size = self._held.places.size, self._now.world_size
            warn_of_repeats(numbers, held, world_size, self._now.epoch)
        left = self._held.without(plan.indices).num_samples
        self._room = self._given.buffer_size - left

    def _planned(self, at: Position, batching: Batching) -> Plan | None:
        """Plan the buffer as it is; None where nothing is left of the last window."""
        draw = partial(generator, at.seed, "stream", at.epoch, *at.shard, at.window)
        shares: dict[str, Any] = {"world_size": at.world_size, "accumulate": at.accumulate}
        lengths, settings = self._held.lengths, at.settings
        if at.is_last:
            return plan_rest(lengths, batching, **shares, last=settings.last, draw=draw)
        overdue = self._held.places < at.read - _PATIENCE * settings.buffer_size
        return plan_window(lengths, batching, **shares, overdue=overdue, draw=draw)

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
                "the stream gave no sample. An iterator can be read once: give a sequence, or a "
                "function start → iterator."
            )
