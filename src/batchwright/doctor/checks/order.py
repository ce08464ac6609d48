"""The order of samples, and which samples share an update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from batchwright._format import number, percent, plural
from batchwright.doctor.epochs import Epoch, beginning, epochs_of, same_order
from batchwright.doctor.finding import Finding
from batchwright.doctor.records import Pass, Run, Update
from batchwright.stats import dispersion
from batchwright.stats.baseline import SLOTS, UNLIKE
from batchwright.typing import FloatArray, IntArray

FEWEST = 8
"""The fewest updates from which it is judged how unlike they are."""

BEYOND_CHANCE = 5.0
"""Standard deviations above what chance gives, for a few updates or samples."""

TREND = 0.8
"""Correlation of length with the number of the update above which an epoch goes from short to
long."""

SORTED = 0.02
"""In a sorted sequence, at most this share of changes goes the other way."""

PURE = 0.25
"""Association of updates and classes that is a finding; 0: a shuffle, 1: one class each."""

MAINLY = 0.3
"""The least share of the largest class in updates that are called those of one class."""

UNEVEN = 1.5
"""Classes of less imbalance count as even."""

_OF_STREAMS = ("", "_InfiniteConstantSampler")
"""Samplers of a loader whose data set is a stream."""

_GROUPING = ("length", "group", "bucket", "sorted")
"""Parts of the names of samplers that put samples of one length together."""

_OF_CLASSES = ("class", "label", "identity", "triplet", "episod", "fewshot", "shot", "pksampler")
"""Parts of the names of samplers that put samples of one class together on purpose."""


def order_of_epochs(run: Run) -> Iterator[Finding]:
    """Find an order that is the same in every epoch, and data that is not shuffled at all.

    A common beginning of two epochs is enough, if it is no coincidence. A stream in the same order
    may simply not be shuffled: it is an error only if the stream says that it shuffles.

    Source: the warning of torch's `DistributedSampler`: without `set_epoch` the order is always
    the same; huggingface/accelerate#3246, Lightning-AI/pytorch-lightning#13316.
    """
    begun = epochs_of(run)
    epochs = [
        each
        for each in begun
        if len(each.passes) == len(begun[0].passes) and len(each.passes[0].batches) > 1
    ]
    if not epochs or epochs[0].loader.is_planned:
        return
    loader, has_indices = epochs[0].loader, all(each.is_by_index for each in epochs)
    if has_indices and not loader.replaces:
        verdicts = [_ascends(each) for epoch in epochs for each in epoch.passes]
        if any(verdicts) and False not in verdicts:
            yield _not_shuffled(epochs)
            return
    if not _is_repeated(epochs) or any(_is_sorted(each) for each in epochs[0].passes):
        return
    if has_indices or loader.is_shuffled:
        yield _same_order(epochs, has_indices=has_indices)
    else:
        yield _stream_not_shuffled(epochs)


def _ascends(each: Pass) -> bool | None:
    """Say whether samples are in the order of the data set; the end may repeat the beginning.

    None: there are too few to tell.
    """
    samples, most = beginning(each), max(batch.rows for batch in each.batches)
    falls = np.flatnonzero(np.diff(samples) <= 0)
    if falls.size > 1 or (falls.size and falls[0] < samples.size - 1 - 2 * most):
        return False
    samples = samples[: falls[0] + 1] if falls.size else samples
    return same_order(samples, np.sort(samples))


def _is_repeated(epochs: Sequence[Epoch]) -> bool:
    """Say whether every rank has the same order in each epoch that can be compared.

    A pass that ended early may have been a trial before the first epoch: alone it is no evidence.
    """
    by_rank: dict[int, list[Pass]] = {}
    for epoch in epochs:
        for rank, each in enumerate(epoch.passes):
            by_rank.setdefault(rank, []).append(each)
    verdicts = []
    for passes in by_rank.values():
        compared = [
            (same_order(beginning(one), beginning(other)), one.is_complete)
            for one, other in pairwise(passes)
        ]
        known = [(verdict, is_complete) for verdict, is_complete in compared if verdict is not None]
        is_enough = len(known) > 1 or any(is_complete for _, is_complete in known)
        verdicts.append(is_enough and all(verdict for verdict, _ in known))
    return all(verdicts)


def _is_sorted(each: Pass) -> bool:
    """Say whether samples are sorted by length: then the same order in each epoch is intended."""
    lengths = [batch.lengths for batch in each.batches if batch.lengths is not None]
    steps = np.diff(np.concatenate(lengths)) if lengths else np.empty(0)
    rises, falls = int(np.count_nonzero(steps > 0)), int(np.count_nonzero(steps < 0))
    return rises + falls >= 16 and min(rises, falls) <= SORTED * (rises + falls)


def _seen(epochs: Sequence[Epoch]) -> str:
    if len(epochs) == 1:
        return "the epoch that was seen" if epochs[0].is_whole else "what was seen of an epoch"
    return f"each of {len(epochs)} epochs"


def _same_order(epochs: Sequence[Epoch], *, has_indices: bool) -> Finding:
    loader = epochs[0].loader
    first, *others = [beginning(epoch.passes[0]) for epoch in epochs]
    equal = [each for each in others if same_order(first, each)]
    common = min(first.size, *(each.size for each in equal))
    code: tuple[str, ...] = ()
    if not has_indices and loader.sampler in _OF_STREAMS:
        cure = (
            "Give the stream the number of each epoch before it begins, and seed its order by it."
        )
        if loader.num_workers:
            cure += (
                " Persistent workers do not see what is set in the main process: leave "
                "persistent_workers out, or keep the number in shared memory."
            )
        code = ("dataset.set_epoch(epoch)  # before each epoch",)
    elif not has_indices or "DistributedSampler" in loader.sampler:
        cure = "Call `sampler.set_epoch(epoch)` at the start of each epoch."
        code = ("sampler.set_epoch(epoch)  # before each epoch",)
    else:
        cure = (
            "Seed the order once, before the first epoch; or before each epoch, by the number of "
            "the epoch."
        )
        code = ("generator.manual_seed(seed + epoch)  # before each epoch",)
    return Finding(
        name="same order in every epoch",
        level="error",
        figure=(
            f"{len(equal) + 1} epochs used the same shuffled order: the first {number(common)} "
            "samples of each were compared."
        ),
        cost=(
            "Every epoch makes the same updates in the same order, and each sample shares its "
            "batch with the same others."
        ),
        cure=cure,
        share=len(equal) / (len(equal) + 1),
        code=code,
    )


def _not_shuffled(epochs: Sequence[Epoch]) -> Finding:
    loader = epochs[0].loader
    first = beginning(epochs[0].passes[0])[:3].tolist()
    code: tuple[str, ...] = ("DataLoader(dataset, …, shuffle=True)",)
    if "DistributedSampler" in loader.sampler:
        code = ("sampler = DistributedSampler(dataset, shuffle=True)",)
    elif loader.sampler != "SequentialSampler":
        code = ()
    return Finding(
        name="no shuffling",
        level="warning",
        figure=(
            f"Samples are in the order of the data set, {', '.join(map(str, first))}, …, in "
            f"{_seen(epochs)}."
        ),
        cost=(
            "Neighbouring samples share an update in every epoch: if they are similar, updates "
            "are one-sided."
        ),
        cure="Shuffle in each epoch; data that was shuffled once is mixed only in the first epoch.",
        share=1 - 1 / max(2, len(epochs)),
        code=code,
    )


def _stream_not_shuffled(epochs: Sequence[Epoch]) -> Finding:
    common = min(beginning(each.passes[0]).size for each in epochs[:2])
    return Finding(
        name="no shuffling",
        level="warning",
        figure=(
            "The stream gave the same samples in the same order in every epoch: the first "
            f"{number(common)} of two epochs were compared."
        ),
        cost="The same samples share an update in every epoch.",
        cure=(
            "Shuffle the stream through a buffer; if it does that already, seed it by the epoch, "
            "also in persistent workers."
        ),
        share=1 - 1 / max(2, len(epochs)),
        code=(
            "dataset = dataset.shuffle(seed=0, buffer_size=10_000)",
            "dataset.set_epoch(epoch)  # before each epoch",
        ),
    )


def lengths_of_updates(run: Run) -> Iterator[Finding]:
    """Find updates whose samples have similar lengths, which differ from those of other updates.

    If only one of all epochs goes from short to long, it is a curriculum.

    Source: `python -m benchmarks.mixing` (docs/mixing.md).
    """
    mixes = [(epoch, *_length_mix(epoch)) for epoch in epochs_of(run)]
    known = [(epoch, mix, means) for epoch, mix, means in mixes if means.size >= FEWEST]
    if not known or not all(mix > _limit(means.size) for _, mix, means in known):
        return
    loader = known[0][0].loader
    names = f"{loader.sampler} {loader.batch_sampler}".lower()
    is_grouped = any(each in names for each in _GROUPING)
    if len(known) == 1 and _trend(known[0][2]) > TREND and not is_grouped:
        return
    mix = float(np.median([mix for _, mix, _ in known]))
    means = max((means for _, _, means in known), key=np.size)
    low, high = np.exp(np.quantile(means, [0.05, 0.95]))
    cure = (
        "Plan the batches: each batch has samples of similar length, each update has all lengths. "
        f"With {SLOTS} smaller batches per update, there is hardly any padding, and lengths mix as "
        "evenly as in a shuffle."
    )
    if loader.is_planned:
        cure = f"Plan smaller batches, and {SLOTS} of them per update."
    yield Finding(
        name="length-sorted updates",
        level="warning",
        figure=(
            f"The length mix of updates is {_tenths(mix)}, where a plain shuffle has 1: samples "
            f"have about {number(round(low))} tokens in some updates, and about "
            f"{number(round(high))} in others."
        ),
        cost=(
            "Models may learn worse from such updates: in our trials of a small language model, "
            "the final loss was up to 0.13 nats above that of a shuffle."
        ),
        cure=cure,
        share=1 - 1 / mix,  # of the variance between updates, the part that is not chance
        code=_planned(run, known[0][0]),
    )


def _planned(run: Run, epoch: Epoch) -> tuple[str, ...]:
    """Return the lines that plan batches for updates of as many samples."""
    if run.framework in {"transformers", "trl"}:
        use = "from batchwright.integrations.transformers import use_plan"
        return (use, "use_plan(trainer)  # and group_by_length, or its like, left out")
    present = [len(update.batches) for ranks in epoch.updates for update in ranks]
    accumulate = max(SLOTS, *present)
    rows = max(1, round(epoch.batch_size * max(present) / accumulate))
    return (
        f"planner = bw.Planner(lengths, batch_size={rows}, accumulate={accumulate})",
        "loader = PlanLoader(dataset, planner, collate_fn=…)",
    )


def _limit(updates: int) -> float:
    """Return the largest length mix that is expected of so few shuffled updates."""
    return max(UNLIKE, 1 + BEYOND_CHANCE * float(np.sqrt(2 / updates)))


def _length_mix(epoch: Epoch) -> tuple[float, FloatArray]:
    """Return the length mix of the updates of an epoch, and their mean logarithms of lengths."""
    lengths = [each for each in map(_lengths, epoch.updates) if each is not None]
    if len(lengths) < FEWEST:
        return 1.0, np.empty(0)
    entries = np.maximum(1, np.concatenate(lengths))
    offsets = np.cumsum([0, *(each.size for each in lengths)])
    logs = np.add.reduceat(np.log(entries), offsets[:-1])
    return dispersion(entries, offsets), logs / np.diff(offsets)


def _lengths(ranks: Sequence[Update]) -> IntArray | None:
    """Return the lengths in an update of all ranks; None where they are not known."""
    known = []
    for update in ranks:
        for batch in update.batches:
            if batch.lengths is None or batch.is_packed or not batch.lengths.size:
                return None
            known.append(batch.lengths)
    return np.concatenate(known) if known else None


def _trend(means: FloatArray) -> float:
    """Return the rank correlation of the mean length of updates with their number."""
    ranks = np.argsort(np.argsort(means, kind="stable"), kind="stable")
    return float(np.corrcoef(ranks, np.arange(means.size))[0, 1])


def _tenths(value: float) -> str:
    return number(value) if value >= 100 else f"{value:.1f}".removesuffix(".0")


def classes_of_updates(run: Run) -> Iterator[Finding]:
    """Find updates with samples of one class, or of few, where a shuffle would have many."""
    epochs = epochs_of(run)
    updates = [each for epoch in epochs for each in epoch.updates]
    known = [each for each in map(_labels, updates) if each is not None]
    if len(known) < FEWEST or not epochs:
        return
    names = f"{epochs[0].loader.sampler} {epochs[0].loader.batch_sampler}".lower()
    labels = np.unique(np.concatenate(known), return_inverse=True)[1]
    sizes = np.array([each.size for each in known])
    num_classes = int(labels.max()) + 1
    is_class = 2 <= num_classes <= labels.size / 4 and sizes.mean() >= 4
    if not is_class or any(each in names for each in _OF_CLASSES):
        return
    owner = np.repeat(np.arange(sizes.size), sizes)
    table = np.bincount(owner * num_classes + labels, minlength=sizes.size * num_classes)
    counts = table.reshape(sizes.size, num_classes)
    top = float(counts.max(axis=1).sum() / labels.size)
    association = _association(counts)
    if association < PURE or top < MAINLY:
        return
    shares = counts.sum(axis=0) / labels.size
    held = float((counts > 0).sum(axis=1).mean())
    random = float((1 - (1 - shares[None, :]) ** sizes[:, None]).sum(axis=1).mean())
    yield Finding(
        name="updates of one class",
        level="warning",
        figure=(
            f"An update of {number(round(float(sizes.mean())))} samples holds "
            f"{_tenths(held)} of {num_classes} classes, where a shuffle would have "
            f"{_tenths(random)}; {percent(top)} of its samples are of one class."
        ),
        cost=(
            "Each update moves the model towards its own classes, and the next one away from them: "
            "the model learns more slowly, and batch statistics are those of one class."
        ),
        cure=(
            "Shuffle the samples. If a stream is sorted by class, use a buffer that is larger than "
            "a class, or read shards of all classes at once."
        ),
        share=min(1.0, association),
        code=("DataLoader(dataset, …, shuffle=True)",) if epochs[0].has_indices else (),
    )


def _labels(ranks: Sequence[Update]) -> IntArray | None:
    known = [batch.labels for update in ranks for batch in update.batches]
    found = [each for each in known if each is not None and each.size]
    return np.concatenate(found) if found and len(found) == len(known) else None


def _association(counts: IntArray) -> float:
    """Return Cramér's V², corrected for chance: the association of updates and classes."""
    total = counts.sum()
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / total
    rows, columns = counts.shape
    free = (rows - 1) * (columns - 1) / (total - 1)
    found = float(((counts - expected) ** 2 / expected).sum() / total - free)
    least = min(rows - (rows - 1) ** 2 / (total - 1), columns - (columns - 1) ** 2 / (total - 1))
    return max(0.0, found) / (least - 1) if least > 1 else 0.0


