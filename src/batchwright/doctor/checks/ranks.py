"""Ranks that share samples, or differ in their batches, counts or work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from batchwright._format import duration, number, percent, plural
from batchwright.doctor.checks.loss import mean_of_means
from batchwright.doctor.epochs import Epoch, beginning, draws, epochs_of, same_order
from batchwright.doctor.finding import Finding
from batchwright.doctor.records import Run, Update
from batchwright.typing import FloatArray

SHARED = 0.01
"""The least share of samples on several ranks that is no coincidence, if known by index."""

SHARED_CONTENTS = 0.3
"""The same if samples are known by their content: data have duplicates."""

DISTINCT = 0.9
"""If a smaller share of a rank's samples is distinct, contents do not tell samples apart."""

UNEVEN = 1.1
"""Weights of targets that differ by less hardly matter."""

WAITING = 0.05
"""The least share of the time spent waiting for other ranks that is reported."""

SLOW = 0.1
"""The same if one rank is slower at the same work: times of a rank vary."""

MOSTLY = 0.8
"""The least share of updates in which one rank is the last that is no coincidence."""

FEWEST = 8
"""The fewest updates from which waiting for slower ranks is judged."""


def samples_of_ranks(run: Run) -> Iterator[Finding]:
    """Find samples that several ranks train on in one epoch.

    Samples that fill the last batches are no mistake, nor are those that are drawn by weight,
    unless two ranks draw the same samples in the same order.
    """
    epochs = [each for each in epochs_of(run) if len(each.passes) > 1]
    found = [_same_samples(each) or _common_samples(each) for each in epochs]
    known = [each for each in found if each is not None]
    if not known:
        return
    share, figure = max(known)
    cure, code = _STREAM
    if epochs[0].has_indices:
        cure, code = _SPLITTING.get(run.framework, _SAMPLER)
    yield Finding(
        name="ranks see the same samples",
        level="error",
        figure=figure,
        cost=(
            f"{percent(share)} of the work repeats another rank's: an epoch takes that much "
            "longer, and updates have fewer distinct samples than their size suggests."
        ),
        cure=f"{cure} (If ranks split the model and not the data, this is right.)",
        share=share,
        code=code,
    )


_Cure = tuple[str, tuple[str, ...]]
"""A sentence, and lines of code."""

_SPLITTING: dict[str, _Cure] = {
    "accelerate": (
        "Give the loader to `prepare`, which splits it among the ranks.",
        ("loader = accelerator.prepare(loader)",),
    ),
    "lightning": (
        "Let the trainer split the data among the ranks.",
        ("Trainer(…, use_distributed_sampler=True)",),
    ),
}
_SAMPLER: _Cure = (
    "Give each rank its own part of the data.",
    (
        "sampler = DistributedSampler(dataset)  # and sampler.set_epoch(epoch) before each epoch",
        "loader = DataLoader(dataset, batch_size=…, sampler=sampler)",
    ),
)
_STREAM: _Cure = (
    "Let each rank read its own part of the stream, and each of its workers a part of that.",
    ("dataset = datasets.distributed.split_dataset_by_node(dataset, rank, world_size)",),
)


def _same_samples(epoch: Epoch) -> tuple[float, str] | None:
    """Say that all ranks have the same order, and what share of the work that repeats."""
    first, *others = [beginning(each) for each in epoch.passes]
    if not all(same_order(first, each) for each in others):
        return None
    ranks, compared = len(epoch.passes), min(each.size for each in (first, *others))
    return 1 - 1 / ranks, (
        f"{ranks} ranks have the same samples in the same order: the first "
        f"{number(compared)} of an epoch are equal."
    )


def _common_samples(epoch: Epoch) -> tuple[float, str] | None:
    """Say how many samples of a rank are also another's, if that is no chance."""
    loader, parts = epoch.loader, [beginning(each) for each in epoch.passes]
    limit = SHARED
    if epoch.has_indices:  # the batches at the end may be filled with those of the beginning
        end = (loader.num_samples or 0) // epoch.world_size - 2 * epoch.batch_size
        parts = [each[: max(0, end)] for each in parts]
    own = [np.unique(each) for each in parts]
    total, distinct = sum(each.size for each in own), np.unique(np.concatenate(own)).size
    if not epoch.has_indices:
        limit = SHARED_CONTENTS
        if any(one.size < DISTINCT * each.size for one, each in zip(own, parts, strict=True)):
            return None
    common = total - distinct
    if draws(loader) or common <= epoch.world_size or common < limit * total:
        return None
    return common / total, (
        f"Of {plural(total, 'sample')} that {len(parts)} ranks had in an epoch, "
        f"{number(common)} ({percent(common / total)}) were also on another rank."
    )


