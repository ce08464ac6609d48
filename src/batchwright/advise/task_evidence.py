"""Everything that trials can find out about a task, within a given time limit."""

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
from batchwright.advise.duplicates import encode
from batchwright.advise.evidence import Evidence, Mix
from batchwright.advise.learning_trials import LearningTrial, least_seconds, run_learning_trials
from batchwright.advise.machine import ModelProfile, profile_hardware, profile_model
from batchwright.advise.rules import advise
from batchwright.advise.sample_profiles import is_uncertain, profile_samples, with_source
from batchwright.advise.trials import SpeedTrial, Untried, run_trials
from batchwright.errors import TaskError
from batchwright.stats.baseline import are_unlike

if TYPE_CHECKING:
    from batchwright.compare import Strategy, Task

SECONDS = 180.0
"""Time limit of the trials of any run."""

SHARE = 0.05
"""Share of a run that its trials may take, if that is more."""

_UPDATES = 3
_SPEED = 0.1  # share of the limit for trials of speed
_NOISE = 0.15  # of the limit for wrong labels, if features do not show how many there are
_LOOK = 0.1  # the model is measured first if that is expected to take at most this share
_LOOKED_AT = 25  # batches that this runs, about, including those on fake tensors

_FIRST = 0.7  # of what is left for the first learning trial, if that is enough


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
            few = f"{self.updates:,} updates of each strategy"
            return f"{run} A trial takes at most {few}, and a quarter more if one ends behind."
        why = "" if self.is_given else f", the longer of {SECONDS:.0f} s and {SHARE:.0%} of a run"
        return f"{run} Trials take at most {self.seconds:,.0f} s{why}."


