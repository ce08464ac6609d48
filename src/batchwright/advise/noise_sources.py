"""Sources of the share of wrong labels, and one estimate from all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from batchwright.typing import FloatArray, IntArray

WIDEST = 0.25
"""Wider intervals are not trusted."""

_FEWEST_DIFFERENT = 8
"""Equal samples with different labels: if there are fewer, labels may have been copied along."""

_LEAST_AGREEMENT = 2.0
"""Standard errors by which equal samples must agree more often than any two."""

_MOST_GROUPS = 20_000
_RATES = np.linspace(0.0005, 0.9995, 1_000)
_CHI_SQUARE_95 = 3.841  # the 95 % quantile with one degree of freedom


@dataclass(frozen=True)
class NoiseSource:
    """One estimate of the share of labels that are wrong."""

    name: str  # its source: ``"duplicates"``, ``"features"`` or ``"model"``
    of: str  # the same in words, as it follows "estimated from"
    rate: float  # the estimate
    low: float  # lower end of its 95 % interval
    high: float  # upper end
    num_samples: int  # how many samples it is from
    accuracy: float | None = None  # how often a teacher agreed with labels that it had not seen
    doubt: str = ""  # why it is not trusted; empty if it is


@dataclass(frozen=True)
class Combined:
    """One estimate from several sources."""

    rate: float
    low: float
    high: float
    doubt: str  # why it is not trusted; empty if it is
    sources: tuple[NoiseSource, ...]  # those it is from


def from_duplicates(groups: IntArray, classes: IntArray, num_classes: int) -> NoiseSource | None:
    """Estimate the noise from equal samples that were labelled separately.

    If each label is wrong with probability ρ, and all wrong classes are equally likely, two labels
    of one sample differ with probability ``D = 2ρ − ρ²·k/(k − 1)``. So
    ``ρ = (k − 1)/k · (1 − √(1 − D·k/(k − 1)))``: with ten classes, 34 of 67 pairs that differ give
    a rate of 0.306. If samples occur more than twice, the rate is the maximum likelihood estimate
    under the same model. The interval is that of a likelihood ratio. If wrong labels are mostly of
    one class, the estimate is a little low.

    Args:
        groups: int64[n], equal for equal samples.
        classes: int64[n], from 0 to k - 1.
        num_classes: k.

    Returns:
        None if there are no equal samples, or one class.

    Example:
        >>> groups = np.repeat(np.arange(67), 2)
        >>> classes = np.stack([np.zeros(67, int), np.arange(67) < 34], axis=1).ravel()
        >>> round(from_duplicates(groups, classes, num_classes=10).rate, 2)
        0.31
    """
    groups = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(groups)
    repeated = np.flatnonzero(sizes > 1)[:_MOST_GROUPS]
    if num_classes < 2 or not repeated.size:
        return None
    place = np.full(sizes.size, -1)
    place[repeated] = np.arange(repeated.size)
    kept = place[groups] >= 0
    cells, times = np.unique(place[groups[kept]] * num_classes + classes[kept], return_counts=True)
    owner = cells // num_classes
    total = sizes[repeated]
    same = np.bincount(owner, times * (times - 1))  # ordered pairs
    different = total * (total - 1) - same
    rates = _RATES[1 - 1 / num_classes > _RATES]
    likelihood = _log_likelihood(owner, times, rates, num_classes)
    best = int(likelihood.argmax())
    inside = rates[2 * (likelihood[best] - likelihood) <= _CHI_SQUARE_95]
    num_different, num_groups = int((different > 0).sum()), int(repeated.size)
    is_least = best == 0
    low, high = (0.0 if is_least else float(inside[0])), float(inside[-1])
    pairs = "pair" if (total == 2).all() else "set"
    doubt = ""
    if num_different < _FEWEST_DIFFERENT:
        doubt = (
            f"only {num_different:,} of {num_groups:,} {pairs}s of equal samples have different "
            "labels: they may have been copied together with their labels"
        )
    elif _agreement(classes[kept], total, int(same.sum()) // 2) < _LEAST_AGREEMENT:
        doubt = (
            "equal samples have different labels about as often as any two samples: what was "
            "compared does not determine the label"
        )
    return NoiseSource(
        name="duplicates",
        of=f"{num_groups:,} {pairs}s of equal samples, {num_different:,} with different labels",
        rate=0.0 if is_least else float(rates[best]),
        low=low,
        high=high,
        num_samples=int(total.sum()),
        doubt=doubt,
    )


def _agreement(classes: IntArray, sizes: IntArray, same: int) -> float:
    """Return by how many standard errors pairs agree more often than with random labels.

    Args:
        classes: int64[n], labels of samples in groups of equal ones.
        sizes: int64[g], samples of each group.
        same: Pairs of equal samples that have the same label.
    """
    shares = np.bincount(classes) / classes.size
    two, three = float((shares**2).sum()), float((shares**3).sum())  # have the same by chance
    n = sizes.astype(np.float64)
    pairs = float((n * (n - 1)).sum()) / 2
    variance = pairs * (two - two**2)
    variance += float((n * (n - 1) * (n - 2)).sum()) * (three - two**2)  # pairs that share a sample
    return float((same - pairs * two) / np.sqrt(max(variance, 1e-9)))


def _log_likelihood(
    owner: IntArray, times: IntArray, rates: FloatArray, num_classes: int
) -> FloatArray:
    """Return the log-likelihood of each rate over all groups, for any true class: float64[r].

    A class with t of a group's n labels is the true one with a likelihood of
    ``(1 − ρ)^t · (ρ / (k − 1))^(n − t)``.
    """
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    # Groups of the same counts are computed once.
    order = np.lexsort((-times, owner))
    patterns: dict[tuple[int, ...], int] = {}
    for part in np.split(times[order], starts[1:]):
        key = tuple(part.tolist())
        patterns[key] = patterns.get(key, 0) + 1
    right, wrong = np.log1p(-rates), np.log(rates / (num_classes - 1))
    result = np.zeros(rates.size)
    for counts, number in patterns.items():
        n = sum(counts)
        terms = [t * right + (n - t) * wrong for t in counts]
        if num_classes > len(counts):
            terms.append(np.log(num_classes - len(counts)) + n * wrong)
        result += number * np.logaddexp.reduce(terms)
    return result


def combine(sources: Sequence[NoiseSource]) -> Combined | None:
    """Combine several sources into one estimate, using those that are trusted.

    Teachers see the same labels, so only the one with the narrowest interval is used. Duplicates
    are independent of it: if the intervals overlap, the result is their mean, weighted by
    precision; of a teacher that is not trusted, only the upper end is used. If duplicates have less
    noise, they are assumed to have been copied with their labels, and left out; if they have more,
    the sources contradict each other, and neither is trusted.
    """
    teachers = sorted((each for each in sources if each.name != "duplicates"), key=_trust)
    equal = next((each for each in sources if each.name == "duplicates"), None)
    teacher = teachers[0] if teachers else None
    if teacher is None:
        return None if equal is None else _from_equal(equal, None)
    if equal is None or equal.doubt:
        return _alone(teacher)
    if equal.low > teacher.high:
        rate = (equal.rate + teacher.rate) / 2
        doubt = (
            f"equal samples say {equal.low:.0%} to {equal.high:.0%}, and a teacher at most "
            f"{teacher.high:.0%}"
        )
        return Combined(rate, teacher.low, equal.high, doubt, (teacher, equal))
    if teacher.doubt:
        return _from_equal(equal, teacher)
    if equal.high < teacher.low:
        return _alone(teacher)
    weights = np.array([1 / max(each.high - each.low, 1e-3) ** 2 for each in (teacher, equal)])
    weights /= weights.sum()
    parts = np.array([[each.rate, each.low, each.high] for each in (teacher, equal)])
    rate = float(weights @ parts[:, 0])
    below, above = (
        float(np.linalg.norm(weights * np.abs(parts[:, end] - parts[:, 0]))) for end in (1, 2)
    )
    return Combined(rate, max(0.0, rate - below), min(1.0, rate + above), "", (teacher, equal))


def _trust(source: NoiseSource) -> tuple[bool, float]:
    return bool(source.doubt), source.high - source.low


def _from_equal(equal: NoiseSource, teacher: NoiseSource | None) -> Combined:
    """Return the estimate from equal samples, up to the upper end of an untrusted teacher."""
    sources: tuple[NoiseSource, ...] = (equal,)
    high, doubt = equal.high, equal.doubt
    if teacher is not None and teacher.high < high:
        high, sources = teacher.high, (teacher, equal)
    if not doubt and high - equal.low > WIDEST:
        doubt = teacher.doubt if teacher else f"{equal.of}, are too few"
    return Combined(min(equal.rate, high), equal.low, high, doubt, sources)


def _alone(source: NoiseSource) -> Combined:
    return Combined(source.rate, source.low, source.high, source.doubt, (source,))
