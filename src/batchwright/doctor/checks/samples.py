"""Samples that an epoch leaves out, or holds more than once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from batchwright._format import listed, number, percent, plural
from batchwright.doctor.epochs import (
    Epoch,
    beginning,
    chooses,
    draws,
    epochs_of,
    has_own_batches,
    is_plain,
)
from batchwright.doctor.finding import Finding, Level
from batchwright.doctor.records import Pass, Run
from batchwright.typing import IntArray

FEW = 0.01
"""A share of the samples; less is hardly worth a word."""

MOST = 0.5
"""A larger share of a data set is probably left out on purpose, by a custom sampler."""

ALIKE = 0.8
"""The least share of a stream's samples that come once per worker, where each reads all of it."""

REGULAR = 0.95
"""Of samples that are repeated by mistake, this share comes the same number of times."""

BY_CHANCE = 4.0
"""Standard deviations of the number of different samples in draws with replacement."""

EVENER = 1.2
"""Repeats that make classes more even by this factor are there for that."""


def lost_samples(run: Run) -> Iterator[Finding]:
    """Find samples that are in no batch of an epoch, over all ranks together.

    This needs whole epochs of samples that are known by index. A sampler may be made for a part of
    the data, so it must promise all samples, split them twice, or leave out different ones in each
    epoch. A last batch that is dropped is another finding.
    """
    epochs = _whole_epochs(run)
    if not epochs or draws(epochs[0].loader) or chooses(epochs[0].loader):
        return
    missing = [_missing(each) for each in epochs]
    if not any(each.size for each in missing):
        return
    pairs = list(zip(epochs, missing, strict=True))
    if all(_is_last_batch(epoch, lost) for epoch, lost in pairs):
        yield _last_batch(epochs, missing)
    elif any(_is_split_twice(epoch, lost) for epoch, lost in pairs):
        yield _lost(epochs, missing, is_split_twice=True)
    elif is_plain(epochs[0].loader):
        if any(lost.size >= _may_drop(epoch) for epoch, lost in pairs):
            yield _lost(epochs, missing, is_split_twice=False)
    elif has_own_batches(epochs[0].loader) and _changes(epochs, missing):
        yield _lost(epochs, missing, is_split_twice=False)


def _whole_epochs(run: Run) -> list[Epoch]:
    """Return the epochs that were seen from beginning to end, with samples known by index.

    In a run that was resumed, the first is only the rest of an epoch, and left out.
    """
    begun = epochs_of(run)
    whole = [each for each in begun if each.is_whole and each.has_indices]
    if whole and whole[0] is begun[0]:
        counts = [min(len(one.batches) for one in each.passes) for each in whole]
        usual = counts[1] if len(counts) > 1 else whole[0].loader.num_batches or 0
        return whole[counts[0] < usual :]
    return whole


def _missing(epoch: Epoch) -> IntArray:
    size = epoch.loader.num_samples
    is_missing = np.ones(size or 0, np.bool_)
    is_missing[epoch.samples] = False
    return np.flatnonzero(is_missing)


def _is_last_batch(epoch: Epoch, lost: IntArray) -> bool:
    """Say whether all lost samples are an incomplete last batch of each rank."""
    loader, size = epoch.loader, epoch.loader.batch_size or epoch.batch_size
    known = (each.samples for one in epoch.passes for each in one.batches)
    is_full = all(each is None or each.size == size for each in known)
    # A sampler may drop up to a sample a rank before that.
    can_drop = loader.drop_last or has_own_batches(loader)
    return can_drop and is_full and lost.size < epoch.world_size * (size + 1)


def _may_drop(epoch: Epoch) -> int:
    """Return how many lost samples are more than it takes to give all ranks equally many."""
    return epoch.world_size * (epoch.batch_size + 1 if epoch.loader.drop_last else 1)


def _is_split_twice(epoch: Epoch, lost: IntArray) -> bool:
    """Say whether as many samples are left as after splitting the data among ranks twice."""
    size, ranks = epoch.loader.num_samples or 0, epoch.world_size
    if ranks == 1:
        return False
    near, handed = ranks * epoch.batch_size, (epoch.samples.size, size - lost.size)
    return all(abs(each - size / ranks) <= near < size / (2 * ranks) for each in handed)


