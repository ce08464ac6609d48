"""Kills a training run, resumes it with the user's own command, and compares the two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from batchwright._format import duration, number, plural
from batchwright._random import generator
from batchwright.doctor.finding import Finding
from batchwright.doctor.launching import OnProgress, watch
from batchwright.doctor.notes import failure_of
from batchwright.doctor.records import Run
from batchwright.doctor.resuming.checkpoints import NOTHING, resumed_from, samples_of
from batchwright.doctor.resuming.continuation import resumed
from batchwright.errors import TaskError
from batchwright.typing import IntArray

SECONDS = 600.0
"""Time limit of each run."""

_MOST = 20
"""Updates after a checkpoint within which a run is killed."""


def check_resume(
    command: Sequence[str],
    resumes: Sequence[Sequence[str]],
    *,
    kill: int | None = None,
    after_save: bool = False,
    workers: int | None = None,
    seed: int = 0,
    seconds: float = SECONDS,
    to_stderr: bool = False,
    on_progress: OnProgress | None = None,
) -> tuple[tuple[Run, ...], tuple[Finding, ...]]:
    """Run a command, kill it after a checkpoint, resume it, and say what went wrong.

    Each run but the last is killed, as ``kill -9`` does, and the next continues from its
    checkpoint. The last run ends after the resumed epoch and one more.

    Args:
        command: Starts the training.
        resumes: Resume it: one command, or several, such as one for each number of ranks.
        kill: The update at whose end runs are killed. None: at random, up to 20 updates after
            their first checkpoint.
        after_save: Whether they are killed in the first update after their first checkpoint.
        workers: Resume once more at the end, with the last command and this number of workers in
            each `DataLoader`.
        seed: Of the random updates.
        seconds: Time limit of each run.
        to_stderr: Whether the output of the runs goes to standard error.
        on_progress: Is called about every second with what was seen of the run.

    Returns:
        What was seen of each run, and what is wrong with how they were resumed, each fault once.
        The `notes` of a run say why it was not resumed.

    Raises:
        TaskError: If there is nothing to resume: no command for it, no update, or no checkpoint;
            or if the first resumed run makes no update.

    Example:
        >>> check_resume(["python", "train.py"], [])
        Traceback (most recent call last):
        ...
        batchwright.errors.TaskError: resuming needs a command that continues from the last ...
    """
    if not resumes:
        raise TaskError(
            "resuming needs a command that continues from the last checkpoint: batchwright doctor "
            "--resume 'python train.py --resume' -- python train.py"
        )
    turns: list[tuple[Sequence[str], int | None]] = [(each, None) for each in (command, *resumes)]
    if workers is not None:
        turns.append((resumes[-1], workers))
    runs: list[Run] = []
    findings: dict[str, Finding] = {}
    earlier: IntArray | None = NOTHING  # samples that earlier runs kept. None: unknown
    for turn, (words, own_workers) in enumerate(turns):
        is_last = turn == len(turns) - 1
        limits = _end(runs[-1]) if is_last else _death(kill, seed, turn, after_save=after_save)
        run = watch(
            words,
            updates=limits.updates,
            epochs=limits.epochs,
            seconds=seconds,
            kill=limits.kill,
            kill_after_save=limits.kill_after_save,
            workers=own_workers,
            to_stderr=to_stderr,
            on_progress=on_progress,
        )
        if run.stopped == "interrupt":
            runs.append(run)
            break
        failure = _failure(run)
        if failure is not None and turn < 2:
            raise TaskError(f"resumed, {failure}" if runs else failure)
        if runs and earlier is not None:
            before = runs[-1]
            for each in resumed(before, run, earlier=earlier, first=runs[0]):
                findings.setdefault(each.name, each)
            found = resumed_from(before, run, earlier)
            earlier = found[0].kept if found is not None else None
        obstacle = failure or (None if is_last else _obstacle(run))
        if obstacle is not None and not runs:
            raise TaskError(f"there is nothing to resume: {obstacle}")
        if obstacle is not None:
            run = replace(run, notes=(*run.notes, f"Run {turn + 1} of {len(turns)}: {obstacle}"))
        runs.append(run)
        if obstacle is not None:
            break
    return tuple(runs), tuple(findings.values())


class _Limits(NamedTuple):
    """When a run ends."""

    kill: int | None = None
    kill_after_save: int | None = None
    updates: int | None = None
    epochs: int | None = None


def _death(kill: int | None, seed: int, turn: int, *, after_save: bool) -> _Limits:
    """Choose when a run is killed."""
    if kill is not None:
        return _Limits(kill=kill)
    if after_save:
        return _Limits(kill_after_save=1)
    drawn = generator(seed, "kill", turn).integers(1, _MOST, endpoint=True)
    return _Limits(kill_after_save=int(drawn))


def _end(before: Run) -> _Limits:
    """Choose when a resumed run ends: after the epoch that follows the resumed one."""
    rank, size = before.first, samples_of(before)
    if rank is None or rank.trained is None:
        return _Limits()
    epochs = len(rank.trained.passes) + 2  # it may repeat the earlier ones
    rows = sum(batch.rows for update in rank.updates for batch in update.batches)
    if size is None or not rows:
        return _Limits(epochs=epochs)
    # On a single rank, an update may hold as many samples as one rank has now.
    updates = math.ceil(2 * size * len(rank.updates) / rows) + _MOST
    return _Limits(updates=updates, epochs=epochs)


def _failure(run: Run) -> str | None:
    """Say why a run showed nothing; None if it made updates."""
    if any(each.updates for each in run.ranks):
        return None
    return " ".join(["the command made no update that was seen.", *run.notes])


def _obstacle(run: Run) -> str | None:
    """Say why a run cannot be resumed, and what to do; None if it can."""
    failure = failure_of(run)
    if failure:
        return f"t{failure.removeprefix('T')}"
    updates = max((len(each.updates) for each in run.ranks), default=0)
    saves = sorted({save for each in run.ranks for save in each.saves})
    is_killed = any(each.ended == "killed" for each in run.ranks)
    if not saves and is_killed:
        return (
            f"it was killed at the end of update {number(updates)}, before its first checkpoint. "
            "Choose a later update, or none: then it is killed after a checkpoint."
        )
    if not saves and run.stopped == "seconds":
        return (
            f"no checkpoint was seen in {duration(run.seconds)} and {plural(updates, 'update')}. "
            "Let the script save more often, or give it more seconds."
        )
    if not saves:
        return (
            f"it ended after {plural(updates, 'update')}, and no checkpoint was seen. Let the "
            "script save more often, with torch.save or safetensors (Trainer: save_steps=10)."
        )
    if is_killed or run.stopped == "seconds":
        return None
    first, last = saves[0], updates - 1
    advice = "Let it train for longer, or save earlier."
    if first < last:
        advice = f"Kill it at an update from {number(first + 1)} to {number(last)} (--kill)."
    return (
        f"it ended after {plural(updates, 'update')}, before it was killed; its first checkpoint "
        f"was written after update {number(first)}. {advice}"
    )
