"""The figures of a comparison over seeds, with intervals: each strategy beside the first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

import numpy as np
import numpy.typing as npt

from batchwright.compare.arrivals import Arrival, Target, arrival, target_of
from batchwright.compare.race import Outcome
from batchwright.compare.strategy import DENSE
from batchwright.errors import MissingExtraError

LEVEL = 0.95


class Measured(Protocol):
    """What has to be known of a task."""

    @property
    def max_tokens(self) -> int:
        """Memory budget of a batch, padding included."""

    @property
    def sign(self) -> float:
        """1 where a lower metric is better, -1 where a higher one is."""


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
    improved: float | None  # how much better it became over a run, smoothed: mean. None: unknown
    time: Interval | None  # to the target, over the first strategy's. None: not held in some run
    tokens: Interval | None  # the same in tokens
    held: int  # runs that reached the target, and held it until their end
    lost: int  # runs that reached it and did not hold it
    never: int  # runs that never reached it
    touched: Interval | None  # time over the first's, of the runs that reached it and lost it again
    failed: int  # runs whose loss became NaN or infinite


def summarize(
    runs: Sequence[Sequence[Outcome]], task: Measured, *, target: float | None = None
) -> list[Summary]:
    """Summarize runs of at least one seed: each strategy over all seeds, beside the first.

    `target` is the metric whose time is measured. None: the first arm's final one, in each run. It
    counts where it is reached and held: see `batchwright.compare.arrivals`.
    """
    return [_summary(place, runs, task, target) for place in range(len(runs[0]))]


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
    place: int, runs: Sequence[Sequence[Outcome]], task: Measured, target: float | None
) -> Summary:
    own, first = [run[place] for run in runs], [run[0] for run in runs]
    limits = [each for run in runs for each in run if each.name == DENSE]
    is_dense = own[0].name == DENSE
    tokens, speeds = sum(each.spent.tokens for each in own), _speeds(own)
    metrics = np.array([[each.metric for each in of] for of in (own, first)], dtype=np.float64)
    has_metric = not is_dense and bool(np.isfinite(metrics).all())
    peaks = np.array([[each.peak_bytes for each in of] for of in (own, first)], dtype=np.float64)
    has_peaks = bool(np.isfinite(peaks).all())
    improvements = [] if is_dense else [_target(each, task) for each in own]
    targets = [None if is_dense else _target(each, task, target) for each in first]
    found = [
        [_arrival(each, of, task) for each, of in zip(arms, targets, strict=True)]
        for arms in (own, first)
    ]
    arrived = [each for each in found[0] if each is not None]
    could = [
        each.failed_after is None and of is not None for each, of in zip(own, targets, strict=True)
    ]
    both = [
        (mine, its)
        for mine, its in zip(*found, strict=True)
        if mine and its and min(mine.seconds, its.seconds, mine.tokens, its.tokens) > 0
    ]
    held = [pair for pair in both if pair[0].held and pair[1].held]
    again = [pair for pair in both if not pair[0].held]
    is_held = len(held) == len(runs)
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
        improved=_mean([None if of is None else of.improved for of in improvements]),
        time=_over(held, "seconds") if is_held else None,
        tokens=_over(held, "tokens") if is_held else None,
        held=sum(each.held for each in arrived),
        lost=sum(not each.held for each in arrived),
        never=sum(could) - len(arrived),
        touched=_over(again, "seconds") if again else None,
        failed=sum(each.failed_after is not None for each in own),
    )


def _speeds(outcomes: Sequence[Outcome]) -> list[float]:
    return [each.spent.tokens / each.spent.seconds for each in outcomes]


def _target(first: Outcome, task: Measured, wanted: float | None = None) -> Target | None:
    """Return the target of a run; None: its first arm failed, or is not at its end."""
    seen = () if first.metric is None else first.evaluations
    return target_of(seen, tokens=first.spent.tokens, sign=task.sign, wanted=wanted)


def _arrival(outcome: Outcome, target: Target | None, task: Measured) -> Arrival | None:
    if target is None or outcome.failed_after is not None:
        return None
    return arrival(outcome.evaluations, target, tokens=outcome.spent.tokens, sign=task.sign)


def _over(pairs: Sequence[tuple[Arrival, Arrival]], what: str) -> Interval:
    """Compare what arms and the first ones had spent when they arrived."""
    ours, theirs = ([getattr(each, what) for each in of] for of in zip(*pairs, strict=True))
    return ratio(ours, theirs)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return fmean(known) if known and len(known) == len(values) else None
