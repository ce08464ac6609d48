"""Padding: what it costs, whether a loss counts it, and packed documents that read one another."""

from __future__ import annotations

from collections.abc import Iterator

from batchwright._format import number, percent, plural
from batchwright.doctor.cures import cure_of
from batchwright.doctor.finding import Finding, Level
from batchwright.doctor.gains import Gain, gain_of, looked_into, padding_by_column
from batchwright.doctor.records import Run, Update

LITTLE = 0.02
"""Less padding is not reported."""

WORTH = 0.05
"""Share of the time, or of the computed tokens, that is worth a change."""

COUNTED = 0.01
"""A smaller share of the targets is not reported."""


def padding(run: Run) -> Iterator[Finding]:
    """Find padding that planned batches would avoid, over all padded columns."""
    gain = gain_of(run)
    if gain is None or gain.padding < LITTLE or gain.saved <= 0:
        return
    batches, cure = looked_into(run), cure_of(run, gain)
    padded = sum(each.all_padded_tokens for each in batches)
    empty = padded - sum(each.all_tokens for each in batches)
    shares = padding_by_column(run).items()
    columns = ", ".join(f"{percent(share)} of {name}" for name, share in shares)
    level: Level = "warning" if gain.saved_time >= WORTH else "info"
    yield Finding(
        "padding",
        level,
        f"{percent(gain.padding)} of the tokens in {plural(len(batches), 'batch')} are padding: "
        f"{number(empty)} of {number(padded)}{f' ({columns})' if columns else ''}.",
        _cost(gain),
        cure.text
        if level == "warning"
        else "Nothing has to change here. Run the doctor again on a larger model.",
        share=gain.saved_time,
        code=cure.code if level == "warning" else (),
    )


def _cost(gain: Gain) -> str:
    said = (
        f"Planned batches would have {percent(gain.planned_padding)}, at as many real tokens per "
        f"update: {percent(gain.saved)} fewer tokens are computed"
    )
    if gain.tokens_per_second is None or gain.planned_tokens_per_second is None:
        return f"{said}."
    before, after = (
        number(round(each)) for each in (gain.tokens_per_second, gain.planned_tokens_per_second)
    )
    speeds = f"{number(gain.speed or 0)} × the real tokens per second ({before} → {after})"
    if gain.saved_time < WORTH:
        return f"{said}, but that is not faster here: {speeds}. {gain.rests_on}"
    return f"{said}, at {speeds}. {gain.rests_on}"


def padding_in_loss(run: Run) -> Iterator[Finding]:
    """Find losses that count padding: they have more targets than the batches have real tokens."""
    seen = [update for each in run.ranks for update in each.updates if _is_known(update)]
    batches = [batch for update in seen for batch in update.batches]
    targets = sum(each.counted or 0 for update in seen for each in update.backwards)
    tokens = sum(each.tokens for each in batches)
    on_padding = sum(each.counted_padding for each in batches)
    # One target per row may be the end of a text, with which some tokenizers also pad.
    beyond = min(targets - tokens, on_padding) - sum(each.rows for each in batches)
    if beyond <= COUNTED * targets:
        return
    share = on_padding / (on_padding + tokens)
    yield Finding(
        "padding counted in the loss",
        "error",
        f"The loss has {number(targets)} targets in {plural(len(batches), 'batch')} of "
        f"{number(tokens)} real tokens: {percent(share)} of the targets are padding.",
        "The model is trained to predict padding, and the loss looks lower than it is.",
        "Set labels of padding to -100, which losses leave out (or to their ignore_index).",
        share=share,
    )


def _is_known(update: Update) -> bool:
    """Say whether the targets of the loss and the padding of each batch are known."""
    batches, backwards = update.batches, update.backwards
    return (
        0 < len(batches) == len(backwards)
        and all(each.counted is not None for each in backwards)
        and all(each.lengths is not None for each in batches)
    )


def documents(run: Run) -> Iterator[Finding]:
    """Find packed rows whose documents read one another."""
    loaders = [each.trained for each in run.ranks]
    packed = [
        batch for each in loaders if each is not None for batch in each.batches if batch.is_packed
    ]
    mixed = [each for each in packed if not each.is_separated]
    if not mixed:
        return
    yield Finding(
        "documents read one another",
        "error",
        f"In {number(len(mixed))} of {plural(len(packed), 'packed batch')}, documents attend to "
        "those before them in the same row.",
        "What is learnt from a document depends on the others in its row.",
        "Keep documents apart: collate with PackCollator, which returns positions and document ids "
        "but no attention mask, or with DataCollatorWithFlattening.",
        share=len(mixed) / len(packed),
    )
