"""Short trials on the user's own task: every strategy a few updates, in turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import harmonic_mean
from typing import TYPE_CHECKING

from batchwright.advise.advice import Gain

if TYPE_CHECKING:
    from batchwright.compare import Strategy, Task
    from batchwright.compare.arm import Arm

_WARM_UP = 2
_LEAST_UPDATES = 6
_FEWEST = 3


@dataclass(frozen=True)
class Trial:
    """What a strategy did in its trial.

    Attributes:
        name: Of the strategy.
        precision: What it trained in.
        updates: How many it took, the first few left out.
        run_seconds: What a whole run of it would take at that speed.
        tokens_per_second: Real tokens.
        speed: Over the first strategy's, with an interval over updates.
        speeds: Real tokens a second of each update.
    """

    name: str
    precision: str
    updates: int
    run_seconds: float
    tokens_per_second: float
    speed: Gain
    speeds: tuple[float, ...]


def run_trials(
    task: Task,
    strategies: Sequence[Strategy],
    *,
    seconds: float = math.inf,
    at_most: float = math.inf,
    updates: int | None = None,
    seed: int = 0,
    watch: Callable[[float], None] = lambda _: None,
) -> list[Trial]:
    """Train every strategy for a while, update by update in turns, and throw it all away.

    What a strategy is worth in speed is told; what it is worth to the metric takes whole runs,
    which `compare` makes.

    Args:
        task: The task.
        strategies: The first is the one that others are compared with.
        seconds: What all of it is to take, or longer until every strategy has a few updates.
        at_most: What it may take: nothing goes on after that.
        updates: What each strategy takes, after two that prepare. None: what fits the seconds.
        seed: Of weights and batches.
        watch: Told the share that is over.

    Returns:
        A trial for each strategy. None of them, if updates are too slow for three of each.
    """
    from batchwright.compare.race import Race, Settings

    started = time.perf_counter()
    settings = Settings(longer=0.0, evaluations=10**9, peaks=False)
    race = Race(task, strategies, seed=seed, settings=settings, dense=False)
    arms = race.arms
    before: dict[str, tuple[float, int]] = {}
    speeds: dict[str, list[float]] = {arm.name: [] for arm in arms}
    is_cut = False
    for arm in race.turns():
        spent, tokens = before.get(arm.name, (0.0, 0))
        speeds[arm.name].append((arm.spent.tokens - tokens) / (arm.spent.seconds - spent))
        before[arm.name] = arm.spent.seconds, arm.spent.tokens
        elapsed = time.perf_counter() - started
        fewest = min(map(len, speeds.values()))
        least = _WARM_UP + (_LEAST_UPDATES if updates is None else updates)
        watch(min(1.0, elapsed / seconds if updates is None else fewest / least))
        enough = fewest >= least and (updates is not None or elapsed > seconds)
        is_cut = elapsed > at_most
        if enough or is_cut:
            break
    number = min(map(len, speeds.values()))
    if is_cut and number < _WARM_UP + _FEWEST:
        return []
    skipped = min(_WARM_UP, number - 1)  # a whole run may be as short as that
    kept = {name: rates[skipped:number] for name, rates in speeds.items()}
    return [_trial(arm, kept, arms[0].name) for arm in arms]


def _trial(arm: Arm, speeds: dict[str, list[float]], first: str) -> Trial:
    return Trial(
        name=arm.name,
        precision=str(arm.precision.mode),
        updates=len(speeds[arm.name]),
        run_seconds=arm.task.num_tokens * arm.task.epochs / harmonic_mean(speeds[arm.name]),
        tokens_per_second=harmonic_mean(speeds[arm.name]),
        speed=faster(speeds[arm.name], speeds[first]),
        speeds=tuple(speeds[arm.name]),
    )


def faster(speeds: Sequence[float], others: Sequence[float]) -> Gain:
    """Say how many times as fast updates are as others that took turns with them.

    What counts is the time of all of them together: an arm whose updates are alike in speed and
    one that has quick ones and slow ones are compared by what a run takes.

    Args:
        speeds: Real tokens a second of each update.
        others: The same of the other's, as many.

    Returns:
        The ratio, with a 95 % bootstrap interval over pairs of updates.

    Raises:
        MissingExtraError: Without scipy.

    Example:
        >>> gain = faster([2.0, 2.0, 2.0], [1.0, 1.0, 1.0])
        >>> gain.ratio, gain.low
        (2.0, 2.0)
    """
    from batchwright.compare.figures import ratio_of_sums

    over = ratio_of_sums([1 / each for each in others], [1 / each for each in speeds])
    return Gain(over.mean, over.low, over.high, "as many real tokens a second")
