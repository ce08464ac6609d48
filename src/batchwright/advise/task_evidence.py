"""Everything that trials can find out about a task, within a time limit known before."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from batchwright._format import number
from batchwright.advise.advice import configuration
from batchwright.advise.data_profile import profile_data
from batchwright.advise.evidence import Evidence
from batchwright.advise.machine import profile_hardware, profile_model
from batchwright.advise.rules import advise
from batchwright.advise.sample_profiles import profile_samples
from batchwright.advise.trials import LearningTrial, run_learning_trials, run_trials
from batchwright.errors import TaskError

if TYPE_CHECKING:
    from batchwright.compare import Strategy, Task

SECONDS = 120.0
"""Time limit of the trials of any run."""

SHARE = 0.05
"""Share of a long run that its trials may take, if that is more."""

_UPDATES = 3
_SPEED = 0.15  # share of the limit for trials of speed, after the look at the model
_LOOK = 0.25  # the model is looked at if that is expected to take at most this share
_LOOKED_AT = 25  # batches that it runs, about, those on fake tensors included

_ORDER = 0.7  # of what is left for a curriculum, where that is enough for one


@dataclass(frozen=True)
class Price:
    """The time of a run, and the time limit of its trials."""

    run_seconds: float  # estimate for a whole run in plain batches, without evaluations
    batch_seconds: float  # to train on a batch
    evaluation_seconds: float  # of an evaluation
    seconds: float | None  # limit of the trials. None: they are limited in updates
    is_given: bool  # whether the user gave the limit
    updates: int | None = None  # of each strategy in a trial. None: limited in seconds

    def __str__(self) -> str:
        """Return it as a sentence or two."""
        run = f"A run in plain batches takes about {number(self.run_seconds)} s here."
        if self.seconds is None:
            return f"{run} A trial takes at most {self.updates:,} updates of each strategy."
        why = "" if self.is_given else f", the larger of {SECONDS:.0f} s and {SHARE:.0%} of it"
        return f"{run} Trials take at most {self.seconds:,.0f} s{why}."


@dataclass(frozen=True)
class Found:
    """What trials found out."""

    evidence: Evidence  # for the rules
    price: Price  # its time limit
    seconds: float  # the time that trials took


def price_trials(task: Task, *, seconds: float | None = None, updates: int | None = None) -> Price:
    """Estimate the time of a run from a few updates in plain batches, and limit its trials.

    Raises:
        TaskError: If both seconds and updates are given, or one of them is not positive.
    """
    if seconds is not None and updates is not None:
        raise TaskError("trials are limited by seconds or by updates: give only one of them.")
    for name, limit in (("seconds", seconds), ("updates", updates)):
        if limit is not None and not 0 < limit < math.inf:
            raise TaskError(f"{name}={limit}: expected a positive number.")
    from batchwright.compare import Strategy
    from batchwright.compare.arm import Arm

    arm = Arm(task, Strategy.named("plain"), seed=0)
    arm.update()  # prepares kernels
    each = median(arm.update() for _ in range(_UPDATES))
    started = time.perf_counter()
    arm.evaluate()
    evaluation = time.perf_counter() - started
    run = each * arm.updates_of_run
    most = max(SECONDS, SHARE * run) if seconds is None else seconds
    return Price(
        run_seconds=run,
        batch_seconds=each / arm.planner.accumulate,
        evaluation_seconds=evaluation,
        seconds=most if updates is None else None,
        is_given=seconds is not None or updates is not None,
        updates=updates,
    )


def examine_task(
    task: Task,
    *,
    seconds: float | None = None,
    updates: int | None = None,
    seed: int = 0,
    announce: Callable[[Price], None] = lambda _: None,
    watch: Callable[[str, float], None] = lambda *_: None,
) -> Found:
    """Profile a task's data, machine and model, and run its trials.

    Args:
        task: The task.
        seconds: Time limit of the trials. None: `SECONDS`, or `SHARE` of a longer run.
        updates: Updates of each strategy in a trial, instead of a time limit.
        seed: Of weights, batches and random parts.
        announce: Called with the price before the trials.
        watch: Called with what is under way, and the share of it that is done.

    Raises:
        TaskError: If the task fails, or the limits are not positive.
        BudgetError: If a sample alone exceeds its budget.
    """
    from batchwright.compare import Strategy, check_task

    watch("planning", 0.0)
    data = profile_data(task.sizes, max_tokens=task.max_tokens, seed=seed)
    watch("timing products", 0.0)
    hardware = profile_hardware()
    watch("checking the task", 0.0)
    check_task(task)
    known = {name: getattr(task, name) for name in ("labels", "groups", "samples", "features")}
    samples = profile_samples(task.sizes, **known, seed=seed, watch=watch)
    price = price_trials(task, seconds=seconds, updates=updates)
    announce(price)
    started = time.perf_counter()
    limit = math.inf if price.seconds is None else price.seconds
    model = None
    if _LOOKED_AT * price.batch_seconds <= _LOOK * limit:
        watch("looking at the model", 0.0)
        memory_bytes = None if hardware is None else hardware.memory_bytes
        model = profile_model(task, memory_bytes=memory_bytes, seed=seed)
    kinds = ["plain"] if data.is_constant else ["plain", "grouped", "planned"]
    precisions = [] if hardware is None else hardware.speed_over_fp32
    names = [*kinds, *(f"{kinds[-1]}+{each}" for each in precisions)]
    trials = run_trials(
        task,
        [Strategy.named(name) for name in names],
        seconds=_SPEED * limit,
        at_most=started + limit - time.perf_counter(),
        updates=updates,
        seed=seed,
        watch=partial(watch, "trying speed"),
    )
    evidence = Evidence(
        data,
        hardware,
        trials={each.name: each for each in trials},
        difficulties=tuple(task.difficulties),
        model=model,
        step_tokens=task.step_tokens,
        **samples,
    )
    learning: dict[str, LearningTrial] = {}
    # Where updates are too slow for trials of speed, they are for others, too.
    variations = _variations(task, evidence) if trials else []
    for said, (base, *others), share in variations:
        expected = evidence.trials.get(base.name, evidence.trials["plain"]).run_seconds
        done = run_learning_trials(
            task,
            [base, *others],
            seconds=started + limit - time.perf_counter(),
            wanted=share,
            run_seconds=expected,
            evaluation_seconds=price.evaluation_seconds,
            updates=updates,
            seed=seed,
            watch=partial(watch, said),
        )
        learning |= {each.name: each for each in done}
    return Found(replace(evidence, learning=learning), price, time.perf_counter() - started)


def _variations(task: Task, evidence: Evidence) -> list[tuple[str, list[Strategy], float]]:
    """Return trials, the most important first: what is tried, the strategies, and a share of time.

    The first strategy is the one that trials of speed advise, the others are variations of it.
    """
    from batchwright.compare import Strategy

    base = Strategy.named(configuration(advise(evidence)))
    found = []
    if task.difficulties:
        order = f"curriculum:{next(iter(task.difficulties))}"
        found.append(
            ("trying an order", [base, replace(base, name="curriculum", order=order)], _ORDER)
        )
    sizes = {"twice": 2 * task.step_tokens}
    if task.step_tokens >= 2 * task.max_tokens:
        sizes["half"] = task.step_tokens // 2
    others = [
        replace(base, name=name, options={"step_tokens": size}) for name, size in sizes.items()
    ]
    return [*found, ("trying other updates", [base, *others], 1.0)]