def _changes(epochs: Sequence[Epoch], missing: Sequence[IntArray]) -> bool:
    """Say whether each of two epochs leaves out samples that the other has.

    A part that was chosen stays the same, or grows; what is lost changes. Samples that are left
    out to balance classes may change too, and so may those that were not drawn: neither is a loss.
    """
    loader, first, last = epochs[0].loader, missing[0], missing[-1]
    if len(missing) < 2:
        return False
    if max(first.size, last.size) > MOST * (loader.num_samples or 0):
        return False
    counts = np.unique(epochs[0].samples, return_counts=True)[1]
    if _are_drawn(counts, loader.num_samples or 0):
        return False
    changes = np.setdiff1d(first, last).size and np.setdiff1d(last, first).size
    seen = [each for epoch in epochs for each in epoch.passes]
    return bool(changes) and not _evens_classes(epochs[0].passes, seen)


def _last_batch(epochs: Sequence[Epoch], missing: Sequence[IntArray]) -> Finding:
    loader = epochs[0].loader
    total, most = loader.num_samples or 0, max(each.size for each in missing)
    share = most / total
    level: Level = "info" if share < FEW else "warning"
    what = "An incomplete last batch is"
    if epochs[0].world_size > 1:
        what = "Incomplete last batches of ranks are"
    never = _never_seen(missing)
    cost = f"{percent(share)} of the samples are not trained on in an epoch"
    cost += ", nor in any other." if never.size == most and len(missing) > 1 else "."
    return Finding(
        name="last batch dropped",
        level=level,
        figure=(
            f"{what} left out: {number(most)} of {plural(total, 'sample')}{_in_epochs(missing)}."
        ),
        cost=cost,
        cure=(
            "Keep it, and weight its loss by its number of samples. Or plan the batches: every "
            "epoch then has all samples, in the same number of batches."
        ),
        share=share,
        code=_keeping(epochs[0]),
    )


def _keeping(epoch: Epoch) -> tuple[str, ...]:
    """Return the line that keeps the last batch; none for a sampler of one's own."""
    return ("DataLoader(dataset, …, drop_last=False)",) if epoch.loader.drop_last else ()


def _lost(epochs: Sequence[Epoch], missing: Sequence[IntArray], *, is_split_twice: bool) -> Finding:
    loader, ranks = epochs[0].loader, epochs[0].world_size
    total, most = loader.num_samples or 0, max(each.size for each in missing)
    share, named = most / total, max(missing, key=len)[:3].tolist()
    names = f"the first are {listed(list(map(str, named)))}" if len(named) > 1 else f"{named[0]}"
    cure = "Let the sampler yield every sample once, including those that do not fill a batch."
    if is_split_twice:
        cure = (
            f"It looks as if the data was split among {ranks} ranks twice. Split it only once: in "
            "the sampler, or where the loader is prepared."
        )
    elif loader.sampler == "DistributedSampler":
        cure = (
            "Give the sampler the ranks that train: num_replicas is "
            f"{ranks}, and each rank passes its own rank."
        )
    never = _never_seen(missing)
    cost = f"{percent(share)} of the samples are not trained on in an epoch."
    if len(missing) > 1 and never.size:
        cost = f"{cost[:-1]}, {number(never.size)} of them in none of {len(missing)} epochs."
    return Finding(
        name="samples lost",
        level="error",
        figure=(
            f"{number(most)} of {plural(total, 'sample')} are in no batch of an epoch"
            f"{_in_epochs(missing)}: {names}."
        ),
        cost=cost,
        cure=cure,
        share=share,
        code=_splitting(ranks)
        if loader.sampler == "DistributedSampler" and not is_split_twice
        else (),
    )


def _splitting(ranks: int) -> tuple[str, ...]:
    if ranks == 1:
        return ("DataLoader(dataset, …, shuffle=True)",)
    return ("sampler = DistributedSampler(dataset)  # once torch.distributed is initialised",)


def _never_seen(missing: Sequence[IntArray]) -> IntArray:
    never = missing[0]
    for each in missing[1:]:
        never = np.intersect1d(never, each)
    return never


def _in_epochs(missing: Sequence[IntArray]) -> str:
    """Say whether it is the same samples in all epochs that were seen."""
    if len(missing) == 1:
        return ""
    if all(np.array_equal(each, missing[0]) for each in missing):
        return f", the same ones in each of {len(missing)} epochs"
    return ", different ones in each epoch"


def repeated_samples(run: Run) -> Iterator[Finding]:
    """Find samples that a rank gets more than once within an epoch.

    Repeats that fill the last batches, or give ranks equally many samples, are no mistake; nor are
    samples that are drawn with replacement, or a loader that never ends. Samples that several
    ranks share are another finding.

    Source: the documentation of torch's `IterableDataset`: each worker has a copy of a stream, and
    returns all of it unless it is sharded.
    """
    epochs = epochs_of(run)
    if not epochs or draws(epochs[0].loader):
        return
    find = _repeats if epochs[0].has_indices else _repeats_of_a_stream
    found = [find(epoch, each) for epoch in epochs for each in epoch.passes]
    worst = max((each for each in found if each is not None), key=lambda f: f.share, default=None)
    if worst is not None:
        yield worst


