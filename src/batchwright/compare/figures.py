"""The figures of a comparison over seeds, with intervals: each strategy beside the first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from batchwright._random import generator
from batchwright.compare.arm import Evaluation
from batchwright.compare.race import Outcome
from batchwright.compare.strategy import DENSE
from batchwright.compare.task import Task
from batchwright.errors import MissingExtraError
from batchwright.typing import FloatArray

LEVEL = 0.95

_ROUNDING = 1e-12
_RESAMPLES = 2_000


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, with its interval."""

    mean: float  # geometric for ratios, arithmetic for differences
    low: float | None  # of the mean's 95 % interval, by Student's t. None: of one seed
    high: float | None
    values: tuple[float, ...]  # of each seed


class Reached(NamedTuple):
    """When a metric was first reached, interpolated between evaluations."""

    seconds: float
    tokens: float


@dataclass(frozen=True)
class Summary:
    """A strategy over all seeds, beside the first one."""

    name: str  # of the strategy, or ``"dense limit"``
    precision: str
    tokens_per_second: float  # real tokens, mean
    speed: Interval  # the same over the first strategy's
    of_limit: Interval | None  # the same over the dense limit's. None: there is none
    padding: float  # the share of computed tokens that is padding
    dispersion: float | None  # how unlike each other its updates are in length: see `PlanStats`
    worst_batch: float  # tokens of the largest batch, padding included, over the budget
    peak_bytes: float | None  # memory of its largest batch, mean. None: unknown
    memory: Interval | None  # the same over the first strategy's
    updates: int  # optimizer steps
    seconds: float  # of a run, mean
    metric: float | None  # at the end of a run, mean. None: not measured, or not finite
    gain: Interval | None  # how much better that is than the first strategy's; above 0 is better
    time: Interval | None  # until the target, over the first strategy's. None: never, in some run
    tokens: Interval | None  # the same in tokens
    never: int  # runs that never reached the target
    failed: int  # runs whose loss became NaN or infinite


def summarize(
    runs: Sequence[Sequence[Outcome]], task: Task, *, target: float | None = None
) -> list[Summary]:
    """Summarize runs: each strategy over all seeds, beside the first.

    Args:
        runs: For each seed, the outcome of each arm; at least one seed.
        task: The task.
        target: The metric whose time is measured. None: the final metric of the first arm, in each
            run.
    """
    return [_summary(place, runs, task, target) for place in range(len(runs[0]))]


def reached(
    evaluations: Sequence[Evaluation], target: float, *, sign: float = 1.0
) -> Reached | None:
    """Return when a metric was first reached; None if never. `sign` is -1 where higher is better.

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


def ratio(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Compare positive figures seed by seed: their geometric mean ratio.

    The interval is of the mean logarithm, so that a ratio and its inverse agree.

    Example:
        >>> ratio([2.0, 8.0], [1.0, 2.0]).mean
        2.83
    """
    logs = _interval(np.log(values) - np.log(others))
    low = None if logs.low is None else float(np.exp(logs.low))
    high = None if logs.high is None else float(np.exp(logs.high))
    return Interval(float(np.exp(logs.mean)), low, high, tuple(np.exp(logs.values).tolist()))