def mix_of_classes(run: Run) -> Iterator[Finding]:
    """Say how uneven the classes of an epoch are, if that is more than chance."""
    epochs = epochs_of(run)
    if not epochs:
        return
    batches = [batch for each in epochs[0].passes for batch in each.batches]
    known = [each.labels for each in batches if each.labels is not None]
    if not known or len(known) < len(batches) / 2:
        return
    classes, counts = np.unique(np.concatenate(known), return_counts=True)
    if not 2 <= classes.size <= counts.sum() / 10 or counts.max() < UNEVEN * counts.min():
        return
    mean, free = float(counts.mean()), classes.size - 1
    if ((counts - mean) ** 2).sum() / mean < free + BEYOND_CHANCE * float(np.sqrt(2 * free)):
        return
    most, least = int(counts.argmax()), int(counts.argmin())
    share = counts / counts.sum()
    yield Finding(
        name="class mix",
        level="info",
        figure=(
            f"Of {plural(int(counts.sum()), 'sample')} of {classes.size} classes, "
            f"{percent(float(share[most]))} were of class {classes[most]}, "
            f"{_tenths(float(counts[most] / counts[least]))} times as many as of class "
            f"{classes[least]} ({percent(float(share[least]))})."
        ),
        cost="",
        cure=(
            "If accuracy is what counts, change nothing. If all classes count equally (macro "
            "averages), try to draw rare ones more often late in training: "
            "bw.ClassBalanced(labels)."
        ),
    )
