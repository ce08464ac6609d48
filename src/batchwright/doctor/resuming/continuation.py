"""Whether a resumed run continues at the checkpoint: its samples, their order, and the loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from batchwright._format import number, percent, plural
from batchwright.doctor.finding import Finding
from batchwright.doctor.records import Loader, Run
from batchwright.doctor.resuming.checkpoints import (
    FEW,
    NOTHING,
    Checkpoint,
    Epoch,
    drops,
    epochs_of,
    is_by_index,
    resumed_from,
    room_of,
    samples_of,
)
from batchwright.doctor.resuming.cures import EPOCH, cure_of
from batchwright.doctor.resuming.loss_jump import find_loss_jump
from batchwright.typing import IntArray

_PERMUTING = frozenset(
    {
        *("RandomSampler", "SequentialSampler", "SeedableRandomSampler"),
        *("DistributedSampler", "LengthGroupedSampler", "DistributedLengthGroupedSampler"),
    }
)
"""Samplers whose epochs have the whole data set."""

_HASHED = 0.3
"""If samples are known by a hash of their content, the least share that shows a fault: data have
duplicates."""

_SAME = 0.75
"""If the order is the same, the least share of the killed run's next samples that also comes next
after resuming. By chance it is about a half."""


def resumed(
    before: Run, after: Run, *, earlier: IntArray = NOTHING, first: Run | None = None
) -> Iterator[Finding]:
    """Yield what is wrong with how a run continues.

    Args:
        before: The run that was killed. What it took up to its last checkpoint is kept; what it
            took after that has to come again.
        after: The run that was resumed, with any number of ranks and workers.
        earlier: Samples that were kept of the epoch in which `before` began, if it was itself
            resumed within one.
        first: The run with which training began. None: `before`.

    Yields:
        What is found; nothing if the record is not sufficient.

    Example:
        >>> list(resumed(Run(ranks=()), Run(ranks=())))
        []
    """
    found = resumed_from(before, after, earlier)
    if found is not None:
        yield from _Continuation(before, after, *found, is_second=earlier.size > 0).findings()
    saves = [update for rank in before.ranks for update in rank.saves]
    update = found[0].update if found is not None else max(saves, default=0)
    yield from find_loss_jump(before, after, update, first=before if first is None else first)


@dataclass(frozen=True, eq=False)
class _Continuation:
    """A checkpoint, and what came after resuming from it."""

    before: Run
    after: Run
    checkpoint: Checkpoint
    rest: Epoch  # the first epoch after resuming
    is_second: bool  # whether the killed run also began within an epoch

    def findings(self) -> Iterator[Finding]:
        """Yield what is wrong with the samples or their order."""
        if not self._is_known():
            return
        lost, again = self._lost(), self._again()
        if again:
            yield self._repeated(again)
        if lost:
            yield self._incomplete(lost)
        if again or lost:
            return
        if self._repeats_order():
            yield self._same_order()
        elif (share := self._kept_order()) is not None and share < _SAME:
            yield self._other_order(share)

    # -- what was seen

    @cached_property
    def _loader(self) -> Loader | None:
        return self.before.first.trained if self.before.first is not None else None

    @cached_property
    def _own(self) -> IntArray:
        """The samples of the epoch that the killed run has seen."""
        return np.concatenate([self.checkpoint.kept, self.checkpoint.following])

    @cached_property
    def _later(self) -> tuple[Epoch, ...]:
        return epochs_of(self.after)[1:]

    @cached_property
    def _early(self) -> tuple[tuple[int, Epoch], ...]:
        """The epochs that the killed run began itself, by number."""
        return tuple(enumerate(epochs_of(self.before)))[1 if self.is_second else 0 :]

    @cached_property
    def _whole(self) -> tuple[IntArray, ...]:
        """Epochs that one run saw from beginning to end."""
        seen = (*(each for _, each in self._early), *self._later)
        return tuple(each.samples for each in seen if each.is_over)

    @cached_property
    def _is_by_index(self) -> bool:
        return is_by_index(self.before) and is_by_index(self.after)

    @cached_property
    def _size(self) -> int | None:
        """The size of the data set, if samples are known by index."""
        sizes = {samples_of(self.before), samples_of(self.after)}
        return sizes.pop() if len(sizes) == 1 else None

    @cached_property
    def _all(self) -> IntArray | None:
        """The samples of an epoch; None if unknown."""
        permutes = self._loader is not None and self._loader.sampler in _PERMUTING
        if self._size is not None and permutes:
            return np.arange(self._size)
        # A curriculum has other samples in later epochs, so an earlier epoch is needed too.
        is_seen = any(each.is_over for _, each in self._early)
        sets = [np.unique(each) for each in self._whole] if is_seen else []
        is_one = all(np.array_equal(each, sets[0]) for each in sets)
        return sets[0] if sets and is_one else None

    @property
    def _is_exact(self) -> bool:
        """Whether an epoch of these loaders repeats no sample and leaves none out."""
        ranks = max(self.before.world_size, self.after.world_size)
        return self._is_planned or (ranks == 1 and not drops(self.before))

    @property
    def _is_planned(self) -> bool:
        return self._loader is not None and self._loader.is_planned

    @cached_property
    def _room(self) -> int:
        """Samples that the end of an epoch may lack or repeat, if no end was seen."""
        return 0 if self._is_exact else max(room_of(self.before), room_of(self.after))

    def _is_known(self) -> bool:
        """Whether samples of the two runs can be compared, and should be there once."""
        if self._loader is None or self._loader.replaces or not self.rest.samples.size:
            return False
        if _repeats(self._own) > self._allowed():
            return False  # the order itself repeats samples
        if self._is_by_index:
            return True
        # Contents that are changed at random never come again.
        seen = [self._own, *(each.samples for _, each in self._early)]
        now = [self.rest.samples, *(each.samples for each in self._later)]
        return _share(np.concatenate(now), np.concatenate(seen)) >= _HASHED

    # -- what is wrong with the samples

    def _allowed(self) -> int:
        """Count the repeated samples of an epoch that was not resumed."""
        if self._whole:
            return max(_repeats(each) for each in self._whole)
        return self._room

    def _again(self) -> int:
        """Count the samples of the epoch that were repeated because it was resumed."""
        kept, rest = self.checkpoint.kept, self.rest.samples
        found = _repeats(np.concatenate([kept, rest])) - self._allowed()
        if not self._is_by_index:
            least = _HASHED * min(kept.size or rest.size, rest.size)
            return found if found >= max(1, least) else 0
        return max(0, found)

    def _lost(self) -> int:
        """Count the samples of the epoch that were lost because it was resumed."""
        if not self.rest.is_over:
            return 0
        seen = np.concatenate([self.checkpoint.kept, self.rest.samples])
        found = np.setdiff1d(self.checkpoint.following, seen).size
        room = self._room
        if self._all is not None:
            found = np.setdiff1d(self._all, seen).size
            if self._whole:
                room = max(np.setdiff1d(self._all, each).size for each in self._whole)
        found -= room
        if not self._is_by_index and found < _HASHED * np.unique(seen).size:
            return 0
        return max(0, found)

    # -- what is wrong with the order

    def _kept_order(self) -> float | None:
        """Return the share of the samples due next that do come next; None if unknown."""
        due, came = self.checkpoint.following, self.rest.samples
        room = 0
        if self.before.world_size != self.after.world_size:  # batches are cut again
            room = max(room_of(self.before), room_of(self.after))
        size = max(due.size, came.size)
        compared = min(due.size, came.size - room, size // 2)
        if compared < FEW:
            return None
        return _share(due[:compared], came[: compared + room])

    def _repeats_order(self) -> bool:
        """Return whether an epoch after resuming has the order of an earlier one."""
        if self._loader is None or self._loader.is_shuffled is False:
            return False
        epoch = self.checkpoint.epoch
        known = [(place, each.samples) for place, each in self._early]
        fresh = [(place, each.samples) for place, each in enumerate(self._later, epoch + 1)]
        if self.checkpoint.is_between:
            fresh.insert(0, (epoch, self.rest.samples))
        # If orders are the same in runs that were not resumed, that is another fault.
        pairs = [*combinations(known, 2), *combinations(fresh, 2)]
        compared = {_is_same_order(one, other) for (_, one), (_, other) in pairs}
        if False not in compared or True in compared:
            return False
        return any(
            _is_same_order(new, old) for place, new in fresh for own, old in known if place != own
        )

    # -- in words

    @property
    def _manner(self) -> str:
        """How it was resumed, as the beginning of a sentence."""
        before, after = self.before.world_size, self.after.world_size
        parts = []
        if before != after:
            parts.append(f"on {plural(after, 'rank')} instead of {number(before)}")
        old, new = (_workers(each) for each in (self.before, self.after))
        if old != new:
            parts.append(f"with {plural(new, 'worker')} instead of {number(old)}")
        saved = f"from the checkpoint after update {number(self.checkpoint.update)}"
        return " ".join(["Resumed", saved, *parts])

    def _repeated(self, again: int) -> Finding:
        kept, rest = self.checkpoint.kept, self.rest
        size = self._all.size if self._all is not None else kept.size + rest.samples.size
        figure = f"{self._manner}, the run read {plural(again, 'sample')} of that epoch again"
        if kept.size:
            figure += f"; {number(kept.size)} had been read before the checkpoint"
        if kept.size and np.isin(self._own, rest.samples).all():
            figure += ". It started an epoch from the beginning"
        cure, code = cure_of(self.after)
        return Finding(
            "samples repeated on resume",
            "error",
            f"{figure}.",
            f"With each interruption, {percent(min(1.0, again / size))} of an epoch is trained on "
            "again, and weighs more than the rest.",
            cure,
            share=min(1.0, again / size),
            code=code,
        )

    def _incomplete(self, lost: int) -> Finding:
        known = (self.checkpoint.kept, self.checkpoint.following, self.rest.samples)
        size = (self._all if self._all is not None else np.unique(np.concatenate(known))).size
        share = min(1.0, lost / max(1, size))
        cure, code = cure_of(self.after)
        return Finding(
            "samples lost on resume",
            "error",
            f"{self._manner}, the run reached the end of the epoch without {plural(lost, 'sample')}"
            f" of {number(size)}, which had not been read before the checkpoint either.",
            f"With each interruption, {percent(share)} of an epoch is not trained on.",
            cure,
            share=share,
            code=code,
        )

    def _other_order(self, share: float) -> Finding:
        cure, code = cure_of(self.after)
        return Finding(
            "order changes on resume",
            "warning",
            f"{self._manner}, the run continues with other samples than the killed run: only "
            f"{percent(share)} of the samples that came next there also come next here.",
            "No sample is lost, but an interrupted run differs from one without interruption: "
            "results cannot be reproduced, and faults cannot be found by running it again.",
            cure,
            code=code,
        )

    def _same_order(self) -> Finding:
        return Finding(
            "order repeats on resume",
            "error",
            f"{self._manner}, the run repeats the order of an epoch from before the checkpoint.",
            "The same samples share batches again: the epoch is worth less than one in a new "
            "order.",
            EPOCH[0],
            code=EPOCH[1],
        )


def _repeats(samples: IntArray) -> int:
    return int(samples.size - np.unique(samples).size)


def _share(samples: IntArray, among: IntArray) -> float:
    return float(np.isin(samples, among).mean()) if samples.size else 0.0


def _is_same_order(one: IntArray, other: IntArray) -> bool | None:
    """Return whether two epochs begin in the same order; None if too little was seen of one."""
    size = min(one.size, other.size)
    if np.unique(one[:size]).size < FEW:
        return None
    return np.array_equal(one[:size], other[:size])


def _workers(run: Run) -> int:
    loader = run.first.trained if run.first is not None else None
    return loader.num_workers if loader is not None else 0
