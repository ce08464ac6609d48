"""Trials of what is learnt: short runs of the user's own task, judged at equal metric."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from batchwright.advise.advice import Gain

if TYPE_CHECKING:
    from batchwright.compare import Strategy, Task
    from batchwright.compare.arm import Evaluation
    from batchwright.compare.race import Outcome

SEEDS = 3
"""Runs of each strategy, where there is time for that many."""

LEAST_SHARE = 1 / 3
"""With less of a run than this a seed there is one seed; with less even so, nothing is tried.

A run that is cut too short shows what the first updates learn, which is no matter of order.
"""

LEVELS = (0.4, 0.6, 0.8, 1.0)
"""Shares of the first strategy's run whose metric the others are timed to."""

_EVALUATIONS = 5
_SPARE = 0.9
"""What of the seconds is planned: the rest is for updates that take longer than they did."""

_ENOUGH = 0.8
"""A run that the end of the seconds cuts counts if this share of it is over."""


@dataclass(frozen=True)
class LearningTrial:
    """What a strategy learnt in its short runs, beside the first one.

    Attributes:
        name: Of the strategy.
        share: Of a whole run's tokens that each run was to have; the end of the seconds may have
            cut a fifth of it.
        runs: How many there were.
        sooner: How many times sooner it was where the first one was: the mean over `LEVELS`, with
            an interval over runs.
        least: The least of it, over levels and runs.
        most: The most.
        gain: How much better its metric was after the same tokens; above 0 is better. Mean.
    """

    name: str
    share: float
    runs: int
    sooner: Gain
    least: float
    most: float
    gain: float


def can_learn(seconds: float, run_seconds: Sequence[float], evaluation_seconds: float) -> bool:
    """Say whether there is time to try anything: for a third of a run of each strategy."""
    fixed = _fixed(len(run_seconds), evaluation_seconds)
    return _plan(seconds * _SPARE, sum(run_seconds), fixed)[1] >= LEAST_SHARE


def run_learning_trials(
    task: Task,
    strategies: Sequence[Strategy],
    *,
    seconds: float = math.inf,
    run_seconds: Sequence[float],
    evaluation_seconds: float,
    updates: int | None = None,
    seed: int = 0,
    watch: Callable[[float], None] = lambda _: None,
) -> list[LearningTrial]:
    """Train every strategy for a short run, or three, in turns, and throw it all away.

    Short runs go through the whole schedule of the learning rate and the whole pacing of a
    curriculum. What they show is of such runs: with short budgets curricula do better than with
    full ones (Wu, Dyer, Neyshabur, *When Do Curricula Work?*, 2021, arXiv:2012.03107).

    Args:
        task: The task.
        strategies: The first is the one that others are compared with.
        seconds: What all of it may take; nothing goes on after it.
        run_seconds: What a whole run of each strategy is expected to take.
        evaluation_seconds: What it takes to evaluate once.
        updates: Of the first strategy in each run. None: what fits the seconds.
        seed: The first seed.
        watch: Told the share that is over.

    Returns:
        A trial for each strategy but the first. None of them, if there is no time for a third of
        a run, or the metric did not move.
    """
    from batchwright.compare.race import Race, Settings

    if updates is None:
        fixed = _fixed(len(strategies), evaluation_seconds)
        seeds, share = _plan(seconds * _SPARE, sum(run_seconds), fixed)
    else:
        seeds, share = SEEDS, min(1.0, updates / _updates_of_run(task, strategies[0], seed))
    if share < LEAST_SHARE:
        return []
    deadline = time.perf_counter() + seconds
    settings = Settings(evaluations=_EVALUATIONS, longer=0.0, peaks=False)
    modes = {each.name: each.precision for each in strategies if each.precision != "auto"}
    runs: list[list[Outcome]] = []
    for place in range(seeds):
        short = task.shortened(share, seed=seed + place)
        race = Race(
            short, strategies, seed=seed + place, settings=settings, modes=modes, dense=False
        )
        for _ in race.turns():
            watch((place + race.share_done()) / seeds)
            if time.perf_counter() > deadline:
                break
        if not all(arm.progress >= _ENOUGH or arm.has_failed for arm in race.arms):
            break
        runs.append(race.outcomes())
    if not runs:
        return []
    found = [_trial(place, runs, share, task) for place in range(1, len(strategies))]
    return [each for each in found if each is not None]


def _fixed(strategies: int, evaluation_seconds: float) -> float:
    """Return the seconds that evaluations of a seed take; arms begin with the same weights."""
    return evaluation_seconds * (strategies * _EVALUATIONS + 1)


def _updates_of_run(task: Task, strategy: Strategy, seed: int) -> int:
    planner = strategy.planner(task, seed=seed)
    return task.epochs * -(-len(planner) // planner.accumulate)


def _plan(seconds: float, run_seconds: float, fixed: float) -> tuple[int, float]:
    """Return how many seeds there is time for, and for which share of a run each.

    Example:
        >>> _plan(90.0, 40.0, 0.0), _plan(30.0, 40.0, 0.0), _plan(300.0, 40.0, 0.0)
        ((3, 0.75), (1, 0.75), (3, 1.0))
    """
    several = (seconds / SEEDS - fixed) / run_seconds
    if several >= LEAST_SHARE:
        return SEEDS, min(1.0, several)
    return 1, max(0.0, min(1.0, (seconds - fixed) / run_seconds))


def _trial(
    place: int, runs: Sequence[Sequence[Outcome]], share: float, task: Task
) -> LearningTrial | None:
    from batchwright.compare.figures import ratio

    ratios = [_sooner(run[0], run[place], task.sign) for run in runs]
    if not all(each.size for each in ratios):
        return None
    means = [float(np.exp(np.log(each).mean())) for each in ratios]
    over = ratio(means, [1.0] * len(means))
    metrics = [_gain(run[0], run[place], task.sign) for run in runs]
    return LearningTrial(
        name=runs[0][place].name,
        share=share,
        runs=len(runs),
        sooner=Gain(over.mean, over.low, over.high, f"as soon at the same {task.metric}"),
        least=min(float(each.min()) for each in ratios),
        most=max(float(each.max()) for each in ratios),
        gain=float(np.mean(metrics)),
    )


def _gain(first: Outcome, other: Outcome, sign: float) -> float:
    """Return how much better an arm was where both were looked at last: one may be ahead."""
    last = min(len(first.evaluations), len(other.evaluations)) - 1
    return sign * (first.evaluations[last].metric - other.evaluations[last].metric)


def _sooner(first: Outcome, other: Outcome, sign: float) -> np.ndarray:
    """Return how many times sooner an arm was at each level that the first one came to.

    One that never comes there is taken to have come at its end: it looks better than it is, and
    still no better than the first, which came there earlier or then.
    """
    from batchwright.compare.figures import reached

    mine = first.evaluations
    best = sign * np.minimum.accumulate([sign * each.metric for each in mine])
    found = []
    for place in (round(level * _EVALUATIONS) for level in LEVELS):
        if place >= len(best):
            continue
        target = float(best[place])
        if target == best[0]:  # not better than with new weights
            continue
        arrived = reached(mine, target, sign=sign)
        theirs = reached(other.evaluations, target, sign=sign)
        if arrived is None or arrived.seconds <= 0:
            continue
        end = _seconds(other.evaluations) if theirs is None else theirs.seconds
        found.append(arrived.seconds / max(end, 1e-9))
    return np.array(found)


def _seconds(evaluations: Sequence[Evaluation]) -> float:
    return evaluations[-1].seconds
