"""Learning trials: short runs of strategies on the user's own task, compared with the first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, geometric_mean
from typing import TYPE_CHECKING, Literal, NamedTuple

from batchwright.advise.advice import WORTH, Gain, Verdict
from batchwright.advise.trials import Untried

if TYPE_CHECKING:
    from batchwright.compare import Strategy, Task
    from batchwright.compare.arm import Evaluation
    from batchwright.compare.race import Outcome

SEEDS = 3
"""Runs of each strategy, if there is time for so many."""

MOST_SEEDS = 6
"""The same, of whole runs."""

LEAST_SHARE = 1 / 3
"""A trial needs time for this share of a run per seed, for three seeds or at least for one.

A shorter run would only show what the first updates learn, whatever their order.
"""

LEVELS = (0.4, 0.6, 0.8, 1.0)
"""Shares of the first strategy's run at whose metric the strategies are compared."""

ALONE = 1.25
"""The ratio that a single run must show: seeds alone differ by a fifth."""

_EVALUATIONS = 5
_SPARE = 0.9  # of the seconds are planned, because some updates take longer than earlier ones
_ENOUGH = 0.8  # a run that is cut short counts if this share of it is done


@dataclass(frozen=True)
class LearningTrial:
    """How much sooner than the first strategy another one reached the same metrics."""

    name: str
    share: float  # of a whole run's tokens, planned for each run; at least four fifths are done
    runs: int
    sooner: Gain  # how many times as fast: mean over `LEVELS`, with an interval over runs
    least: float  # over all levels and runs
    most: float
    gain: float  # how much better its metric was after the same tokens; above 0 is better. Mean
    held: bool = True  # whether it held the last of the metrics until the end, in every run
    needed: float | None = None  # the time limit that allows three runs, in seconds

    @property
    def verdict(self) -> Verdict:
        """Whether short runs show that the strategy is faster; a single run must show more."""
        found = self._of_times()
        return "cannot tell" if found == "use" and not self.held else found

    def _of_times(self) -> Verdict:
        gain = self.sooner
        if gain.low is None or gain.high is None:
            if gain.ratio >= ALONE and self.least >= WORTH:
                return "use"
            return "do not use" if self.most < WORTH else "cannot tell"
        if gain.ratio >= WORTH and gain.low > 1.0:
            return "use"
        return "do not use" if gain.high < WORTH else "cannot tell"


