"""Whether the loss of a resumed run continues where it was at the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from batchwright._format import number, plural
from batchwright.doctor.finding import Finding
from batchwright.doctor.records import Backward, Run, Update
from batchwright.doctor.resuming.cures import COMPLETE_STATE
from batchwright.typing import FloatArray

_BEFORE, _AFTER = 8, 4
"""Updates before a checkpoint, and after it, whose mean losses are compared."""

_BEGIN = 3
"""Updates that show the loss at the start of training."""

_LEAST = 4
"""Updates that must be known before and after, to know their scatter."""

_SCATTER = 3.0
"""A jump exceeds this many times the scatter of updates."""

_SHARE = 0.2
"""A jump exceeds this share of the loss before it."""

_BACK = 0.25
"""A jump exceeds this share of the way back to the loss at the start of training."""


def find_loss_jump(before: Run, after: Run, update: int, *, first: Run) -> Iterator[Finding]:
    """Yield a finding where the loss falls back after resuming.

    Args:
        before: The run that was killed.
        after: The run that was resumed.
        update: The update of `before` after which the checkpoint was written.
        first: The run with which training began.

    Yields:
        The jump, if it is several times the scatter of updates, at least 20 %, and leads back
        toward the loss at the start of training; and if the killed run has no such jump in its
        updates after the checkpoint.

    Example:
        >>> empty = Run(ranks=())
        >>> list(find_loss_jump(empty, empty, 0, first=empty))
        []
    """
    if not _is_comparable(before, after):
        return
    known, begun = losses_of(before), _finite(losses_of(first)[:_BEGIN])
    last = _finite(known[max(0, update - _BEFORE) : update])
    killed = _finite(known[update : update + _AFTER])
    came = _finite(losses_of(after)[:_AFTER])
    if min(last.size, came.size) < _LEAST or not begun.size:
        return
    level, now, start = float(last.mean()), float(came.mean()), float(begun.mean())
    scatter = max(_scatter(last), _scatter(came))
    way = np.sign(start - level)
    for reference in (level, *([float(killed.mean())] if killed.size else [])):
        least = max(_SCATTER * scatter, _SHARE * abs(reference), _BACK * abs(start - reference))
        if way * (now - reference) <= least:
            return
    cure, code = COMPLETE_STATE
    yield Finding(
        "loss jumps on resume",
        "error",
        f"The loss was {number(level)} in the {plural(len(last), 'update')} before the checkpoint "
        f"(scatter {number(scatter)}), and {number(now)} in the first "
        f"{plural(len(came), 'update')} after resuming. Training began at {number(start)}.",
        "After each interruption, part of the training before the checkpoint is repeated.",
        cure,
        share=min(1.0, abs((now - level) / (start - level))),
        code=code,
    )


def losses_of(run: Run) -> FloatArray:
    """Return the mean loss of each update over its batches and all ranks; NaN if unknown.

    Returns:
        float64[updates].
    """
    ranks = [each.updates for each in run.ranks]
    count = min((len(each) for each in ranks), default=0)
    losses = [_mean([each[place] for each in ranks]) for place in range(count)]
    return np.array(losses, np.float64)


def _finite(losses: FloatArray) -> FloatArray:
    return losses[np.isfinite(losses)]


def _mean(updates: list[Update]) -> float:
    found = [_loss(each) for update in updates for each in update.backwards]
    known = [each for each in found if each is not None]
    return float(np.mean(known)) if known and len(known) == len(found) else float("nan")


def _loss(backward: Backward) -> float | None:
    """Return the mean loss over the targets of a batch; if they are unknown, the loss itself."""
    if backward.loss is None:
        return None
    loss = backward.loss / backward.factor if backward.factor else backward.loss
    if backward.reduction == "sum":
        return loss / backward.counted if backward.counted else None
    return loss


def _is_comparable(before: Run, after: Run) -> bool:
    """Check whether losses are comparable: means, or of updates with equally many batches."""
    if all(_is_known(each) for each in (before, after)):
        return True
    counts = {len(one.backwards) for run in (before, after) for one in _updates(run)}
    return before.world_size == after.world_size and len(counts) == 1


def _is_known(run: Run) -> bool:
    return all(
        each.reduction is not None and each.factor is not None
        for update in _updates(run)
        for each in update.backwards
    )


def _updates(run: Run) -> tuple[Update, ...]:
    return run.first.updates if run.first is not None else ()


def _scatter(losses: FloatArray) -> float:
    """Return the standard deviation of updates around their trend."""
    return float(np.diff(losses).std() / np.sqrt(2)) if losses.size > 2 else 0.0
