"""What a comparison shows: each strategy beside the first, over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from batchwright.compare.arm import Evaluation
from batchwright.compare.race import DENSE, Outcome
from batchwright.compare.ratios import Interval, difference, ratio
from batchwright.compare.task import Task


@dataclass(frozen=True)
class Reached:
    """When a metric was first reached, between evaluations in proportion.

    Attributes:
        seconds: Of the arm's own training.
        tokens: Real tokens trained on.
    """

    seconds: float
    tokens: float


@dataclass(frozen=True)
class Summary:
    """A strategy over all seeds, beside the first one.

    Attributes:
        name: Of the strategy, or ``"dense limit"``.
        precision: What it trained in.
        tokens_per_second: Real tokens, mean.
        speed: The same over the first strategy's.
        of_limit: The same over the dense limit's. None: there is none.
        padding: Share of what was computed that was padding.
        dispersion: How unlike each other its updates are.
        worst_batch: Tokens of the largest batch, as laid out, over the budget.
        peak_bytes: Memory of its largest batch, mean. None: unknown.
        memory: The same over the first strategy's.
        updates: Steps of the optimizer.
        seconds: Of a run, mean.
        metric: At the end of a run, mean. None: not measured, no number, or a run failed.
        gain: How much better that is than the first strategy's; above 0 is better.
        time: Seconds until the target over the first strategy's. None: some run never reached it.
        tokens: The same in tokens.
        never: Runs that never reached the target.
        failed: Runs whose loss was no number in the end.
    """

    name: str
    precision: str
    tokens_per_second: float
    speed: Interval
    of_limit: Interval | None
    padding: float
    dispersion: float | None
    worst_batch: float
    peak_bytes: float | None
    memory: Interval | None
    updates: int
    seconds: float
    metric: float | None
    gain: Interval | None
    time: Interval | None
    tokens: Interval | None
    never: int
    failed: int


def summarize(
    runs: Sequence[Sequence[Outcome]], task: Task, *, target: float | None = None
) -> list[Summary]:
    """Sum runs up.

    Args:
        runs: For each seed, what each arm did; one at least.
        task: What was trained.
        target: The metric whose time is asked for. None: what the first arm ended with, in each
            run.
    """
    return [_summary(place, runs, task, target) for place in range(len(runs[0]))]


def reached(
    evaluations: Sequence[Evaluation], target: float, *, sign: float = 1.0
) -> Reached | None:
    """Say when a metric was first reached; None if never.

    Args:
        evaluations: In sequence.
        target: The metric.
        sign: -1 where higher is better.

    Example:
        >>> reached([Evaluation(0, 0.0, 5.0), Evaluation(100, 10.0, 4.0)], 4.5)
        Reached(seconds=5.0, tokens=50.0)
    """
    before: Evaluation | None = None
    for each in evaluations:
        if math.isfinite(each.metric) and sign * each.metric <= sign * target:
            if before is None or not math.isfinite(before.metric):
                return Reached(each.seconds, float(each.tokens))
            share = (before.metric - target) / (before.metric - each.metric)
            return Reached(
                before.seconds + share * (each.seconds - before.seconds),
                before.tokens + share * (each.tokens - before.tokens),
            )
        before = each
    return None


def _summary(
    place: int, runs: Sequence[Sequence[Outcome]], task: Task, target: float | None
) -> Summary:
    own = [run[place] for run in runs]
    first = [run[0] for run in runs]
    limits = [each for run in runs for each in run if each.name == DENSE]
    has_metric = all(
        each.metric is not None and math.isfinite(each.metric) for each in (*own, *first)
    )
    metrics = [each.metric for each in own if each.metric is not None]
    theirs = [each.metric for each in first if each.metric is not None]
    peaks = [each.peak_bytes for each in own if each.peak_bytes is not None]
    first_peaks = [each.peak_bytes for each in first if each.peak_bytes is not None]
    has_peaks = len(peaks) == len(first_peaks) == len(runs)
    arrivals = [_arrivals(run, place, task, target) for run in runs]
    never = sum(mine is None for mine, _ in arrivals)
    timed = [(mine, yard) for mine, yard in arrivals if mine is not None and yard is not None]
    all_timed = len(timed) == len(runs) and all(
        min(each.seconds for each in pair) > 0 for pair in timed
    )
    speeds = [_speed(each) for each in own]
    return Summary(
        name=own[0].name,
        precision=own[0].precision,
        tokens_per_second=_mean(speeds),
        speed=ratio(speeds, [_speed(each) for each in first]),
        of_limit=ratio(speeds, [_speed(each) for each in limits]) if limits else None,
        padding=1 - _sum(own, "tokens") / _sum(own, "padded_tokens"),
        dispersion=own[0].dispersion,
        worst_batch=max(each.spent.worst_batch for each in own) / task.max_tokens,
        peak_bytes=_mean(peaks) if has_peaks else None,
        memory=ratio(peaks, first_peaks) if has_peaks else None,
        updates=own[0].spent.updates,
        seconds=_mean([each.spent.seconds for each in own]),
        metric=_mean(metrics) if has_metric and own[0].name != DENSE else None,
        gain=_gain(metrics, theirs, task) if has_metric and own[0].name != DENSE else None,
        time=_arrival_ratio(timed, "seconds") if all_timed else None,
        tokens=_arrival_ratio(timed, "tokens") if all_timed else None,
        never=0 if own[0].name == DENSE else never,
        failed=sum(each.failed_after is not None for each in own),
    )


def _arrivals(
    run: Sequence[Outcome], place: int, task: Task, target: float | None
) -> tuple[Reached | None, Reached | None]:
    """Return when an arm and the first one had reached the target."""
    wanted = run[0].metric if target is None else target
    if wanted is None or run[place].name == DENSE:
        return None, None
    mine, yard = (reached(run[each].evaluations, wanted, sign=task.sign) for each in (place, 0))
    return mine, yard


def _arrival_ratio(timed: Sequence[tuple[Reached, Reached]], what: str) -> Interval:
    mine = [getattr(each, what) for each, _ in timed]
    return ratio(mine, [getattr(yard, what) for _, yard in timed])


def _gain(metrics: Sequence[float], theirs: Sequence[float], task: Task) -> Interval:
    return difference(
        [-task.sign * each for each in metrics], [-task.sign * each for each in theirs]
    )


def _speed(outcome: Outcome) -> float:
    return outcome.spent.tokens / outcome.spent.seconds


def _sum(outcomes: Sequence[Outcome], what: str) -> float:
    return float(sum(getattr(each.spent, what) for each in outcomes))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
