"""How many labels are wrong, from what a teacher predicts of samples that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchwright.difficulty.scores import SMALLEST, as_labels, as_probabilities, check_classes
from batchwright.typing import FloatArray

_EXPONENTS = np.geomspace(0.25, 128, 40)
_RATES = np.linspace(0, 1, 201)
_LOGIT = 12.0
_BINS = 400
_ANCHOR_SHARE = 0.1
_ANCHOR_CERTAINTY = 0.99
_FEWEST = 40
"""Samples that a class is estimated from; rarer ones are estimated together."""

_SIGMAS = 2.0
_OWN_SHARE = 0.2
"""The share of the teacher's own errors by which an estimate may be wrong. Like the other parts of
the interval it was chosen on the data sets of `benchmarks.label_noise` that are for development."""

PLATEAU = 0.08
"""By how much a teacher may disagree more with labels in the second third of its confidence than in
the first; where it is more, the estimate contains its own errors."""

_LEAST_ROOM = 0.1  # of the agreement that is left to see a teacher's own errors by


@dataclass(frozen=True)
class NoiseRate:
    """What share of labels is wrong.

    Attributes:
        rate: The estimate.
        low: Lower end of its 95 % interval, which covers chance and the teacher's own errors.
        high: Its upper end.
        disagreement: Share of labels that are not the teacher's first choice: noise and its errors.
        by_confidence: The same in the third of the samples of which the teacher is surest, in the
            second, and in the last. If the first two are unlike, its own errors are in the rate.
        own_errors: Share of samples on which the teacher itself is wrong, if the rate is right.
    """

    rate: float
    low: float
    high: float
    disagreement: float
    by_confidence: tuple[float, float, float]
    own_errors: float


def noise_rate(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> NoiseRate:
    """Estimate what share of labels is wrong.

    A teacher's errors become fewer as its confidence rises, wrong labels do not: where the teacher
    is sure, the remaining disagreement is label noise. This is looked at in each predicted class,
    because classes may have different shares of wrong labels, in two ways, whose mean it returns:

    - The disagreement in the third of the samples of which the teacher is surest.
    - The chance that a label agrees with the teacher's first choice is modelled as
      ``(1 − ρ)·q + m·(1 − q)``, where ρ is the share of the class that is labelled as another, m
      the chance that a sample of another class gets this label, and ``q ∝ p^β`` the chance that
      the teacher is right: its probabilities to a power, because a teacher of noisy labels is less
      sure than it should be. Both ρ and β are fitted by maximum likelihood, with β such that a
      tenth of the samples are recognized with 99 % certainty.

    The interval has four parts: chance; half of the difference of the two; a fifth of the
    teacher's own errors; and, below, what the disagreement still fell from the second third of the
    samples to the first, for it might have fallen further (less of that where it fell little). It
    ends where disagreement does: a teacher that is right more often than not disagrees with as many
    labels as are wrong, or more.

    The estimate assumes that labels can be predicted from the data, that more than half of each
    class has the right label, and that noise does not prefer hard samples: such noise may be
    missed.

    Args:
        probabilities: float[n, k], of teachers that were not trained on the sample.
        labels: integer[n], classes from 0 to k - 1.

    Raises:
        LengthsError: The probabilities are not distributions, or labels do not fit.

    Source:
        Anchor points and the noise channel: Liu and Tao, 2014, arXiv:1411.7718; Patrini et al.,
        2016, arXiv:1609.03683. Noise by class: Northcutt, Jiang, Chuang, "Confident learning",
        2019, arXiv:1911.00068. Temperature scaling: Guo et al., 2017, arXiv:1706.04599.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truth = rng.integers(0, 4, 2_000)
        >>> teacher = np.full((2_000, 4), 0.02)
        >>> teacher[np.arange(2_000), truth] = 0.94
        >>> labels = np.where(rng.random(2_000) < 0.3, (truth + 1) % 4, truth)
        >>> estimate = noise_rate(teacher, labels)
        >>> bool(abs(estimate.rate - 0.3) < 0.03 and estimate.low < 0.3 < estimate.high)
        True
    """
    p = as_probabilities(probabilities, "probabilities")
    y = as_labels(labels, len(p))
    check_classes(y, p.shape)
    size, num_classes = p.shape
    predicted = p.argmax(axis=1)
    agrees = predicted == y
    disagreement = float(1 - agrees.mean())
    thirds = _by_confidence(p, predicted, agrees)
    surest = thirds[0]
    modelled, variance = _by_likelihood(p, predicted, agrees)
    rate = (modelled + surest) / 2
    chance = np.sqrt((variance + _variance(surest, size / 3)) / 2)
    room = max(_LEAST_ROOM, 1 - rate * num_classes / (num_classes - 1))
    own = min(1.0, max(0.0, disagreement - rate) / room)
    half = np.linalg.norm([_SIGMAS * chance, (modelled - surest) / 2, _OWN_SHARE * own])
    most = disagreement + _SIGMAS * np.sqrt(_variance(disagreement, size))
    fall = max(0.0, thirds[1] - surest)
    return NoiseRate(
        rate=float(rate),
        low=max(0.0, float(rate - half - fall * min(1.0, fall / PLATEAU))),
        high=min(float(rate + half), max(float(rate), float(most)), 1.0),
        disagreement=disagreement,
        by_confidence=thirds,
        own_errors=float(own),
    )


def _variance(share: float, size: float) -> float:
    """Return the variance of a share that was counted; of none or all, as if of one sample."""
    return max(share * (1 - share), 1 / size) / size


def _by_confidence(
    p: FloatArray, predicted: np.ndarray, agrees: np.ndarray
) -> tuple[float, float, float]:
    """Return the disagreement in thirds of each predicted class, the surest first."""
    two = np.partition(p, -2, axis=1)[:, -2:]
    margin = two[:, 1] - two[:, 0]
    # Samples of the same margin have no order: each has their mean.
    order = np.lexsort((-margin, predicted))
    starts = np.ones(order.size, dtype=bool)
    starts[1:] = (np.diff(margin[order]) != 0) | (np.diff(predicted[order]) != 0)
    tied = np.cumsum(starts) - 1
    wrong = np.bincount(tied, ~agrees[order]) / np.bincount(tied)
    counts = np.bincount(predicted)
    first = np.cumsum(counts) - counts
    place = (np.arange(order.size) - first[predicted[order]] + 0.5) / counts[predicted[order]]
    thirds = [wrong[tied[np.ceil(3 * place) == third]] for third in (1, 2, 3)]
    found = [float(each.mean()) if each.size else float(1 - agrees.mean()) for each in thirds]
    return found[0], found[1], found[2]


def _by_likelihood(p: FloatArray, predicted: np.ndarray, agrees: np.ndarray) -> tuple[float, float]:
    """Return the rate that the model of `noise_rate` has, and its variance."""
    num_classes = p.shape[1]
    rates = _RATES[1 - 1 / num_classes > _RATES]
    odds = np.log(np.maximum(p, SMALLEST))
    odds -= odds.max(axis=1, keepdims=True)
    is_rare = np.bincount(predicted, minlength=num_classes) < _FEWEST
    group = np.where(is_rare[predicted], num_classes, predicted)
    groups, group, counts = np.unique(group, return_inverse=True, return_counts=True)
    # Histograms of those that agree and that do not, over log-odds, for each exponent.
    tables: list[list[np.ndarray]] = [[] for _ in groups]
    for exponent in _EXPONENTS:
        certainty = 1 / np.exp(exponent * odds).sum(axis=1)
        logit = np.log(np.maximum(certainty, 1e-9) / np.maximum(1 - certainty, 1e-9))
        scaled = (np.clip(logit, -_LOGIT, _LOGIT) + _LOGIT) / (2 * _LOGIT)
        bins = np.rint(scaled * (_BINS - 1)).astype(np.int64)
        for place, table in enumerate(tables):
            own = group == place
            anchors = np.quantile(certainty[own], 1 - _ANCHOR_SHARE)
            if anchors >= _ANCHOR_CERTAINTY or exponent == _EXPONENTS[-1]:
                kept = [bins[own & agrees], bins[own & ~agrees]]
                table.append(np.stack([np.bincount(each, minlength=_BINS) for each in kept]))
    q = 1 / (1 + np.exp(-np.linspace(-_LOGIT, _LOGIT, _BINS)))
    shares = counts / group.size
    confused = np.full(len(groups), np.nan)  # at first, as if all classes were alike
    for _ in range(2):
        best, variances = np.empty(len(groups)), np.empty(len(groups))
        for place, table in enumerate(tables):
            known = confused[place]
            others = rates / (num_classes - 1) if np.isnan(known) else np.full(rates.size, known)
            agreement = np.outer(1 - rates, q) + np.outer(others, 1 - q)
            yes, no = np.stack(table).transpose(1, 2, 0)
            profile = (np.log(agreement) @ yes + np.log1p(-agreement) @ no).max(axis=1)
            weights = np.exp(profile - profile.max())
            weights /= weights.sum()
            best[place] = rates[profile.argmax()]
            variances[place] = weights @ (rates - weights @ rates) ** 2
        # A sample of another class gets this label: of two classes, at the other one's rate.
        if num_classes == 2:
            confused = best[::-1] if len(groups) == 2 else best
        else:
            confused = np.full(len(groups), shares @ best / (num_classes - 1))
        confused = np.clip(confused, 1e-6, None)
    return float(shares @ best), float(shares**2 @ variances)