def counts_of_ranks(run: Run) -> Iterator[Finding]:
    """Find epochs in which one rank has reached the end, and another has had more batches."""
    for at, epoch in enumerate(epochs_of(run)):
        counts = [len(each.batches) for each in epoch.passes]
        ended = [len(each.batches) for each in epoch.passes if each.is_complete]
        if len(counts) < 2 or not ended or max(counts) == min(ended):
            continue
        least, most = min(ended), max(counts)
        code: tuple[str, ...] = ()
        cure = (
            "Give every rank the same number of batches: cut to the smallest, or let a sampler add "
            "samples."
        )
        if run.framework == "accelerate":
            cure = "Keep the default even_batches=True: it gives every rank equally many batches."
            code = ("DataLoaderConfiguration(even_batches=True)",)
        elif epoch.has_indices:
            cure = "Use a DistributedSampler: it gives every rank the same number of batches."
            code = ("sampler = DistributedSampler(dataset)",)
        yield Finding(
            name="ranks with different counts",
            level="error",
            figure=(
                f"In epoch {at + 1}, rank {counts.index(most)} had {plural(most, 'batch')}, and "
                f"another reached the end after {number(least)}."
            ),
            cost=(
                "The rank with more batches waits for the others until the timeout; or, under "
                "`Join`, only some ranks make the last updates."
            ),
            cure=cure,
            share=1 - least / most,
            code=code,
        )
        return


def batches_of_ranks(run: Run) -> Iterator[Finding]:
    """Find updates in which a target weighs more on one rank than on another.

    Gradients are averaged over ranks. If it is known how each backward pass weights a target, that
    decides; else different numbers of samples are reported, assuming a mean over them. Nothing is
    found here if `mean_of_means` finds the same over all batches of all ranks.

    Source: huggingface/transformers#34191, and the same for gradients that ranks average.
    """
    updates = _updates(run)
    weighed = [each for each in map(_weights, updates) if each is not None]
    if len(weighed) >= FEWEST:
        if not any(mean_of_means(run)):
            yield from _unequal_weights(run, weighed)
        return
    rows = np.array([[_rows(each) for each in ranks] for ranks in updates])
    epochs = epochs_of(run)
    if len(updates) < FEWEST or epochs[0].loader.is_planned:
        return
    ratio = float(np.median(rows.max(axis=1) / rows.min(axis=1)))
    if ratio < UNEVEN:
        return
    at = int(np.argmin(np.abs(rows.max(axis=1) / rows.min(axis=1) - ratio)))
    yield _unequal(
        run,
        figure=(
            f"In the median update, ranks have from {number(rows[at].min())} to "
            f"{plural(int(rows[at].max()), 'sample')}."
        ),
        cost=(
            f"If each rank's loss is the mean over its samples, some samples weigh {ratio:.2f} × "
            "as much as others."
        ),
        share=_misplaced(np.ones_like(rows, np.float64), rows.astype(np.float64)),
    )


def _unequal_weights(run: Run, weighed: Sequence[FloatArray]) -> Iterator[Finding]:
    masses, targets = np.stack(weighed).transpose(1, 0, 2)
    weights = masses / targets
    ratios = weights.max(axis=1) / weights.min(axis=1)
    ratio = float(np.median(ratios))
    if ratio < UNEVEN:
        return
    share = _misplaced(masses, targets)
    yield _unequal(
        run,
        figure=(
            f"A target weighs {ratio:.2f} × as much on one rank as on another (median of "
            f"{plural(len(ratios), 'update')}; at most {float(ratios.max()):.2f} ×): ranks have "
            f"from {number(targets.min())} to {number(targets.max())} targets."
        ),
        cost=f"{percent(share)} of the weight in the gradient is misplaced.",
        share=share,
    )


def _unequal(run: Run, *, figure: str, cost: str, share: float) -> Finding:
    cure = "Divide the sum of the loss by the number of targets on all ranks, not on one rank."
    code: tuple[str, ...] = (
        "count = (labels != -100).sum()  # the targets of this rank in the update",
        "torch.distributed.all_reduce(count)",
        "loss = loss_sum * world_size / count",
    )
    if run.framework in {"transformers", "trl"}:
        code = ("TrainingArguments(…, average_tokens_across_devices=True)",)
    return Finding(
        name="ranks with unequal batches",
        level="warning",
        figure=figure,
        cost=cost,
        cure=cure,
        share=share,
        code=code,
    )


