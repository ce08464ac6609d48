"""The position of a killed run's checkpoints in its epoch, and the samples of each epoch."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, chain, pairwise, zip_longest

import numpy as np

from batchwright.doctor.records import Batch, Pass, Rank, Run
from batchwright.typing import IntArray

NOTHING: IntArray = np.empty(0, np.int64)
"""No samples."""

FEW = 8
"""Orders of fewer samples are not compared."""


@dataclass(frozen=True, eq=False)
class Epoch:
    """The samples that all ranks together took in one pass, as far as it was seen."""

    samples: IntArray  # in the order of the epoch: batch by batch, over all ranks
    is_over: bool  # whether its loaders reached their end


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint, and its position in the epoch that it was written in."""

    update: int  # the update after which it was written, from 1
    epoch: int  # the epoch that has to continue; 0 is the one in which the run began
    kept: IntArray  # samples of that epoch that were trained on before; none between two epochs
    following: IntArray  # samples that the run took next, to the end of that epoch or of the run

    @property
    def is_between(self) -> bool:
        """Whether it was written between two epochs."""
        return not self.kept.size

    def leads_to(self, samples: IntArray) -> bool:
        """Check whether samples are in the order in which the killed run took them."""
        size = min(self.following.size, samples.size)
        return size >= FEW and np.array_equal(self.following[:size], samples[:size])


