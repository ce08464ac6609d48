"""Whether the loss of a resumed run goes on where it was at the checkpoint."""

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
"""Updates that show the loss that training began with."""

_LEAST = 4
"""Updates before and after that have to be known, as their scatter is not otherwise."""

_SCATTER = 3.0
"""Times the scatter of updates that a jump exceeds."""

_SHARE = 0.2
"""Of the loss before that a jump exceeds."""

_BACK = 0.25
"""Of the way back to the loss that training began with that a jump exceeds."""


def find_loss_jump(before: Run, after: Run, update: int, *, first: Run) -> Iterator[Finding]:
    """Yield a finding where the loss falls back after resuming.

    Args:
        before: The run that was killed.
        after: The run that was resumed.
        update: After which update of `before` the checkpoint was written.
        first: The run that training began with.

    Yields:
        The jump, if it is several times the scatter of updates, at least 20 %, and leads back
        toward the loss that training began with; and if the killed run, which went on for some
        updates, has none.

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
        f"The loss was {number(level)} in the {plural(len(last), 'update')} before the checkpoint, "
        f"which vary by {number(scatter)}, and {number(now)} in the first "
        f"{plural(len(came), 'update')} after resuming. Training had begun at {number(start)}.",
        "Part of what was trained up to the checkpoint is trained again, after each interruption.",
        cure,
        share=min(1.0, abs((now - level) / (start - level))),
        code=code,
    )


def losses_of(run: Run) -> FloatArray:
    """Return the mean loss of each update over its batches and all ranks; NaN: not known.

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
    """Return the mean over the targets of a batch; where nothing is known of it, what it is."""
    if backward.loss is None:
        return None
    loss = backward.loss / backward.factor if backward.factor else backward.loss
    if backward.reduction == "sum":
        return loss / backward.counted if backward.counted else None
    return loss


def _is_comparable(before: Run, after: Run) -> bool:
    """Check whether losses are the same quantity: means; or those of updates that are alike."""
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
    """Return the standard deviation of updates around what changes evenly."""
    return float(np.diff(losses).std() / np.sqrt(2)) if losses.size > 2 else 0.0