def _misplaced(masses: FloatArray, targets: FloatArray) -> float:
    """Return the share of the gradient's weight that is not where the targets are."""
    of_gradient = masses / masses.sum(axis=1, keepdims=True)
    of_targets = targets / targets.sum(axis=1, keepdims=True)
    return float(np.abs(of_gradient - of_targets).sum(axis=1).mean() / 2)


def _updates(run: Run) -> list[tuple[Update, ...]]:
    """Return the updates in which every rank has a batch, rank by rank; none of a single rank."""
    epochs = [each for each in epochs_of(run) if len(each.passes) > 1]
    updates = [each for epoch in epochs for each in epoch.updates]
    widest = max(map(len, updates), default=0)
    return [
        each
        for each in updates
        if len(each) == widest and all(one.batches and _rows(one) for one in each)
    ]


def _rows(update: Update) -> int:
    return sum(each.rows for each in update.batches)


def _weights(ranks: Sequence[Update]) -> FloatArray | None:
    """Return float64[2, ranks]: the weight of each rank's targets, and their number.

    None where it is not known of every backward pass.
    """
    found = []
    for update in ranks:
        known = [(each.weight, each.counted) for each in update.backwards]
        mass = sum(weight * count for weight, count in known if weight and count)
        targets = sum(count for weight, count in known if weight and count)
        if not known or not targets or not all(weight and count for weight, count in known):
            return None
        found.append((mass, targets))
    return np.array(found, np.float64).T


def waiting_for_ranks(run: Run) -> Iterator[Finding]:
    """Find updates in which ranks have unequal work, so that all wait for the one with most.

    The work of a batch is its number of rows times the longest. A rank that is slower at the same
    work is found by the seconds it takes, if it is the same rank in nearly all updates.
    """
    updates = _updates(run)
    if len(updates) < FEWEST:
        return
    work = np.array([[_padded(each) for each in ranks] for ranks in updates], np.float64)
    share = _waited(work)
    times = np.array([[each.forward or 0.0 for each in ranks] for ranks in updates])
    is_timed = bool((times > 0).all())
    if share >= WAITING:
        typical = float(np.median(work.max(axis=1) / work.mean(axis=1)))
        figure = (
            f"The slowest rank of an update has {typical:.2f} × the mean work, in padded tokens "
            f"(median of {plural(len(updates), 'update')})."
        )
        if is_timed:
            lost = (times.max(axis=1) - times.mean(axis=1)).mean()
            figure += f" Measured, its forward pass takes {duration(float(lost))} longer."
        yield _waits(
            share,
            figure,
            cure=(
                "Plan the batches for all ranks together: those of an update are assigned so that "
                "ranks have equal work. Several batches per update even it out further."
            ),
            code=_balancing(run),
        )
        return
    if not is_timed or _waited(times) < SLOW:
        return
    slowest = np.bincount(times.argmax(axis=1), minlength=times.shape[1])
    rank = int(slowest.argmax())
    if slowest[rank] < MOSTLY * len(updates):
        return
    others = np.delete(times, rank, axis=1)
    yield _waits(
        _waited(times),
        (
            f"Rank {rank} is the last in {percent(float(slowest[rank] / len(updates)))} of "
            f"{plural(len(updates), 'update')}: it takes {duration(float(times[:, rank].mean()))}, "
            f"the others {duration(float(others.mean()))}, for as many padded tokens."
        ),
        cure="Check what else runs on that machine or device, and its clock and temperature.",
        code=(),
    )


def _balancing(run: Run) -> tuple[str, ...]:
    ranks = run.world_size
    planner = f'planner = bw.Planner(lengths, batch_size=…, world_size={ranks}, cost="padded")'
    if run.framework in {"transformers", "trl"}:
        return (planner, "use_plan(trainer, planner)")
    return (planner, "loader = PlanLoader(dataset, planner, collate_fn=…)")


def _padded(update: Update) -> int:
    return sum(each.all_padded_tokens for each in update.batches)


def _waited(work: FloatArray) -> float:
    """Return the share of the time in which ranks wait for the slowest, over all updates."""
    return float(1 - work.mean(axis=1).sum() / work.max(axis=1).sum())


def _waits(share: float, figure: str, cure: str, code: tuple[str, ...]) -> Finding:
    return Finding(
        name="waiting for the slowest rank",
        level="warning",
        figure=figure,
        cost=f"Ranks wait for about {percent(share)} of the time of forward and backward passes.",
        cure=cure,
        share=share,
        code=code,
    )
