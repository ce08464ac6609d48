"""Waiting for data: the time in which the training loop has no batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from batchwright._format import duration, percent, plural
from batchwright.doctor.finding import Finding
from batchwright.doctor.records import Rank, Run

_UPDATES = 5  # nothing is said of fewer
_WORTH = 0.1  # of the time
_LEAST = 2e-3  # seconds per update: a worker may take as long to hand over a batch
_ENOUGH = 4  # workers: if so many are too slow, more are seldom the cure


@dataclass(frozen=True)
class _Waited:
    """The waiting of one rank."""

    rank: Rank
    updates: int
    waited: float  # seconds in all of them
    seconds: float  # that they took

    @property
    def share(self) -> float:
        return min(1.0, self.waited / self.seconds) if self.seconds > 0 else 0.0


def waiting(run: Run) -> Iterator[Finding]:
    """Find a training loop that waits for its loader.

    Updates at the start of an epoch are left out: workers start in them.

    Example:
        >>> list(waiting(Run(ranks=())))
        []
    """
    seen = [each for each in map(_waited, run.ranks) if each.updates >= _UPDATES]
    worst = max(seen, key=lambda each: each.share, default=None)
    if worst is None or worst.share < _WORTH or worst.waited < _LEAST * worst.updates:
        return
    rank, loader = worst.rank, worst.rank.trained
    where = f"Rank {rank.rank}" if run.world_size > 1 else "The training loop"
    each = [duration(value / worst.updates) for value in (worst.waited, worst.seconds)]
    share = percent(worst.share)
    cost = f"{share} of the time."
    if rank.device != "cpu":
        cost = f"Up to {share} of the time; less if the device was busy with the previous update."
    if run.world_size > 1:
        cost += " Other ranks wait for this one."
    workers = 0 if loader is None else loader.num_workers
    yield Finding(
        name="waiting for data",
        level="warning",
        figure=(
            f"{where} waited for its batches {share} of the time: {each[0]} of {each[1]} per "
            f"update (mean of {plural(worst.updates, 'update')}), with "
            f"{plural(workers, 'worker')}."
        ),
        cost=cost,
        cure=_cure(workers),
        share=worst.share,
        code=() if workers >= _ENOUGH else _workers(run.framework, max(_ENOUGH, 2 * workers)),
    )


def _waited(rank: Rank) -> _Waited:
    """Add up what was waited, from the end of one update to the end of the next."""
    firsts = {
        each.batches[0].time for loader in rank.loaders for each in loader.passes if each.batches
    }
    counted = [
        (sum(batch.wait for batch in update.batches), update.end - before.end)
        for before, update in pairwise(rank.updates)
        if update.batches and not any(batch.time in firsts for batch in update.batches)
    ]
    return _Waited(
        rank,
        updates=len(counted),
        waited=sum(waited for waited, _ in counted),
        seconds=sum(seconds for _, seconds in counted),
    )


def _cure(workers: int) -> str:
    if workers == 0:
        return (
            "Let workers read and collate the next batches during an update. Do work that is the "
            "same in every epoch, such as tokenizing, once before training."
        )
    if workers < _ENOUGH:
        return f"Use more workers than {workers}, and keep them between epochs."
    return (
        f"{workers} workers do not keep up. Do work that the data set repeats in every epoch, such "
        "as tokenizing or decoding, once before training, and copy less in the collate function."
    )


def _workers(framework: str, workers: int) -> Sequence[str]:
    if framework in {"transformers", "trl"}:
        return (
            "TrainingArguments(",
            "    ...,",
            f"    dataloader_num_workers={workers},",
            "    dataloader_persistent_workers=True,",
            ")",
        )
    return (f"DataLoader(..., num_workers={workers}, persistent_workers=True)",)
