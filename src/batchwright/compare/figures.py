"""The figures of a comparison over seeds, with intervals: each strategy beside the first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt

from batchwright.compare.arm import Evaluation
from batchwright.compare.race import Outcome
from batchwright.compare.strategy import DENSE
from batchwright.compare.task import Task
from batchwright.errors import MissingExtraError

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, with its interval."""

    mean: float  # geometric for ratios, arithmetic for differences
    low: float | None  # of the mean's 95 % interval, by Student's t. None: of one seed
    high: float | None
    values: tuple[float, ...]  # of each seed


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
    """Summarize runs of at least one seed: each strategy over all seeds, beside the first.

    `target` is the metric whose time is measured. None: the first arm's final one, in each run.
    """
    return [_summary(place, runs, task, target) for place in range(len(runs[0]))]


def reached(
    evaluations: Sequence[Evaluation], target: float, *, sign: float = 1.0
) -> Evaluation | None:
    """Return when a metric was first reached, interpolated between evaluations; None if never.

    `sign` is -1 where higher is better.
    """
    before: Evaluation | None = None
    for each in evaluations:
        if math.isfinite(each.metric) and sign * each.metric <= sign * target:
            if before is None or not math.isfinite(before.metric):
                return each
            share = (before.metric - target) / (before.metric - each.metric)
            tokens = before.tokens + share * (each.tokens - before.tokens)
            seconds = before.seconds + share * (each.seconds - before.seconds)
            return Evaluation(round(tokens), seconds, target)
        before = each
    return None


def ratio(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Compare positive figures seed by seed: their geometric mean ratio.

    The interval is of the mean logarithm, so that a ratio and its inverse agree.
    """
    logs = difference(np.log(values), np.log(others))
    low, high = (None if end is None else math.exp(end) for end in (logs.low, logs.high))
    return Interval(math.exp(logs.mean), low, high, tuple(np.exp(logs.values).tolist()))


def difference(values: npt.ArrayLike, others: npt.ArrayLike) -> Interval:
    """Compare figures seed by seed: their mean difference, with Student's interval."""
    found = np.asarray(values, dtype=np.float64) - np.asarray(others)
    mean, kept = float(found.mean()), tuple(found.tolist())
    if found.size < 2:
        return Interval(mean, None, None, kept)
    try:
        from scipy.special import stdtrit
    except ImportError as error:
        raise MissingExtraError(
            "Intervals need the package scipy, which is not installed. "
            "Run: pip install 'batchwright[compare]'."
        ) from error
    errors = stdtrit(found.size - 1, (1 + LEVEL) / 2)  # standard errors to each side
    half = float(errors * found.std(ddof=1) / math.sqrt(found.size))
    return Interval(mean, mean - half, mean + half, kept)


def _summary(
    place: int, runs: Sequence[Sequence[Outcome]], task: Task, target: float | None
) -> Summary:
    own, first = [run[place] for run in runs], [run[0] for run in runs]
    limits = [each for run in runs for each in run if each.name == DENSE]
    is_dense = own[0].name == DENSE
    tokens, speeds = sum(each.spent.tokens for each in own), _speeds(own)
    metrics = np.array([[each.metric for each in of] for of in (own, first)], dtype=np.float64)
    has_metric = not is_dense and bool(np.isfinite(metrics).all())
    peaks = np.array([[each.peak_bytes for each in of] for of in (own, first)], dtype=np.float64)
    has_peaks = bool(np.isfinite(peaks).all())
    arrivals = [  # of this arm and of the first one, in runs that have a target
        [reached(each.evaluations, wanted, sign=task.sign) for each in (mine, theirs)]
        for mine, theirs in zip(own, first, strict=True)
        if (wanted := theirs.metric if target is None else target) is not None and not is_dense
    ]
    seconds, spent = (
        np.array([[getattr(each, what, np.nan) for each in pair] for pair in arrivals])
        .reshape(-1, 2)
        .T
        for what in ("seconds", "tokens")
    )
    has_times = seconds.shape[1] == len(runs) and bool((seconds > 0).all())
    return Summary(
        name=own[0].name,
        precision=own[0].precision,
        tokens_per_second=fmean(speeds),
        speed=ratio(speeds, _speeds(first)),
        of_limit=ratio(speeds, _speeds(limits)) if limits else None,
        padding=1 - tokens / sum(each.spent.padded_tokens for each in own),
        dispersion=own[0].dispersion,
        worst_batch=max(each.spent.worst_batch for each in own) / task.max_tokens,
        peak_bytes=float(peaks[0].mean()) if has_peaks else None,
        memory=ratio(*peaks) if has_peaks else None,
        updates=own[0].spent.updates,
        seconds=fmean(each.spent.seconds for each in own),
        metric=float(metrics[0].mean()) if has_metric else None,
        gain=difference(*(-task.sign * metrics)) if has_metric else None,
        time=ratio(*seconds) if has_times else None,
        tokens=ratio(*spent) if has_times else None,
        never=0 if is_dense else len(runs) - int(np.isfinite(seconds[0]).sum()),
        failed=sum(each.failed_after is not None for each in own),
    )


def _speeds(outcomes: Sequence[Outcome]) -> list[float]:
    return [each.spent.tokens / each.spent.seconds for each in outcomes]
