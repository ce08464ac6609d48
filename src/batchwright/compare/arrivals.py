"""When an arm reaches the baseline's final metric, and whether it holds it.

A single evaluation may be good by chance. So the metric is smoothed, alike for all arms, and what
is reached has to be held until the end of the run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from batchwright.compare.arm import Evaluation
from batchwright.typing import FloatArray

SMOOTHED = 0.25
"""The smoothed metric is the mean over this share of a run before it.

It is a mean over tokens, not over evaluations, so that it means the same wherever these are close.
"""

ALLOWED = 0.02
"""How much of what the baseline improved over its run the target lies before its final metric.

Without it, every second copy of the baseline that has stopped improving would never arrive.
"""

LOST = 0.03
"""An arm that ends this share of what the baseline improved before its final metric has lost it."""


@dataclass(frozen=True)
class Target:
    """A smoothed metric to reach, and to hold."""

    metric: float
    held: float  # the worst one, at the end of a run, that still holds it
    improved: float  # how much better the baseline became over its run. Below 0: worse


@dataclass(frozen=True)
class Arrival:
    """When an arm reached a target."""

    tokens: int
    seconds: float
    held: bool  # whether it was still there at the end of its run


def target_of(
    baseline: Sequence[Evaluation], *, tokens: int, sign: float, wanted: float | None = None
) -> Target | None:
    """Return the target that a baseline sets: its smoothed metric at the end of its run, nearly.

    Args:
        baseline: Its evaluations.
        tokens: Those of a whole run.
        sign: 1 where lower is better, -1 where higher is better.
        wanted: The metric to reach instead.

    Returns:
        None if there is neither a metric nor one that is wanted.
    """
    curve = smoothed(baseline, tokens=tokens)
    improved, final = 0.0, wanted
    if curve and math.isfinite(baseline[-1].metric):
        places, metrics = [each.tokens for each in curve], [each.metric for each in curve]
        end = float(np.interp(tokens, places, metrics))
        improved = sign * (curve[0].metric - end)
        final = end if wanted is None else wanted
    if final is None:
        return None
    short, lost = (sign * share * max(improved, 0.0) for share in (ALLOWED, LOST))
    if wanted is not None:
        short, lost = 0.0, lost - short
    return Target(final + short, final + lost, improved)


def arrival(
    evaluations: Sequence[Evaluation], target: Target, *, tokens: int, sign: float
) -> Arrival | None:
    """Return when an arm's smoothed metric first reached a target, and whether it held it.

    `tokens` are those of a whole run. None: it never did.
    """
    curve = smoothed(evaluations, tokens=tokens)
    found = reached(curve, target.metric, sign=sign)
    if found is None:
        return None
    ends_known = math.isfinite(evaluations[-1].metric)
    is_held = ends_known and sign * curve[-1].metric <= sign * target.held
    return Arrival(found.tokens, found.seconds, is_held)


def smoothed(evaluations: Sequence[Evaluation], *, tokens: int) -> list[Evaluation]:
    """Replace each metric by the mean over the last quarter of a run of `tokens` until then.

    Between evaluations the metric is taken to change evenly. At the beginning the mean is over what
    there is. Metrics that are NaN or infinite are left out, and so are repetitions.
    """
    known = {each.tokens: each for each in reversed(evaluations) if math.isfinite(each.metric)}
    if not known:
        return []
    ends = np.array(sorted(known), np.float64)
    metrics = np.array([known[end].metric for end in sorted(known)])
    starts = np.maximum(ends - SMOOTHED * tokens, ends[0])
    means = _means(ends, metrics, starts)
    return [
        replace(known[end], metric=mean)
        for end, mean in zip(sorted(known), means.tolist(), strict=True)
    ]


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


def _means(at: FloatArray, values: FloatArray, starts: FloatArray) -> FloatArray:
    """Return the mean of the line through points, from each start to the point of that place."""
    heights = np.interp(starts, at, values)
    areas = np.concatenate([[0.0], np.cumsum(np.diff(at) * (values[1:] + values[:-1]) / 2)])
    before = np.searchsorted(at, starts, side="right") - 1
    cut = areas[before] + (starts - at[before]) * (values[before] + heights) / 2
    widths = at - starts
    return np.where(widths > 0, (areas - cut) / np.where(widths > 0, widths, 1.0), values)