def run_learning_trials(
    task: Task,
    strategies: Sequence[Strategy],
    *,
    seconds: float = math.inf,
    wanted: float = 1.0,
    run_seconds: Sequence[float],
    evaluation_seconds: float,
    updates: int | None = None,
    seed: int = 0,
    watch: Callable[[float], None] = lambda _: None,
) -> list[LearningTrial | Untried]:
    """Train every strategy for some short runs, in turns, and compare them with the first.

    Short runs go through the whole learning rate schedule and the whole pacing of a curriculum.
    With short budgets, curricula do better than with full ones (Wu, Dyer, Neyshabur, *When Do
    Curricula Work?*, 2021, arXiv:2012.03107). Each run has as many updates as asked for, or as fit
    into the `wanted` share of the seconds, or else into all of them; none is begun after that. A
    strategy that ends behind the first one trains a little longer, as in `compare`: that shows
    whether it gets there later or never. If there is no time for a third of a run, the result says
    how many seconds or updates that takes. `run_seconds` are those of a whole run of each strategy,
    measured in trials of speed.
    """
    from batchwright.compare.race import Race, Settings

    names = [each.name for each in strategies[1:]]
    if updates is None:
        fixed = _fixed(len(strategies), evaluation_seconds)
        of_seed = sum(run_seconds)
        plans = [_plan(part * seconds, of_seed, fixed) for part in (wanted, 1.0)]
        # One run shows little: several in all of the time are better than one in a part of it.
        seeds, share = next((each for each in plans if each[0] > 1), plans[0])
        if not share:
            seeds, share = plans[1]
        needed = least_seconds(run_seconds, evaluation_seconds)
    else:
        planner = strategies[0].planner(task, seed=seed)
        of_run = task.epochs * -(-len(planner) // planner.accumulate)
        seeds, share = SEEDS, min(1.0, updates / of_run)
        needed = float(math.ceil(LEAST_SHARE * of_run))
    unit: Literal["seconds", "updates"] = "seconds" if updates is None else "updates"
    if share < LEAST_SHARE:
        return [Untried(name, "time", needed=needed, unit=unit) for name in names]
    started = time.perf_counter()
    settings = Settings(evaluations=_EVALUATIONS, peaks=False)
    modes = {each.name: each.precision for each in strategies if each.precision != "auto"}
    runs: list[list[Outcome]] = []
    for own in range(seed, seed + seeds):
        short = task.shortened(share, seed=own)
        race = Race(short, strategies, seed=own, settings=settings, modes=modes, dense=False)
        for _ in race.turns():
            watch((len(runs) + race.share_done()) / seeds)
            if time.perf_counter() - started > seconds:
                break
        if not all(arm.progress >= _ENOUGH or arm.has_failed for arm in race.arms):
            break
        runs.append(race.outcomes())
    if not runs:
        needed = (time.perf_counter() - started) / max(race.share_done(), 1e-3) / _SPARE
        return [Untried(name, "time", needed=needed) for name in names]
    more = None
    if updates is None and len(runs) < MOST_SEEDS:
        # Three runs after one, whole ones after shorter ones, or as many as there may be.
        own_seed = (time.perf_counter() - started) / len(runs) / _SPARE
        more = SEEDS * own_seed if len(runs) < SEEDS else SEEDS * own_seed / share
        more = MOST_SEEDS * own_seed if share == 1.0 else more
    return [_learning_trial(place, runs, share, task, more) for place in range(1, len(strategies))]


def least_seconds(run_seconds: Sequence[float], evaluation_seconds: float) -> float:
    """Return the seconds of the shortest trial, from those of whole runs of its strategies."""
    fixed = _fixed(len(run_seconds), evaluation_seconds)
    return (LEAST_SHARE * sum(run_seconds) + fixed) / _SPARE


def _fixed(count: int, evaluation_seconds: float) -> float:
    """Return the seconds of a seed's runs that do not depend on their share: evaluations."""
    # All begin with the same weights, which are evaluated once.
    return evaluation_seconds * (count * _EVALUATIONS + 1)


def _plan(seconds: float, run: float, fixed: float) -> tuple[int, float]:
    """Return how many seeds there is time for, and for which share of their runs.

    A seed's runs take `run` seconds if they are whole; `fixed` of these do not depend on the share.
    """
    if seconds * _SPARE >= SEEDS * (run + fixed):
        return int(min(seconds * _SPARE / (run + fixed), MOST_SEEDS)), 1.0
    for seeds in (SEEDS, 1):
        share = (seconds * _SPARE / seeds - fixed) / run
        if share >= LEAST_SHARE:
            return seeds, min(1.0, share)
    return 1, 0.0


def _learning_trial(
    place: int,
    runs: Sequence[Sequence[Outcome]],
    share: float,
    task: Task,
    needed: float | None = None,
) -> LearningTrial | Untried:
    from batchwright.compare.figures import ratio

    name, pairs = runs[0][place].name, [(run[0], run[place]) for run in runs]
    if any(each.failed_after is not None for pair in pairs for each in pair):
        return Untried(name, "failure")
    levels = [_levels(first, other, task.sign) for first, other in pairs]
    if not all(levels):
        return Untried(name, "progress")
    ratios = [[level.times for level in each] for each in levels]
    over = ratio([geometric_mean(each) for each in ratios], [1.0] * len(runs))
    # Gains are compared where both were last evaluated: one may be ahead.
    ends = [list(zip(*map(_evaluations, pair), strict=False))[-1] for pair in pairs]
    return LearningTrial(
        name=name,
        share=share,
        runs=len(runs),
        sooner=Gain(over.mean, over.low, over.high, f"as fast to the same {task.metric}"),
        least=min(map(min, ratios)),
        most=max(map(max, ratios)),
        gain=task.sign * fmean(first.metric - other.metric for first, other in ends),
        held=all(each[-1].is_held for each in levels),
        needed=needed,
    )


def _evaluations(outcome: Outcome) -> tuple[Evaluation, ...]:
    return outcome.evaluations


class _Level(NamedTuple):
    """A metric that the first strategy reached."""

    times: float  # how many times as fast the other one reached it
    is_held: bool  # whether the other one reached it, and held it until its end


def _levels(first: Outcome, other: Outcome, sign: float) -> list[_Level]:
    """Compare when both reached the metrics that the first one had at some places of its run.

    Each place sets a target, as the end of a run does in `compare`. A strategy that never reaches
    it, or loses it again, counts as reaching it at its end, and never as faster.
    """
    from batchwright.compare.arrivals import arrival, target_of

    found = []
    for place in (round(level * _EVALUATIONS) for level in LEVELS):
        until = first.evaluations[: place + 1]
        target = target_of(until, tokens=first.spent.tokens, sign=sign)
        if len(until) <= place or target is None or target.improved <= 0:  # nothing is learnt yet
            continue
        ours, theirs = (
            arrival(each.evaluations, target, tokens=each.spent.tokens, sign=sign)
            for each in (first, other)
        )
        if ours is None or ours.seconds <= 0:
            continue
        is_held = theirs is not None and theirs.held
        end = theirs.seconds if theirs is not None and is_held else other.evaluations[-1].seconds
        times = ours.seconds / max(end, 1e-9)
        found.append(_Level(times if is_held else min(times, 1.0), is_held))
    return found
