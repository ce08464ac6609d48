"""Everything that can be found out about a task, within a price that is told before."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from batchwright.advise.configuration import configuration
from batchwright.advise.data_profile import DataProfile, profile_data
from batchwright.advise.hardware import Hardware, profile_hardware
from batchwright.advise.learning import LearningTrial, can_learn, run_learning_trials
from batchwright.advise.model_profile import profile_model
from batchwright.advise.price import Price, price_trials
from batchwright.advise.rules import Evidence, advise
from batchwright.advise.sample_profiles import profile_task_samples
from batchwright.advise.trials import run_trials

if TYPE_CHECKING:
    from batchwright.compare import Strategy, Task

_SPEED = 0.15
"""Share of the price for trials of speed, after the look at the model."""

_LOOK = 0.25
"""Share of the price that the look at the model may be expected to take; else it is left out."""

_LOOKED_AT = 25
"""Batches that it runs, about, those on fake tensors included."""

_ORDER = 0.7
"""Share of what is left for a curriculum where the task has scores; all of it, if the rest were too
little for anything else."""


@dataclass(frozen=True)
class Found:
    """What was found out, and what that took.

    Attributes:
        evidence: For the rules.
        price: What it might have taken.
        seconds: What trials took.
    """

    evidence: Evidence
    price: Price
    seconds: float


def examine_task(
    task: Task,
    *,
    seconds: float | None = None,
    updates: int | None = None,
    seed: int = 0,
    tell: Callable[[Price], None] = lambda _: None,
    watch: Callable[[str, float], None] = lambda *_: None,
) -> Found:
    """Look at a task's data, machine and model, and run its trials.

    Guarantees that trials begin only after `tell` was called with what they may take, and that no
    trial goes on after that, but for the update that is under way.

    Args:
        task: The task.
        seconds: What trials may take. None: the larger of 2 minutes and a twentieth of the run.
        updates: Of each strategy in a trial, in place of seconds: the same trials on any machine.
        seed: Of weights and batches.
        tell: Told the price, before trials begin.
        watch: Told what is under way, and the share of it that is over.

    Raises:
        TaskError: If the task does not do what it says, or both seconds and updates are given.
        BudgetError: If a sample alone exceeds its budget.
    """
    from batchwright.compare import check_task

    watch("planning", 0.0)
    data = profile_data(task.sizes, max_tokens=task.max_tokens, seed=seed)
    watch("timing products", 0.0)
    hardware = profile_hardware()
    watch("checking the task", 0.0)
    check_task(task)
    samples = profile_task_samples(task, seed=seed, watch=watch)
    price = price_trials(task, seconds=seconds, updates=updates)
    tell(price)
    started = time.perf_counter()
    limit = math.inf if price.seconds is None else price.seconds
    model = None
    if _LOOKED_AT * price.batch_seconds <= _LOOK * limit:
        watch("looking at the model", 0.0)
        memory_bytes = None if hardware is None else hardware.memory_bytes
        model = profile_model(task, memory_bytes=memory_bytes, seed=seed)
    trials = run_trials(
        task,
        _strategies(data, hardware),
        seconds=_SPEED * limit,
        at_most=started + limit - time.perf_counter(),
        updates=price.updates,
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
    learning = _learning(
        task, evidence, price=price, deadline=started + limit, seed=seed, watch=watch
    )
    return Found(replace(evidence, learning=learning), price, time.perf_counter() - started)


def _learning(
    task: Task,
    evidence: Evidence,
    *,
    price: Price,
    deadline: float,
    seed: int,
    watch: Callable[[str, float], None],
) -> dict[str, LearningTrial]:
    """Try what the best strategy of the trials of speed learns, beside variations of it.

    Without such trials updates are too slow for these.
    """
    from batchwright.compare import Strategy

    if not evidence.trials:
        return {}
    base = Strategy.named(configuration(advise(evidence)))
    expected = evidence.trials.get(base.name, evidence.trials["plain"]).run_seconds
    learning: dict[str, LearningTrial] = {}
    waiting = _tried(task, base)
    while waiting:
        said, others = waiting.pop(0)
        left = deadline - time.perf_counter()
        evaluation = price.evaluation_seconds
        if price.updates is None:
            spared = (1 - _ORDER) * left
            sizes = [1 + len(each) for _, each in waiting]
            if any(can_learn(spared, [expected] * size, evaluation) for size in sizes):
                left -= spared
        done = run_learning_trials(
            task,
            [base, *others.values()],
            seconds=left,
            run_seconds=[expected] * (1 + len(others)),
            evaluation_seconds=evaluation,
            updates=price.updates,
            seed=seed,
            watch=partial(watch, said),
        )
        names = {strategy.name: name for name, strategy in others.items()}
        learning |= {names[each.name]: each for each in done}
    return learning


def _strategies(data: DataProfile, hardware: Hardware | None) -> list[Strategy]:
    """Return what trials of speed are run with."""
    from batchwright.compare import Strategy

    types = {} if hardware is None else hardware.speed_over_fp32
    kinds = ["plain"] if data.is_constant else ["plain", "grouped", "planned"]
    names = [*kinds, *(f"{kinds[-1]}+{precision}" for precision in types)]
    return [Strategy.named(name) for name in names]


def _tried(task: Task, base: Strategy) -> list[tuple[str, dict[str, Strategy]]]:
    """Return what is tried beside a strategy, in words and as strategies; first what matters."""
    from batchwright.compare import Strategy

    tried: list[tuple[str, dict[str, Strategy]]] = []
    if task.difficulties:
        eased = Strategy.named(f"{base.name}+curriculum:{next(iter(task.difficulties))}")
        tried.append(("trying an order", {"curriculum": eased}))
    sizes = {"twice": 2 * task.step_tokens}
    if task.step_tokens >= 2 * task.max_tokens:
        sizes = {"half": task.step_tokens // 2, **sizes}
    others = {
        name: replace(base, name=f"{name} the tokens", options={"step_tokens": size})
        for name, size in sizes.items()
    }
    return [*tried, ("trying other updates", others)]
