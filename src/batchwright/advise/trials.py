"""Trials of strategies on the user's own task: of speed, and of what is learnt."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, geometric_mean, harmonic_mean
from typing import TYPE_CHECKING, Literal

import numpy as np

from batchwright._random import generator
from batchwright.advise.advice import WORTH, Gain, Verdict

if TYPE_CHECKING:
    from batchwright.compare import Strategy, Task
    from batchwright.compare.race import Outcome

SEEDS = 3
"""Runs of each strategy, where there is time for that many."""

LEAST_SHARE = 1 / 3
"""A trial needs time for this share of a run per seed, for three seeds or at least for one.

A shorter run would only show what the first updates learn, whatever their order.
"""

LEVELS = (0.4, 0.6, 0.8, 1.0)
"""Shares of the first strategy's run at whose metric the strategies are compared."""

ALONE = 1.25
"""The ratio that a single run has to show: seeds alone differ by a fifth."""

_WARM_UP = 2
_LEAST_UPDATES = 6
_FEWEST = 3
_EVALUATIONS = 5
_SPARE = 0.9  # of the seconds are planned: some updates take longer than those before
_RESAMPLES = 2_000
_ENOUGH = 0.8  # a run that is cut short counts if this share of it is done


@dataclass(frozen=True)
class SpeedTrial:
    """The speed of a strategy in its trial."""

    name: str
    precision: str
    updates: int  # number of updates, without the first few
    run_seconds: float  # of a whole run at that speed
    tokens_per_second: float  # real tokens
    speed: Gain  # over the first strategy's, with an interval over updates
    speeds: tuple[float, ...]  # real tokens per second of each update


@dataclass(frozen=True)
class Untried:
    """Why a trial has no result, and what it would need."""

    name: str  # of the trial
    reason: Literal["time", "progress", "failure"]
    needed: float | None = None  # the limit of all trials at which there is enough for this one
    had: float | None = None  # the limit that there was
    unit: Literal["seconds", "updates"] = "seconds"  # of both

    @property
    def cure(self) -> str:
        """What to do about it, as a part of a sentence."""
        if self.reason == "failure":
            return "see why the loss is not finite"
        if self.reason == "progress":
            return "train for longer"
        if self.needed is None:
            return f"give the trials more: --{self.unit}"
        return f"--{self.unit} {self.needed:.0f}"

    def __str__(self) -> str:
        """Return it as a sentence."""
        if self.reason == "failure":
            return "Its loss became NaN or infinite."
        if self.reason == "progress":
            return "The metric did not improve in these runs, so that nothing can be compared."
        if self.needed is None or self.had is None:
            return f"There was no time: {self.cure}."
        unit = "s" if self.unit == "seconds" else "updates"
        return (
            f"There was no time: trials need about {self.needed:,.0f} {unit}, and had "
            f"{self.had:,.0f} ({self.cure})."
        )


@dataclass(frozen=True)
class LearningTrial:
    """How much sooner than the first strategy another one reached the same metrics."""

    name: str
    share: float  # of a whole run's tokens in each run; at least four fifths of it are done
    runs: int
    sooner: Gain  # how many times as fast: mean over `LEVELS`, with an interval over runs
    least: float  # over levels and runs
    most: float
    gain: float  # how much better its metric was after the same tokens; above 0 is better. Mean
    held: bool = True  # whether it held the last of the metrics until the end, in every run
    needed: float | None = None  # the limit of trials at which there are three runs, in seconds

    @property
    def verdict(self) -> Verdict:
        """Whether short runs show the strategy to be faster; a single run has to show more."""
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


def run_trials(
    task: Task,
    strategies: Sequence[Strategy],
    *,
    seconds: float = math.inf,
    at_most: float = math.inf,
    updates: int | None = None,
    seed: int = 0,
    watch: Callable[[float], None] = lambda _: None,
) -> list[SpeedTrial]:
    """Measure the speed of every strategy, update by update in turns, and discard the models.

    Each takes as many updates as asked for, after two for warm-up; or as many as fit into the
    seconds, and a few at least, but none is begun after `at_most` seconds. `watch` is called with
    the share that is done. Returns nothing if updates are too slow for three of each strategy.
    """
    from batchwright.compare.race import Race, Settings

    started = time.perf_counter()
    settings = Settings(longer=0.0, evaluations=1, peaks=False)
    race = Race(task, strategies, seed=seed, settings=settings, dense=False)
    before: dict[str, tuple[float, int]] = {}
    speeds: dict[str, list[float]] = {arm.name: [] for arm in race.arms}
    least = _WARM_UP + (_LEAST_UPDATES if updates is None else updates)
    is_cut = False
    for arm in race.turns():
        spent, tokens = before.get(arm.name, (0.0, 0))
        speeds[arm.name].append((arm.spent.tokens - tokens) / (arm.spent.seconds - spent))
        before[arm.name] = arm.spent.seconds, arm.spent.tokens
        elapsed = time.perf_counter() - started
        number = min(map(len, speeds.values()))
        watch(min(1.0, elapsed / seconds if updates is None else number / least))
        is_cut = elapsed > at_most
        if is_cut or (number >= least and (updates is not None or elapsed > seconds)):
            break
    if is_cut and number < _WARM_UP + _FEWEST:
        return []
    skipped = min(_WARM_UP, number - 1)  # a whole run may be that short
    kept = {name: rates[skipped:number] for name, rates in speeds.items()}
    return [
        SpeedTrial(
            name=arm.name,
            precision=str(arm.precision.mode),
            updates=number - skipped,
            run_seconds=task.num_tokens * task.epochs / harmonic_mean(kept[arm.name]),
            tokens_per_second=harmonic_mean(kept[arm.name]),
            speed=faster(kept[arm.name], kept[race.arms[0].name]),
            speeds=tuple(kept[arm.name]),
        )
        for arm in race.arms
    ]


