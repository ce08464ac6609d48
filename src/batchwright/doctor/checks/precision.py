"""Number formats: the loss scale of fp16, what autocast covers, and 16 bits that are not used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from batchwright._format import number, percent, plural
from batchwright.doctor.checks.weights import SEVERAL
from batchwright.doctor.finding import Finding
from batchwright.doctor.records import Rank, Run

WARM_UP = 10
"""Updates in which a scaler may look for its scale: it begins too high."""

_FALLS = 4  # halvings after that, without a rise
_SKIPPED = 0.05  # of updates
_SINGLE = 0.2  # of the work under autocast that may be in fp32
_MOST = 0.5  # of the work without autocast
_WORTH = 1e7  # operations of a forward pass: with fewer, the format hardly matters

_FULL = ("fp32", "fp64")


def loss_scale(run: Run) -> Iterator[Finding]:
    """Find a loss scale that sinks below 1, or sinks again and again.

    Source: pytorch/pytorch#99640; a scaler has no floor, and reaches 0 without an error.

    Example:
        >>> list(loss_scale(Run(ranks=())))
        []
    """
    rank = _scaled(run)
    scales = [each.loss_scale for each in rank.updates if each.loss_scale is not None]
    if len(scales) < SEVERAL:
        return
    later = list(pairwise(scales[WARM_UP:]))
    falls = sum(after < before for before, after in later)
    rises = sum(after > before for before, after in later)
    if not (scales[-1] < 1 <= scales[0]) and (falls < _FALLS or rises):
        return
    yield Finding(
        name="loss scale sinks",
        level="warning",
        figure=(
            f"The loss scale fell from {number(max(scales))} to {_small(scales[-1])} in "
            f"{plural(len(scales), 'update')}."
        ),
        cost=(
            "Each time it sinks, an update is skipped, and more small gradients become 0 in fp16."
        ),
        cure=_instead_of_fp16(run),
        share=sum(each.was_skipped for each in rank.updates) / len(rank.updates),
    )


def _small(value: float) -> str:
    return number(value) if value >= 0.01 else f"{value:.0e}"


def skipped_updates(run: Run) -> Iterator[Finding]:
    """Find updates that are skipped after the first ones, in which a scaler finds its scale.

    Example:
        >>> list(skipped_updates(Run(ranks=())))
        []
    """
    later = _scaled(run).updates[WARM_UP:]
    skipped = sum(each.was_skipped for each in later)
    if len(later) < WARM_UP or skipped < 2 or skipped <= _SKIPPED * len(later):
        return
    share = skipped / len(later)
    yield Finding(
        name="steps skipped",
        level="warning",
        figure=(
            f"{skipped} of {plural(len(later), 'update')} were skipped because gradients were not "
            f"finite; the first {WARM_UP} are not counted."
        ),
        cost=f"{percent(share)} of the time went into updates that changed nothing.",
        cure=_instead_of_fp16(run),
        share=share,
    )


def _scaled(run: Run) -> Rank:
    """Return a rank that scales its loss; one without updates if none does."""
    found = (rank for rank in run.ranks if any(u.loss_scale is not None for u in rank.updates))
    return next(found, Rank(0, 1, loaders=(), updates=()))


def _instead_of_fp16(run: Run) -> str:
    if any("bf16" in rank.fast_formats for rank in run.ranks):
        return "Use bf16: it needs no loss scale, and is fast on this device too."
    return (
        "Use bf16 if the device supports it: it needs no loss scale. Otherwise, let "
        "`batchwright.torch.Audit` name the layers that overflow, and keep those in fp32."
    )


def schedules(run: Run) -> Iterator[Finding]:
    """Find learning rate schedules that step although the update was skipped.

    A schedule that steps once per epoch should do so, whatever happened to the last update.

    Source: pytorch/pytorch#44511, Lightning-AI/pytorch-lightning#5558, huggingface/accelerate#4242.

    Example:
        >>> list(schedules(Run(ranks=())))
        []
    """
    updates = _scaled(run).updates[:-1]  # what follows the last is not seen
    if len(updates) < SEVERAL or np.median([each.schedules for each in updates]) < 1:
        return
    moved = [each.schedules > 0 for each in updates if each.was_skipped]
    if not any(moved):
        return
    yield Finding(
        name="schedule runs while steps are skipped",
        level="warning",
        figure=(
            f"The learning rate schedule stepped after {sum(moved)} of "
            f"{plural(len(moved), 'skipped update')}."
        ),
        cost="The schedule is ahead of the training: a warm-up, for example, ends too early.",
        cure="Step the schedule only if the loss scale did not fall.",
        share=sum(moved) / len(updates),
        code=(
            "scale = scaler.get_scale()",
            "scaler.step(optimizer)",
            "scaler.update()",
            "if scaler.get_scale() >= scale:",
            "    scheduler.step()",
        ),
    )


def clipping(run: Run) -> Iterator[Finding]:
    """Find gradients that are clipped while the loss scale is in them.

    Example:
        >>> list(clipping(Run(ranks=())))
        []
    """
    rank = _scaled(run)
    scales = [
        each.loss_scale
        for each in rank.updates
        if each.clips_scaled and each.loss_scale is not None and each.loss_scale > 1
    ]
    if len(scales) < 2:
        return
    scale = number(float(np.median(scales)))
    yield Finding(
        name="gradients clipped before unscaling",
        level="error",
        figure=(
            f"In {len(scales)} of {plural(len(rank.updates), 'update')}, gradients were clipped "
            f"while they were still multiplied by the loss scale, {scale}."
        ),
        cost=(
            f"The limit is {scale} times lower than intended: nearly all gradients are clipped, "
            "and after unscaling they are close to 0."
        ),
        cure="Unscale gradients before they are clipped.",
        share=len(scales) / len(rank.updates),
        code=(
            "scaler.unscale_(optimizer)",
            "torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)",
            "scaler.step(optimizer)",
        ),
    )


def autocast(run: Run) -> Iterator[Finding]:
    """Find large matrix products in fp32 although autocast is on.

    Example:
        >>> list(autocast(Run(ranks=())))
        []
    """
    for rank in run.ranks:
        products = rank.products
        if products is None or products.autocast is None or not products.is_training:
            continue
        share = products.share(*_FULL)
        if share <= _SINGLE or len(rank.updates) < SEVERAL:
            continue
        names = [products.largest[each] for each in _FULL if products.largest.get(each)]
        largest = f" The largest is `{names[0]}`." if names else ""
        yield Finding(
            name="autocast misses large products",
            level="warning",
            figure=(
                f"{percent(share)} of the operations in matrix products of a forward pass are in "
                f"fp32, although autocast is on with {products.autocast}.{largest}"
            ),
            cost="They are no faster than without autocast, and their activations stay in fp32.",
            cure=(
                f"Call {f'`{names[0]}`' if names else 'the model'} inside autocast, and remove "
                "`.float()` and `autocast(enabled=False)` where they are not needed."
            ),
            share=share,
        )
        return


def half_precision(run: Run) -> Iterator[Finding]:
    """Find matrix products in fp32 on a device that is faster in 16 bits.

    Example:
        >>> list(half_precision(Run(ranks=())))
        []
    """
    for rank in run.ranks:
        products = rank.products
        if products is None or not products.is_training or not rank.fast_formats:
            continue
        is_single = products.autocast is None and products.parameters == "fp32"
        is_scaled = any(each.loss_scale is not None for each in rank.updates)
        is_small = sum(products.flops.values()) < _WORTH or len(rank.updates) < SEVERAL
        if not is_single or is_scaled or is_small or products.share("fp32") < _MOST:
            continue
        mode = "bf16" if "bf16" in rank.fast_formats else rank.fast_formats[0]
        yield Finding(
            name="fp32 on fast 16-bit hardware",
            level="warning",
            figure=(
                f"{percent(products.share('fp32'))} of the operations in matrix products are in "
                f"fp32; this device multiplies faster in {mode}."
            ),
            cost=(
                "How much time this costs depends on the model, and small models may get slower: "
                "`batchwright advise TASK` measures it."
            ),
            cure=(
                "Train with autocast in bf16."
                if mode == "bf16"
                else f"Train with autocast in {mode} and a gradient scaler."
            ),
            code=_autocast(run.framework, mode, rank.device),
        )
        return


def _autocast(framework: str, mode: str, device: str) -> Sequence[str]:
    """Return how to train in 16 bits in a framework."""
    bits = mode.removesuffix("16")  # "bf" or "fp"
    name = "bfloat16" if bits == "bf" else "float16"
    if framework in {"transformers", "trl"}:
        return (f"TrainingArguments(..., {mode}=True)",)
    if framework == "accelerate":
        return (f'Accelerator(mixed_precision="{mode}")',)
    if framework == "lightning":
        return (f'Trainer(..., precision="{"bf16" if bits == "bf" else "16"}-mixed")',)
    if framework == "keras":
        return (f'keras.config.set_dtype_policy("mixed_{name}")',)
    kind = device.partition(":")[0]
    under = (f'with torch.autocast("{kind}", torch.{name}):', "    loss = loss_of(model, batch)")
    if bits == "bf":
        return under
    return (
        f'scaler = torch.amp.GradScaler("{kind}")',
        *under,
        "scaler.scale(loss).backward()",
        "scaler.step(optimizer)",
        "scaler.update()",
    )