@dataclass(frozen=True, eq=False)
class Taken:
    """What a rank took from its training loader."""

    passes: tuple[Pass, ...]
    by_update: tuple[int, ...]  # batches taken until the end of each update
    skipped: int  # batches that its loop took at the start without training on them

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Batches taken until the end of each pass."""
        return tuple(accumulate(len(each.batches) for each in self.passes))

    @cached_property
    def begin(self) -> int:
        """The pass in which training began."""
        return bisect_right(self.ends, self.skipped)

    @property
    def num_epochs(self) -> int:
        """Passes in which it trained."""
        return len(self.passes) - self.begin

    def epoch_at(self, count: int) -> int:
        """Return the epoch in which this number of batches was taken; between two, the earlier."""
        return bisect_left(self.ends, count) - self.begin

    def pass_of(self, epoch: int) -> Pass | None:
        """Return the pass of an epoch; None if there is none."""
        number = epoch + self.begin
        return self.passes[number] if number < len(self.passes) else None

    def part(self, epoch: int, start: int = 0, stop: int | None = None) -> tuple[Batch, ...]:
        """Return the batches of an epoch from one count of taken batches to another."""
        found = self.pass_of(epoch)
        if found is None:
            return ()
        end = self.ends[epoch + self.begin]
        before = end - len(found.batches)
        low, high = max(start, self.skipped) - before, (end if stop is None else stop) - before
        return found.batches[max(low, 0) : max(high, 0)]


def taken_by(run: Run) -> tuple[Taken, ...] | None:
    """Return what each rank took.

    Returns:
        None if the samples are unknown: a rank is missing, samples are not identified, or several
        loaders were read in turns.
    """
    if not run.ranks or len(run.ranks) != run.world_size:
        return None
    found = [_taken(each) for each in run.ranks]
    known = tuple(each for each in found if each is not None)
    return known if len(known) == len(found) else None


def _taken(rank: Rank) -> Taken | None:
    # Trainers resume with another loader, which skips batches: its pass is the first.
    loaders = [each for each in rank.loaders if each.trains]
    passes = [each for loader in loaders for each in loader.passes if each.batches]
    passes.sort(key=lambda each: each.batches[0].time)
    in_turns = len(loaders) > 1 and any(
        one.batches[-1].time > other.batches[0].time for one, other in pairwise(passes)
    )
    if in_turns or not rank.updates or not all(each.is_identified for each in passes):
        return None
    by_update = tuple(accumulate(len(each.batches) for each in rank.updates))
    return Taken(tuple(passes), by_update, _skipped(rank)) if by_update[-1] else None


def _skipped(rank: Rank) -> int:
    """Count the batches that a loop took before its first update without training on them."""
    first, *others = rank.updates
    if all(len(each.batches) == len(each.backwards) for each in others):
        usual = len(first.backwards)
    else:
        usual = max(len(each.batches) for each in others)
    return max(0, len(first.batches) - usual) if usual else 0


def together(parts: Sequence[Sequence[Batch]]) -> IntArray:
    """Join the samples of ranks: the first batch of each, the second of each, and so on."""
    batches = (each for each in chain.from_iterable(zip_longest(*parts)) if each is not None)
    samples = [each.samples for each in batches if each.samples is not None]
    return np.concatenate(samples) if samples else NOTHING


def epochs_of(run: Run) -> tuple[Epoch, ...]:
    """Return what all ranks took, epoch by epoch; empty if unknown."""
    taken = taken_by(run)
    return tuple(_epochs(taken)) if taken is not None else ()


def _epochs(taken: Sequence[Taken]) -> Iterator[Epoch]:
    for number in range(min(each.num_epochs for each in taken)):
        passes = [each.pass_of(number) for each in taken]
        is_over = all(each is not None and each.is_complete for each in passes)
        yield Epoch(together([each.part(number) for each in taken]), is_over)


def checkpoints_of(run: Run, earlier: IntArray = NOTHING) -> Iterator[Checkpoint]:
    """Yield the checkpoints of a run, the last one first.

    Args:
        run: A run that was killed.
        earlier: Samples that earlier runs had trained on in the epoch in which it began.

    Yields:
        The checkpoints; none if their positions are unknown.
    """
    taken = taken_by(run)
    if taken is None:
        return
    epochs = tuple(_epochs(taken))
    saves = {update for rank in run.ranks for update in rank.saves if update > 0}
    fewest = min(len(each.by_update) for each in taken)
    for update in sorted(saves, reverse=True):
        if update <= fewest:
            counts = [each.by_update[update - 1] for each in taken]
            found = _checkpoint(run, taken, epochs, update, counts, earlier)
            if found is not None:
                yield found


def _checkpoint(  # noqa: PLR0917 -- what is known of one checkpoint
    run: Run,
    taken: Sequence[Taken],
    epochs: Sequence[Epoch],
    update: int,
    counts: Sequence[int],
    earlier: IntArray,
) -> Checkpoint | None:
    numbers = {each.epoch_at(count) for each, count in zip(taken, counts, strict=True)}
    epoch = numbers.pop()
    if numbers or not 0 <= epoch < len(epochs):
        return None  # ranks are in different epochs
    ranks = list(zip(taken, counts, strict=True))
    before = [each.part(epoch, stop=count) for each, count in ranks]
    kept = together(before)
    if epoch == 0:
        kept = np.concatenate([earlier, kept])
    is_at_end = all(count == each.ends[epoch + each.begin] for each, count in ranks)
    if is_at_end and (epochs[epoch].is_over or _is_all(run, epochs, epoch, kept)):
        following = together([each.part(epoch + 1) for each in taken])
        return Checkpoint(update, epoch + 1, NOTHING, following)
    following = together([each.part(epoch, start=count) for each, count in ranks])
    return Checkpoint(update, epoch, kept, following)


def _is_all(run: Run, epochs: Sequence[Epoch], epoch: int, kept: IntArray) -> bool:
    """Check whether an epoch is over although its loader was not asked again before the kill."""
    whole = [each for number, each in enumerate(epochs) if each.is_over and number != epoch]
    seen = np.unique(kept).size
    if whole:
        return seen >= max(np.unique(each.samples).size for each in whole)
    size = samples_of(run)
    return size is not None and seen + (room_of(run) - 1 if drops(run) else 0) >= size


def samples_of(run: Run) -> int | None:
    """Return the size of the data set; None if samples are not known by index."""
    loader = run.first.trained if run.first is not None else None
    return loader.num_samples if loader is not None and is_by_index(run) else None


def is_by_index(run: Run) -> bool:
    """Return whether samples are known by index, not by a hash of their content."""
    loader = run.first.trained if run.first is not None else None
    return loader is not None and loader.has_indices


def room_of(run: Run) -> int:
    """Return the most samples that all ranks take at a time, with one batch each."""
    loaders = [each.trained for each in run.ranks]
    rows = [batch.rows for loader in loaders if loader is not None for batch in loader.batches]
    return max(rows, default=1) * run.world_size


def drops(run: Run) -> bool:
    """Return whether a last batch with fewer samples is left out."""
    loader = run.first.trained if run.first is not None else None
    return loader is not None and loader.drop_last


def resumed_from(
    before: Run, after: Run, earlier: IntArray = NOTHING
) -> tuple[Checkpoint, Epoch] | None:
    """Find the checkpoint from which a run was resumed, and what it took of that epoch.

    It is the last one whose files the run read. If that was not seen, it is the last one; or an
    earlier one, if exactly the samples that followed on it come again.

    Args:
        before: The run that was killed.
        after: The run that was resumed.
        earlier: Samples that earlier runs had trained on in the epoch in which `before` began.

    Returns:
        None if unknown.
    """
    found, epochs = list(checkpoints_of(before, earlier)), epochs_of(after)
    if not found or not epochs:
        return None
    rest, read = epochs[0], _read(before, after)
    if any(each.is_over for each in epochs[1:]):
        # Some loops count batches: they begin the next epoch before the loader reaches its end.
        rest = replace(rest, is_over=True)
    candidates = [each for each in found if each.update in read] or found
    last = candidates[0]
    if not last.leads_to(rest.samples):
        # An epoch that was started again looks like a resume from a checkpoint before it.
        exact = (
            each
            for each in candidates[1:]
            if each.leads_to(rest.samples) and (read or not each.is_between)
        )
        last = next(exact, last)
    return last, rest


def _read(before: Run, after: Run) -> set[int]:
    """Return the updates of one run after which it wrote files that another run read."""
    written = {file: update for rank in before.ranks for file, update in rank.written.items()}
    read = {file for rank in after.ranks for file in rank.read}
    return {written[file] for file in read & written.keys()}