def faster(speeds: Sequence[float], others: Sequence[float]) -> Gain:
    """Compare the speed of updates, in real tokens per second, with that of others in turns.

    The total time counts, as it does in a run: slow updates weigh more than fast ones. The interval
    is a 95 % bootstrap interval over pairs of updates.
    """
    of = "the real tokens per second"
    seconds = 1 / np.array([others, speeds])
    ratio, size = float(np.divide(*seconds.sum(axis=1))), len(speeds)
    if size < 2:
        return Gain(ratio, None, None, of)
    drawn = generator(0, "intervals of speeds").integers(size, size=(_RESAMPLES, size))
    low, high = np.quantile(np.divide(*seconds[:, drawn].sum(axis=2)), [0.025, 0.975])
    return Gain(ratio, float(low), float(high), of)


def run_learning_trials(
    task: Task,
    strategies: Sequence[Strategy],
    *,
    seconds: float = math.inf,
    wanted: float = 1.0,
    run_seconds: float,
    evaluation_seconds: float,
    updates: int | None = None,
    seed: int = 0,
    watch: Callable[[float], None] = lambda _: None,
) -> list[LearningTrial]:
    """Train every strategy for one or three short runs, in turns, and compare them with the first.

    Short runs go through the whole schedule of the learning rate and the whole pacing of a
    curriculum. With short budgets curricula do better than with full ones (Wu, Dyer, Neyshabur,
    *When Do Curricula Work?*, 2021, arXiv:2012.03107). Each run has as many updates as asked for,
    or as fit into the `wanted` share of the seconds, or else into all of them; none is begun after
    them. Returns nothing if there is no time for a third of a run, or the metric did not improve.
    """
    from batchwright.compare.race import Race, Settings

    if updates is None:
        # Arms begin with the same weights, which are evaluated once.
        fixed = evaluation_seconds * (len(strategies) * _EVALUATIONS + 1)
        runs_of_seed = run_seconds * len(strategies)
        plans = [_plan(part * seconds, runs_of_seed, fixed) for part in (wanted, 1.0)]
        seeds, share = plans[0] if plans[0][1] else plans[1]
    else:
        planner = strategies[0].planner(task, seed=seed)
        of_run = task.epochs * -(-len(planner) // planner.accumulate)
        seeds, share = SEEDS, min(1.0, updates / of_run)
    if share < LEAST_SHARE:
        return []
    deadline = time.perf_counter() + seconds
    settings = Settings(evaluations=_EVALUATIONS, longer=0.0, peaks=False)
    modes = {each.name: each.precision for each in strategies if each.precision != "auto"}
    runs: list[list[Outcome]] = []
    for own in range(seed, seed + seeds):
        short = task.shortened(share, seed=own)
        race = Race(short, strategies, seed=own, settings=settings, modes=modes, dense=False)
        for _ in race.turns():
            watch((len(runs) + race.share_done()) / seeds)
            if time.perf_counter() > deadline:
                break
        if not all(arm.progress >= _ENOUGH or arm.has_failed for arm in race.arms):
            break
        runs.append(race.outcomes())
    found = [_learning_trial(place, runs, share, task) for place in range(1, len(strategies))]
    return [each for each in found if each is not None]


def _plan(seconds: float, run: float, fixed: float) -> tuple[int, float]:
    """Return how many seeds there is time for, and for which share of their runs.

    A seed's runs take `run` seconds if they are whole, and `fixed` whatever their share.
    """
    for seeds in (SEEDS, 1):
        share = (seconds * _SPARE / seeds - fixed) / run
        if share >= LEAST_SHARE:
            return seeds, min(1.0, share)
    return 1, 0.0


def _learning_trial(
    place: int, runs: Sequence[Sequence[Outcome]], share: float, task: Task
) -> LearningTrial | None:
    from batchwright.compare.figures import ratio

    ratios = [_times_as_fast(run[0], run[place], task.sign) for run in runs]
    if not runs or not all(ratios):
        return None
    over = ratio([geometric_mean(each) for each in ratios], [1.0] * len(runs))
    # Gains where both were evaluated last: one may be ahead.
    ends = [list(zip(run[0].evaluations, run[place].evaluations, strict=False))[-1] for run in runs]
    return LearningTrial(
        name=runs[0][place].name,
        share=share,
        runs=len(runs),
        sooner=Gain(over.mean, over.low, over.high, f"as fast to the same {task.metric}"),
        least=min(map(min, ratios)),
        most=max(map(max, ratios)),
        gain=task.sign * fmean(first.metric - other.metric for first, other in ends),
    )


def _times_as_fast(first: Outcome, other: Outcome, sign: float) -> list[float]:
    """Return how many times as fast an arm reached each level that the first one reached.

    An arm that never reaches a level counts as reaching it at its end, which is never faster.
    """
    from batchwright.compare.arrivals import reached

    best = sign * np.minimum.accumulate([sign * each.metric for each in first.evaluations])
    found = []
    for place in (round(level * _EVALUATIONS) for level in LEVELS):
        if place >= len(best) or best[place] == best[0]:  # no better than the initial weights
            continue
        ours, theirs = (
            reached(each.evaluations, float(best[place]), sign=sign) for each in (first, other)
        )
        if ours is not None and ours.seconds > 0:
            end = theirs or other.evaluations[-1]
            found.append(ours.seconds / max(end.seconds, 1e-9))
    return found