def _repeats(epoch: Epoch, each: Pass) -> Finding | None:
    samples, size = beginning(each), epoch.loader.num_samples or 0
    share_of_rank = size // epoch.world_size
    if epoch.world_size > 1:  # the batches at the end may be filled with those of the beginning
        share_of_rank -= 2 * epoch.batch_size
    samples = samples[: max(0, share_of_rank)]  # an endless loader begins a second epoch there
    distinct, counts = np.unique(samples, return_counts=True)
    repeats = samples.size - distinct.size
    if repeats <= max(epoch.batch_size, FEW * samples.size) or _evens_classes([each], [each]):
        return None
    if _are_drawn(counts, size):
        return None
    twice = distinct[counts > 1]
    share = repeats / samples.size
    first = listed(list(map(str, twice[:3].tolist())))
    return Finding(
        name="samples repeated",
        level="error",
        figure=(
            f"Of {plural(samples.size, 'sample')} in an epoch, {number(repeats)} are repeats of "
            f"earlier ones; {number(twice.size)} samples come up to {counts.max()} times, among "
            f"them {first}."
        ),
        cost=(
            f"{percent(share)} of an epoch's work repeats samples, which then weigh more than "
            "others."
        ),
        cure=(
            "Let the sampler yield every sample once. If some samples should come more often, use "
            "weights (WeightedRandomSampler)."
        ),
        share=share,
    )


def _are_drawn(counts: IntArray, size: int) -> bool:
    """Say whether samples may be drawn with replacement: then counts of several sizes are usual.

    If few are drawn, hardly any comes three times; then there are as many repeats as by chance.
    """
    of_repeated = np.bincount(counts)[2:]
    if not of_repeated.size:
        return False
    if of_repeated.max() < REGULAR * of_repeated.sum():
        return True
    share = int(counts.sum()) / size
    absent = np.exp(-share)
    spread = np.sqrt(size * absent * (1 - (1 + share) * absent))
    return bool(abs(counts.size - size * (1 - absent)) <= BY_CHANCE * spread)


def _evens_classes(rows: Sequence[Pass], seen: Sequence[Pass]) -> bool:
    """Say whether classes are more even over some rows than over all samples that were seen."""
    ours, those = _classes(rows), _classes(seen)
    if ours is None or those is None:
        return False
    once = np.unique(those[0], return_index=True)[1]
    return _imbalance(those[1][once]) >= EVENER * _imbalance(ours[1])


def _classes(passes: Sequence[Pass]) -> tuple[IntArray, IntArray] | None:
    """Return the samples of passes and the class of each, as far as both are known."""
    known = [
        (batch.samples, batch.labels)
        for each in passes
        for batch in each.batches
        if batch.samples is not None
        and batch.labels is not None
        and batch.samples.shape == batch.labels.shape
    ]
    if not known:
        return None
    samples, labels = zip(*known, strict=True)
    return np.concatenate(samples), np.concatenate(labels)


def _imbalance(labels: IntArray) -> float:
    counts = np.unique(labels, return_counts=True)[1]
    return float(counts.max() / counts.min())


def _repeats_of_a_stream(epoch: Epoch, each: Pass) -> Finding | None:
    """Find a stream that every worker reads completely: each sample comes once per worker.

    Duplicates in the data, and a stream that starts again, look different: duplicates have various
    counts, and a stream that starts again has all samples once before any comes twice.
    """
    samples, workers = beginning(each), epoch.loader.num_workers
    distinct, counts = np.unique(samples, return_counts=True)
    if workers < 2 or distinct.size < 16 or samples.size < 2 * workers * epoch.batch_size:
        return None
    times = int(np.bincount(counts).argmax())
    early = samples[: distinct.size]
    is_alike = np.count_nonzero(counts == times) >= ALIKE * distinct.size
    is_early = np.unique(early).size <= ALIKE * early.size
    if not (is_alike and is_early and 2 <= times <= workers):
        return None
    share = 1 - distinct.size / samples.size
    return Finding(
        name="samples repeated",
        level="error",
        figure=(
            f"Nearly every sample of the stream comes {times} times within an epoch: each of "
            f"{workers} workers reads all of it."
        ),
        cost=f"{percent(share)} of an epoch's work repeats samples.",
        cure="Let each worker read its own part of the stream.",
        share=share,
        code=(
            "worker = torch.utils.data.get_worker_info()  # in the data set's __iter__",
            "parts = 1 if worker is None else worker.num_workers",
            "samples = itertools.islice(samples, 0 if worker is None else worker.id, None, parts)",
        ),
    )
