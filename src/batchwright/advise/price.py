"""What advice may cost, known before the trials begin."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from batchwright.errors import TaskError

if TYPE_CHECKING:
    from batchwright.compare import Task

SECONDS = 120.0
"""What trials may take of any run."""

SHARE = 0.05
"""What they may take of a long one."""

_UPDATES = 3


@dataclass(frozen=True)
class Price:
    """What a run takes as it is, and what its trials may take.

    Attributes:
        run_seconds: A whole run of the task in plain batches is estimated to take, evaluations
            apart.
        batch_seconds: To train on a batch.
        evaluation_seconds: To evaluate once.
        seconds: Trials may take. None: they are limited in updates.
        is_given: Whether the user has said how much trials may take.
        updates: Of each strategy in a trial. None: trials are limited in seconds.
    """

    run_seconds: float
    batch_seconds: float
    evaluation_seconds: float
    seconds: float | None
    is_given: bool
    updates: int | None = None

    def told(self) -> str:
        """Say it."""
        run = f"A run in plain batches takes about {_rounded(self.run_seconds)} s here."
        if self.seconds is None:
            return f"{run} A trial takes at most {self.updates:,} updates of each strategy."
        why = "" if self.is_given else f", the larger of {SECONDS:.0f} s and {SHARE:.0%} of it"
        return f"{run} Trials take {self.seconds:,.0f} s at most{why}."


def _rounded(seconds: float) -> str:
    """Write seconds: whole ones, or of less than ten two digits."""
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.2g}"


def price_trials(task: Task, *, seconds: float | None = None, updates: int | None = None) -> Price:
    """Estimate what a run takes, from a few updates in plain batches, and set a limit from that.

    Args:
        task: The task.
        seconds: What trials may take. None: the larger of 2 minutes and a twentieth of the run.
        updates: Of each strategy in a trial, in place of seconds: the same trials on any machine.

    Raises:
        TaskError: If both are given, or one of them is no positive number.
    """
    if seconds is not None and updates is not None:
        raise TaskError("trials are limited by seconds or by updates: give one of them.")
    if seconds is not None and not 0 < seconds < math.inf:
        raise TaskError(f"seconds={seconds}: expected a positive number.")
    if updates is not None and updates < 1:
        raise TaskError(f"updates={updates}: expected a positive integer.")
    from batchwright.compare import Strategy
    from batchwright.compare.arm import Arm

    arm = Arm(task, Strategy.named("plain"), seed=0)
    arm.update()  # prepares kernels
    each = median(arm.update() for _ in range(_UPDATES))
    started = time.perf_counter()
    arm.evaluate()
    evaluation = time.perf_counter() - started
    run = each * arm.updates_of_run
    batch = each / arm.planner.accumulate
    if updates is not None:
        return Price(run, batch, evaluation, None, is_given=True, updates=updates)
    limit = max(SECONDS, SHARE * run) if seconds is None else seconds
    return Price(run, batch, evaluation, limit, is_given=seconds is not None)
