"""Whether the gradient of an update is right: means of means, wrong divisions, leftovers, NaN."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from batchwright._format import number, percent, plural
from batchwright.doctor.checks.weights import SEVERAL, Weighed, usual_backwards, weighed
from batchwright.doctor.finding import Finding, Level
from batchwright.doctor.records import Backward, Rank, Run, Update
from batchwright.typing import FloatArray

LEAST_RATIO = 1.05
"""Weights of targets that differ by less count as equal."""

WRONG_RATIO, WRONG_ERROR = 2.0, 0.05
"""From here on, a mean of means is an error: ratio of weights, relative error of the gradient."""

_NEAR = 0.1  # of a total, relative: trainers count a few targets that are in no loss
_STALE = 0.75  # of the updates that were looked at: only the first ones are


def mean_of_means(run: Run) -> Iterator[Finding]:
    """Find updates in which a target of one batch counts more than a target of another.

    The weight of a target is what its loss is multiplied by in the gradient. It should be the same
    in all batches of an update, over accumulation and ranks.

    Source: means over batches of unequal size are off by 0.06 to 1.3 of the gradient's norm, in
    our measurements; huggingface/transformers#34191 and many others.

    Example:
        >>> list(mean_of_means(Run(ranks=())))
        []
    """
    comparable = [each for each in weighed(run) if each.is_counted and each.counts.size > 1]
    if len(comparable) < SEVERAL:
        return
    ratio = float(np.median([each.ratio for each in comparable]))
    if ratio < LEAST_RATIO:
        return
    errors = [error for each in comparable for error in each.errors]
    error = float(np.median(errors)) if errors else None
    misplaced = float(np.median([each.misplaced for each in comparable]))
    is_wrong = ratio >= WRONG_RATIO or (error is not None and error >= WRONG_ERROR)
    held = plural(comparable[0].counts.size, "batch")
    ranks = ""
    if run.world_size > 1:
        held += f" on {plural(run.world_size, 'rank')}"
        own = np.stack(
            [each.counts.reshape(-1, each.accumulate).sum(axis=1) for each in comparable]
        )
        ranks = f" A rank has from {number(own.min())} to {number(own.max())} targets in an update."
    cost = (
        f"{percent(misplaced)} of the weight in a gradient is on other targets than in the mean "
        "over all."
    )
    if error is not None:
        cost += f" Measured, the gradient is off by {percent(error)} of its norm."
    cure, code = _weighted(run, comparable[0].accumulate)
    yield Finding(
        name="mean of means",
        level="error" if is_wrong else "warning",
        figure=(
            f"{held} are averaged separately: a target in one counts {number(ratio)} times as much "
            f"as in another (median of {plural(len(comparable), 'update')}).{ranks}"
        ),
        cost=cost,
        cure=cure,
        share=min(1.0, misplaced if error is None else error),
        code=code,
    )


def _weighted(run: Run, accumulate: int) -> tuple[str, Sequence[str]]:
    """Return how to weight all targets of an update equally, in the framework that was seen."""
    if run.framework in {"transformers", "trl"} and accumulate == 1:
        cure = (
            "Let Trainer count the targets of all ranks together, or `use_plan` weight the batches."
        )
        return cure, ("TrainingArguments(…, average_tokens_across_devices=True)",)
    if run.framework in {"transformers", "trl"}:
        cure = (
            "Let `use_plan` weight the batches, or divide the sum of the loss by "
            "`num_items_in_batch` in a `compute_loss_func`."
        )
        plan = "from batchwright.integrations.transformers import use_plan"
        return cure, (plan, "", "use_plan(trainer)", "trainer.train()")
    if run.framework == "lightning":
        cure = (
            "Pass the sum of the loss to `mean` of a `PlanDataModule`, which divides by the "
            "targets of the whole update."
        )
        return cure, ("return self.trainer.datamodule.mean(loss_sum)",)
    if run.framework == "keras":
        cure = (
            "Use a loss that is a sum, with sample weights that divide it: "
            "`batchwright.keras.PlanDataset` provides them."
        )
        return cure, ()
    cure = (
        "Divide the sum of the loss by the number of targets in the whole update: all its batches, "
        "on all ranks. Do this instead of dividing by the number of batches."
    )
    if run.world_size == 1:
        return cure, (
            "# targets: in all batches of the update, which are read before the first backward",
            "loss = loss_sum(model, batch) / targets",
            "loss.backward()",
        )
    return cure, (
        "# targets: in all batches of the update, on all ranks; DDP averages over ranks",
        "loss = loss_sum(model, batch) * world_size / targets",
        "loss.backward()",
    )


def division(run: Run) -> Iterator[Finding]:
    """Find accumulated gradients that are not divided by the number of batches, or divided twice.

    The weights of all targets of an update add up to 1 in a mean over them; to k if the means of k
    batches are only added; to 1/k if a framework divides by k and the script does so too. Any other
    total is taken for a choice, and so is the sum of a loss that nothing divides. If the loss is
    one of several that are added, its factor among them is left out; if that factor may be a
    division itself, nothing is said.

    Source: huggingface/transformers#34191 and the issues that followed it.

    Example:
        >>> list(division(Run(ranks=())))
        []
    """
    updates = [each for each in weighed(run) if each.accumulate > 1]
    if len(updates) < SEVERAL or not all(each.is_plain for each in updates):
        return
    totals = np.array([each.total for each in updates])
    total, accumulate, is_sum = float(np.median(totals)), updates[0].accumulate, updates[0].is_sum
    if _spread(totals) > _NEAR:
        return  # it is not divided by what is in an update
    if abs(total / accumulate - 1) <= _NEAR:
        # The sum over a fixed number of targets may be divided by anything.
        if not is_sum or _spread(np.array([each.counts.sum() for each in updates])) > _NEAR:
            yield _not_divided(run, total, updates)
    elif abs(total * accumulate - 1) <= _NEAR and not (is_sum and run.world_size == accumulate):
        if any(each.is_part for each in updates):
            return  # half of two losses may be their mean
        yield _divided_twice(run, total, updates)


def _spread(values: FloatArray) -> float:
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
    return float((high - low) / middle)


def _counted(total: float, updates: Sequence[Weighed]) -> str:
    return (
        f"the weights of all targets of an update add up to {number(total)}, not 1 (median of "
        f"{plural(len(updates), 'update')})"
    )


def _not_divided(run: Run, total: float, updates: Sequence[Weighed]) -> Finding:
    accumulate = updates[0].accumulate
    cure = f"Divide the loss by {accumulate} before `backward`."
    code: Sequence[str] = (f"(loss / {accumulate}).backward()",)
    if run.framework in {"transformers", "trl"}:  # which divides no loss that takes this argument
        cure = (
            "In a `compute_loss` of your own, divide the sum of the loss by `num_items_in_batch`. "
            "If the model computes the loss, it ignores this number: let `use_plan` weight the "
            f"batches, or Trainer divide by {accumulate}."
        )
        code = (
            "loss = loss_sum / num_items_in_batch  # in your compute_loss; or",
            "trainer.model_accepts_loss_kwargs = False  # before trainer.train()",
        )
    return Finding(
        name="accumulation not divided",
        level="error",
        figure=(
            f"The losses of {accumulate} batches are added, and not divided by {accumulate}: "
            f"{_counted(total, updates)}."
        ),
        cost=(
            f"The gradient is {accumulate} times too large. Adam makes up for most of that; SGD "
            "does not, and gradient clipping, L2 weight decay and eps act differently from how "
            "they were set."
        ),
        cure=cure,
        share=1 - 1 / accumulate,
        code=code,
    )


def _divided_twice(run: Run, total: float, updates: Sequence[Weighed]) -> Finding:
    accumulate = updates[0].accumulate
    who = {
        "accelerate": "`accelerator.backward` divides by gradient_accumulation_steps",
        "transformers": "Trainer divides by gradient_accumulation_steps",
        "trl": "the trainer divides by gradient_accumulation_steps",
        "lightning": "Lightning divides by accumulate_grad_batches",
        "keras": "the optimizer divides by gradient_accumulation_steps",
    }.get(run.framework)
    cure = f"Divide the loss by {accumulate} once."
    if who is not None:
        cure = f"Leave the loss as it is: {who} already."
    # A factor of a half is also common before a squared error.
    level: Level = "warning" if accumulate == 2 else "error"
    return Finding(
        name="accumulation divided twice",
        level=level,
        figure=(
            f"The losses of {accumulate} batches are divided by {accumulate} twice: "
            f"{_counted(total, updates)}."
        ),
        cost=(
            f"The gradient is {accumulate} times too small. Adam makes up for most of that; SGD "
            "does not, and gradient clipping, L2 weight decay and eps act differently from how "
            "they were set."
        ),
        cure=cure,
        share=1 - 1 / accumulate,
    )


def not_cleared(run: Run) -> Iterator[Finding]:
    """Find gradients that are still there when those of the next update are added.

    If a batch is not one call of `backward`, another model may have left them, as when two models
    train against each other. If only some updates have them, it may be intended.

    Example:
        >>> list(not_cleared(Run(ranks=())))
        []
    """
    for rank in run.ranks:
        stale = [
            number
            for number, update in enumerate(rank.updates)
            if number > 0 and update.is_stale and len(update.batches) == len(update.backwards)
        ]
        if len(stale) < 2 or len(stale) < _STALE * stale[-1]:
            continue
        own = 1 / len(rank.updates)
        yield Finding(
            name="gradients not cleared",
            level="error",
            figure=(
                f"In {len(stale)} of {plural(stale[-1], 'update')} after the first, the gradients "
                "of earlier updates were still there."
            ),
            cost=(
                "An update follows the sum of all gradients so far: in the last of "
                f"{plural(len(rank.updates), 'update')}, about {percent(own)} of it is its own."
            ),
            cure="Call `optimizer.zero_grad()` after each `optimizer.step()`.",
            share=1 - own,
            code=("optimizer.step()", "optimizer.zero_grad()"),
        )
        return


def not_finite(run: Run) -> Iterator[Finding]:
    """Find losses of NaN or infinity whose gradient was applied.

    It is an error if no finite loss follows. Otherwise the weights are still finite, as after a
    mean over no target: its gradient is 0.

    Example:
        >>> list(not_finite(Run(ranks=())))
        []
    """
    for rank in run.ranks:
        bad = _not_finite_updates(rank)
        if not bad:
            continue
        finite = [i for i, update in enumerate(rank.updates) if _is_finite(update)]
        lasting = [i for i in bad if not finite or i > finite[-1]]
        yield _not_finite(rank, lasting or bad, is_lasting=bool(lasting))
        return


def _not_finite_updates(rank: Rank) -> list[int]:
    """Return the updates that were applied although one of their losses is not finite.

    Updates with more calls of `backward` than most are left out: if a script checks the gradient
    and clears it instead of a step, the calls of two updates are seen as those of one.
    """
    usual = usual_backwards(rank)
    return [
        number
        for number, update in enumerate(rank.updates)
        if not update.was_skipped
        and len(update.backwards) <= usual
        and any(_is_bad(each) for each in update.backwards)
    ]


def _is_bad(backward: Backward) -> bool:
    return backward.loss is not None and not math.isfinite(backward.loss)


def _is_finite(update: Update) -> bool:
    losses = [each.loss for each in update.backwards if each.loss is not None]
    return bool(losses) and all(map(math.isfinite, losses))


def _not_finite(rank: Rank, bad: Sequence[int], *, is_lasting: bool) -> Finding:
    first = next(each for each in rank.updates[bad[0]].backwards if _is_bad(each))
    is_empty = first.counted == 0
    figure = (
        f"The loss was {first.loss} in {len(bad)} of {plural(len(rank.updates), 'update')}, which "
        f"were applied; first in update {bad[0] + 1}"
    )
    figure += ", which has no target that counts." if is_empty else "."
    if is_lasting:
        cost = "No loss was finite after that: the weights are lost, and nothing more is learnt."
    else:
        cost = "Later losses are finite, so the weights are too; means that include these are not."
    if is_empty:
        cure = (
            "Divide the sum of the loss by the targets of the whole update, or leave out batches "
            "without targets."
        )
    else:
        cure = (
            "Find the operation with `torch.autograd.set_detect_anomaly(True)`, and raise an error "
            "for such gradients."
        )
    refuse = "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)"
    return Finding(
        name="loss not finite",
        level="error" if is_lasting else "warning",
        figure=figure,
        cost=cost,
        cure=cure,
        share=len(bad) / len(rank.updates),
        code=() if is_empty else (refuse,),
    )
