"""What was watched, in figures: the evidence beside the findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from batchwright.doctor.gains import lengths_seen, padding_by_column, padding_of
from batchwright.doctor.records import Loader, Run
from batchwright.doctor.timing import timing_of
from batchwright.stats.lengths import LengthStats, length_stats


@dataclass(frozen=True)
class LoaderFacts:
    """How the loader that is trained on was made."""

    dataset: str  # the name of its class, as for the samplers; "": unknown
    num_samples: int | None
    batch_size: int | None
    drop_last: bool
    num_workers: int
    sampler: str
    batch_sampler: str
    is_planned: bool


@dataclass(frozen=True)
class Summary:
    """What was watched of a run; the fields are keys of the JSON."""

    framework: str
    device: str
    world_size: int
    updates: int  # of the rank with most
    epochs: int  # that were seen to their end
    batches: int  # trained on, over all ranks, as are the samples
    samples: int
    optimizers: tuple[tuple[str, int], ...]  # of the first rank: name and steps of each
    padding: float | None  # share, in the batches whose lengths are known. None: unknown
    padding_by_column: Mapping[str, float]  # if batches have several columns that are padded
    tokens_per_second: float | None  # padding left out, of all ranks. None: unknown
    peak_bytes: int | None  # of the rank with most
    loader: LoaderFacts | None
    lengths: LengthStats | None  # of the samples whose lengths are known. None: unknown


def summary_of(run: Run) -> Summary:
    """Sum up what was watched. O(what was seen).

    Example:
        >>> import numpy as np
        >>> from batchwright.doctor.records import Batch, Pass, Rank, Update
        >>> batch = Batch(None, rows=2, width=4, lengths=np.array([4, 2]))
        >>> loader = Loader((Pass((batch,), is_complete=True),))
        >>> rank = Rank(0, 1, (loader,), (Update((batch,), (), start=0.0, end=0.5),))
        >>> summary = summary_of(Run((rank,)))
        >>> summary.updates, summary.epochs, summary.padding, summary.tokens_per_second
        (1, 1, 0.25, 12.0)
    """
    loaders = [each.trained for each in run.ranks]
    first = next((each for each in loaders if each is not None), None)
    batches = [batch for loader in loaders if loader is not None for batch in loader.batches]
    peaks = [
        update.peak for rank in run.ranks for update in rank.updates if update.peak is not None
    ]
    lengths = lengths_seen(run)
    return Summary(
        framework=run.framework,
        device="" if run.first is None else run.first.device,
        world_size=run.world_size,
        updates=max((len(each.updates) for each in run.ranks), default=0),
        epochs=0 if first is None else sum(each.is_complete for each in first.passes),
        batches=len(batches),
        samples=sum(each.rows for each in batches),
        optimizers=() if run.first is None else run.first.optimizers,
        padding=padding_of(run),
        padding_by_column=padding_by_column(run),
        tokens_per_second=_speed(run),
        peak_bytes=max(peaks, default=None),
        loader=None if first is None else _facts(first),
        lengths=length_stats(lengths) if lengths.size else None,
    )


def _speed(run: Run) -> float | None:
    """Return real tokens per second: of usual updates, or of all if these are too few."""
    if (timing := timing_of(run)) is not None:
        return timing.tokens_per_second
    total = 0.0
    for rank in run.ranks:
        known = [
            each
            for each in rank.updates
            if each.batches and all(batch.lengths is not None for batch in each.batches)
        ]
        spent = sum(each.seconds for each in known)
        if spent <= 0:
            return None
        total += sum(batch.tokens for each in known for batch in each.batches) / spent
    return total or None


def _facts(loader: Loader) -> LoaderFacts:
    return LoaderFacts(
        dataset=loader.dataset,
        num_samples=loader.num_samples,
        batch_size=loader.batch_size,
        drop_last=loader.drop_last,
        num_workers=loader.num_workers,
        sampler=loader.sampler,
        batch_sampler=loader.batch_sampler,
        is_planned=loader.is_planned,
    )