def difference(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Compare figures seed by seed: their mean difference.

    Example:
        >>> difference([2.0, 4.0], [1.0, 2.0]).mean
        1.5
    """
    return _interval(np.asarray(values) - np.asarray(others))


def ratio_of_sums(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Compare the sums of positive figures, with a bootstrap interval over pairs.

    Example:
        >>> ratio_of_sums([2.0, 1.0, 3.0], [1.0, 0.5, 1.5]).mean
        2.0
    """
    top, bottom = np.asarray(values, dtype=float), np.asarray(others, dtype=float)
    mean, ratios = float(top.sum() / bottom.sum()), top / bottom
    if (sure := _without_spread(mean, ratios)) is not None:
        return sure
    test = _statistics().bootstrap(
        (top, bottom),
        lambda above, below, axis: above.sum(axis=axis) / below.sum(axis=axis),
        paired=True,
        n_resamples=_RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=generator(0, "intervals of sums"),
    )
    found = test.confidence_interval
    return Interval(mean, float(found.low), float(found.high), tuple(ratios.tolist()))


def _interval(values: FloatArray) -> Interval:
    mean = float(values.mean())
    if (sure := _without_spread(mean, values)) is not None:
        return sure
    low, high = _statistics().ttest_1samp(values, 0).confidence_interval(LEVEL)
    return Interval(mean, float(low), float(high), tuple(values.tolist()))


def _without_spread(mean: float, values: FloatArray) -> Interval | None:
    """Return the interval of one value, or of equal ones, for which scipy has no number."""
    kept = tuple(values.tolist())
    if values.size < 2:
        return Interval(mean, None, None, kept)
    is_equal = np.ptp(values) <= _ROUNDING * np.abs(values).max()
    return Interval(mean, mean, mean, kept) if is_equal else None


def _statistics() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingExtraError(
            "Intervals need the package scipy, which is not installed. "
            "Run: pip install 'batchwright[compare]'."
        ) from error
    return stats


def _summary(
    place: int, runs: Sequence[Sequence[Outcome]], task: Task, target: float | None
) -> Summary:
    own, first = [run[place] for run in runs], [run[0] for run in runs]
    limits = [each for run in runs for each in run if each.name == DENSE]
    is_dense = own[0].name == DENSE
    arrivals = [pair for run in runs if (pair := _arrivals(run, place, task, target)) is not None]
    timed = [(mine, theirs) for mine, theirs in arrivals if mine is not None and theirs is not None]
    has_times = len(timed) == len(runs) and min(each.seconds for pair in timed for each in pair) > 0
    metrics, first_metrics = _finite(own), _finite(first)
    has_metric = len(metrics) == len(first_metrics) == len(runs) and not is_dense
    peaks = [each.peak_bytes for each in own if each.peak_bytes is not None]
    first_peaks = [each.peak_bytes for each in first if each.peak_bytes is not None]
    has_peaks = len(peaks) == len(first_peaks) == len(runs)
    speeds = _speeds(own)
    computed = sum(each.spent.padded_tokens for each in own)
    return Summary(
        name=own[0].name,
        precision=own[0].precision,
        tokens_per_second=fmean(speeds),
        speed=ratio(speeds, _speeds(first)),
        of_limit=ratio(speeds, _speeds(limits)) if limits else None,
        padding=1 - sum(each.spent.tokens for each in own) / computed,
        dispersion=own[0].dispersion,
        worst_batch=max(each.spent.worst_batch for each in own) / task.max_tokens,
        peak_bytes=fmean(peaks) if has_peaks else None,
        memory=ratio(peaks, first_peaks) if has_peaks else None,
        updates=own[0].spent.updates,
        seconds=fmean(each.spent.seconds for each in own),
        metric=fmean(metrics) if has_metric else None,
        gain=difference(*(-task.sign * np.array([metrics, first_metrics]))) if has_metric else None,
        time=ratio(*_columns(timed, "seconds")) if has_times else None,
        tokens=ratio(*_columns(timed, "tokens")) if has_times else None,
        never=0 if is_dense else len(runs) - sum(mine is not None for mine, _ in arrivals),
        failed=sum(each.failed_after is not None for each in own),
    )


def _arrivals(
    run: Sequence[Outcome], place: int, task: Task, target: float | None
) -> tuple[Reached | None, Reached | None] | None:
    """Return when an arm and the first one reached the target. None: there is no target."""
    wanted = run[0].metric if target is None else target
    if wanted is None or run[place].name == DENSE:
        return None
    mine, theirs = (reached(run[each].evaluations, wanted, sign=task.sign) for each in (place, 0))
    return mine, theirs


def _columns(timed: Sequence[tuple[Reached, Reached]], what: str) -> tuple[list[float], ...]:
    return tuple([getattr(pair[side], what) for pair in timed] for side in (0, 1))


def _finite(outcomes: Sequence[Outcome]) -> list[float]:
    metrics = [each.metric for each in outcomes if each.metric is not None]
    return [each for each in metrics if math.isfinite(each)]


def _speeds(outcomes: Sequence[Outcome]) -> list[float]:
    return [each.spent.tokens / each.spent.seconds for each in outcomes]