@dataclass(frozen=True)
class Found:
    """What trials found out."""

    evidence: Evidence  # for the rules
    price: Price  # its time limit
    seconds: float  # the time that the trials took


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
        watch: Called with the name of the step, and the share of it that is done.

    Raises:
        TaskError: If the task fails, or the limits are not positive.
        BudgetError: If a sample alone exceeds its budget.
    """
    from batchwright.advise.own_model import from_model
    from batchwright.compare import Strategy, check_task
    from batchwright.compare.strategy import safe_batch_size

    watch("planning", 0.0)
    rows = task.batch_size or safe_batch_size(task, task.max_tokens)  # of plain batches
    data = profile_data(
        task.sizes,
        max_tokens=task.max_tokens,
        batch_size=rows,
        step_tokens=task.step_tokens,
        seed=seed,
    )
    data = replace(data, batch_size_is_given=task.batch_size is not None)
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

    def spent() -> float:
        return time.perf_counter() - started

    def look() -> ModelProfile:
        watch("looking at the model", 0.0)
        memory_bytes = None if hardware is None else hardware.memory_bytes
        return profile_model(task, memory_bytes=memory_bytes, seed=seed)

    to_look = _LOOKED_AT * price.batch_seconds
    model = look() if to_look <= _LOOK * limit else None
    labels = samples["labels"]
    if price.updates is None and labels is not None and is_uncertain(labels):
        watch("looking for wrong labels", 0.0)
        source = from_model(
            task,
            *(encode(task.labels, "labels")[0], labels.num_classes),
            seconds=_NOISE * limit,
            epoch_seconds=price.run_seconds / task.epochs,
            seed=seed,
        )
        if source is not None:
            samples["labels"] = with_source(labels, source, samples["duplicates"])
    mixes = {} if data.is_constant else _mixes(task, seed)
    kinds = ["plain"] if data.is_constant else ["plain", "grouped", *(mixes or ["planned"])]
    precisions = [] if hardware is None else hardware.worth_trying
    names = [*kinds, *(f"{kinds[-1]}+{each}" for each in precisions)]
    fixed = spent()
    speeds = run_trials(
        task,
        [Strategy.named(name) for name in names],
        seconds=_SPEED * limit,
        at_most=limit - fixed,
        updates=updates,
        seed=seed,
        watch=partial(watch, "trying speed"),
    )
    evidence = Evidence(
        data,
        hardware,
        trials={} if isinstance(speeds, Untried) else {each.name: each for each in speeds},
        difficulties=tuple(task.difficulties),
        step_tokens=task.step_tokens,
        epochs=task.epochs,
        mixes=mixes,
        **samples,
    )
    results = _Results(price, fixed, speeds)

    def learn(said: str, strategies: list[Strategy], wanted: float, share: float) -> None:
        for trial in _learn(
            task,
            strategies,
            evidence,
            price,
            seconds=limit - spent(),
            wanted=wanted,
            seed=seed,
            watch=partial(watch, said),
        ):
            results.enter(trial, share)

    # Batches with a better mix that are slower than plain ones cannot gain anything.
    if faster := [name for name in mixes if not evidence.is_slower(name)]:
        listed = [Strategy.named(name) for name in ("plain", *faster)]
        learn("trying updates of mixed lengths", listed, _FIRST, 1.0)
        evidence = replace(evidence, learning=results.learning, untried=results.untried)
    for said, strategies, wanted in _variations(task, evidence):
        learn(said, strategies, wanted, 1.0 if wanted == _FIRST else 1 - _FIRST)
    if model is None and spent() + to_look <= limit:
        model = look()
    if model is None:
        results.enter(Untried("model", "time", needed=to_look / _LOOK), None)
    found = replace(evidence, model=model, learning=results.learning, untried=results.untried)
    return Found(found, price, spent())


def _mixes(task: Task, seed: int) -> dict[str, Mix]:
    """Return how planned updates mix lengths if they are unlike one another, else nothing."""
    from batchwright.compare import Strategy

    found = {}
    for name in ("planned", "mixed"):
        planner = Strategy.named(name).planner(task, seed=seed)
        stats = planner(0).stats(task.sizes)
        assert stats.budget is not None  # noqa: S101 -- both kinds have one
        mix = (planner.accumulate, stats.budget, stats.dispersion, stats.efficiency)
        found[name] = Mix(name, *mix)
    planned, mixed = found.values()
    is_cut = mixed.accumulate > planned.accumulate
    return found if is_cut and are_unlike(planned.dispersion, mixed.dispersion) else {}


def _learn(
    task: Task,
    strategies: list[Strategy],
    evidence: Evidence,
    price: Price,
    *,
    seconds: float,
    wanted: float,
    seed: int,
    watch: Callable[[float], None],
) -> list[LearningTrial | Untried]:
    """Run a learning trial, if updates are fast enough for trials of speed."""
    if not evidence.trials:
        runs = [price.run_seconds] * len(strategies)
        least = least_seconds(runs, price.evaluation_seconds)
        return [Untried(each.name, "time", needed=least) for each in strategies[1:]]
    first = evidence.trials.get(strategies[0].name, evidence.trials["plain"])
    return run_learning_trials(
        task,
        strategies,
        seconds=seconds,
        wanted=wanted,
        run_seconds=[evidence.trials.get(each.name, first).run_seconds for each in strategies],
        evaluation_seconds=price.evaluation_seconds,
        updates=price.updates,
        seed=seed,
        watch=watch,
    )


class _Results:
    """The results of learning trials, and the time limit that those without a result need."""

    def __init__(self, price: Price, fixed: float, speeds: list[SpeedTrial] | Untried) -> None:
        self.price, self.fixed = price, fixed
        self.learning: dict[str, LearningTrial] = {}
        self.untried: dict[str, Untried] = {}
        self._least = 0.0  # seconds of trials of speed, if they take more than their share
        if isinstance(speeds, Untried):
            self._least = speeds.needed or 0.0
            self.untried["speed"] = self._limited(speeds, self.fixed + self._least)

    def enter(self, trial: LearningTrial | Untried, share: float | None) -> None:
        """Keep a trial that has a share of the time left after those of speed; None: as it is."""
        needed = trial.needed
        if needed is not None and share is not None and self.price.updates is None:
            needed /= share
            needed = self.fixed + max(needed / (1 - _SPEED), needed + self._least)
        if isinstance(trial, Untried):
            self.untried[trial.name] = self._limited(trial, needed)
        else:
            self.learning[trial.name] = replace(trial, needed=self._above(needed))

    def _limited(self, trial: Untried, needed: float | None) -> Untried:
        if trial.unit == "updates":
            return replace(trial, had=self.price.updates)
        return replace(trial, needed=self._above(needed), had=self.price.seconds)

    def _above(self, needed: float | None) -> float | None:
        """Return a round limit that is larger than the one that was not enough."""
        had = self.price.seconds
        return None if needed is None or had is None else _rounded_up(max(needed, 1.1 * had))


def _rounded_up(value: float) -> float:
    """Round up to two digits.

    Example:
        >>> [_rounded_up(value) for value in (0.2, 7.5, 123.0, 1010.0)]
        [1.0, 8.0, 130.0, 1100.0]
    """
    digits = 10 ** max(0, math.floor(math.log10(max(value, 1.0))) - 1)
    return float(max(1, math.ceil(value / digits)) * digits)


def _variations(task: Task, evidence: Evidence) -> list[tuple[str, list[Strategy], float]]:
    """Return trials, the most important first: what is tried, the strategies, and a share of time.

    The first strategy is the one that trials of speed advise; the others are variations of it. An
    order by the task's own scores comes first. An order by length, for which the task did not ask,
    comes after other numbers of tokens per update, which can be worth more.
    """
    from batchwright.compare import Strategy

    base = Strategy.named(configuration(advise(evidence)))
    sizes = {"twice": 2 * task.step_tokens}
    if task.step_tokens >= 2 * task.max_tokens:
        sizes["half"] = task.step_tokens // 2
    others = [
        replace(base, name=name, options={"step_tokens": size}) for name, size in sizes.items()
    ]
    found = [("trying other updates", [base, *others])]
    if task.difficulties or not evidence.data.is_constant:
        order = f"curriculum:{next(iter(task.difficulties), 'length')}"
        ordered = ("trying an order", [base, replace(base, name="curriculum", order=order)])
        found.insert(0 if task.difficulties else 1, ordered)
    return [(*each, _FIRST if place == 0 else 1.0) for place, each in enumerate(found)]
