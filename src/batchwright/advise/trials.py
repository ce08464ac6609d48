"""Trials of speed on the user's own task, and why a trial was not made."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import harmonic_mean
from typing import TYPE_CHECKING, Literal

import numpy as np

from batchwright._random import generator
from batchwright.advise.advice import Gain

if TYPE_CHECKING:
    from batchwright.compare import Strategy, Task

_WARM_UP = 2
_LEAST_UPDATES = 6
_FEWEST = 3
_RESAMPLES = 2_000


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
            return "The loss of a trial became NaN or infinite."
        if self.reason == "progress":
            return "The metric did not improve in these runs, so nothing can be compared."
        if self.needed is None or self.had is None:
            return f"There was no time: {self.cure}."
        unit = "s" if self.unit == "seconds" else "updates"
        return (
            f"There was no time: trials need about {self.needed:,.0f} {unit}, and had "
            f"{self.had:,.0f} ({self.cure})."
        )


def run_trials(
    task: Task,
    strategies: Sequence[Strategy],
    *,
    seconds: float = math.inf,
    at_most: float = math.inf,
    updates: int | None = None,
    seed: int = 0,
    watch: Callable[[float], None] = lambda _: None,
) -> list[SpeedTrial] | Untried:
    """Measure the speed of every strategy, update by update in turns, and discard the models.

    Each takes as many updates as asked for, after two for warm-up; or as many as fit into the
    seconds, but at least a few, and none is begun after `at_most` seconds. `watch` is called with
    the share that is done. If updates are too slow for three of each, returns the time needed.
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
        turns = sum(map(len, speeds.values()))
        return Untried("speed", "time", needed=elapsed / turns * len(speeds) * least)
    skipped = min(_WARM_UP, number - 1)  # a whole run may be that short
    kept = {name: rates[skipped:number] for name, rates in speeds.items()}
    return [
        SpeedTrial(
            name=arm.name,
            precision=arm.mode,
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

    Total times are compared, as in a run, so slow updates weigh more than fast ones. The interval
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
