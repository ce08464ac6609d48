"""How many labels are wrong, and whether that can be told at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from batchwright.advise.dense_features import dense_features
from batchwright.difficulty import OutOfFold, out_of_fold
from batchwright.errors import ScoresError
from batchwright.seeding import generator
from batchwright.typing import IntArray

MOST_SAMPLES = 4_000
"""Samples that are looked at, at most: a random part, or fewer where there are many classes."""

_MOST_NUMBERS = 12_000_000
"""Samples × features × classes: what is fitted in a few seconds."""

FEWEST_SAMPLES = 200
"""Of fewer samples nothing is estimated."""

_LEAST_ACCURACY = 0.5
_LEAST_GAIN = 0.35
"""A teacher below these tells too little: the share of labels it has to agree with, and the share
of the largest class's errors that it has to remove."""

_PLATEAU = 0.08
"""How much more often a teacher may agree with labels in the third of samples that it is surest of
than in the next."""


@dataclass(frozen=True)
class NoiseEstimate:
    """What share of labels is wrong.

    Attributes:
        rate: The estimate.
        low: Lower end of its 95 % interval.
        high: The upper one.
        num_samples: How many were looked at.
        accuracy: How often teachers agreed with labels that they had not seen.
        majority: The share of the largest class: what naming it always would do.
        is_trusted: Whether the teachers know enough that what they disagree with is noise. If
            not, their own errors are in the estimate: it is too high rather than too low, and
            `low` says nothing.
        doubt: Why it is not trusted; empty if it is.
    """

    rate: float
    low: float
    high: float
    num_samples: int
    accuracy: float
    majority: float
    is_trusted: bool
    doubt: str


def estimate_noise(
    features: Any, codes: IntArray, num_classes: int, *, seed: int = 0
) -> NoiseEstimate:
    """Estimate what share of labels is wrong, from teachers that did not see them.

    A teacher is a linear model on the features, see `batchwright.difficulty.out_of_fold`. What it
    disagrees with is noise or its own error. Where labels are noise alone, the teacher agrees
    equally often with those that it is sure of and those that it is very sure of; where agreement
    keeps rising with its certainty, the errors are its own, and the estimate is not trusted.

    Args:
        features: Numbers of each sample, float[n, ...], or n texts.
        codes: int64[n], the classes, from 0 to k - 1; `FEWEST_SAMPLES` or more.
        num_classes: k.
        seed: Of the part that is looked at, and of the folds.

    Returns:
        The estimate.

    Raises:
        ScoresError: If features are not one for each sample, or not finite.
        MissingExtraError: If features are texts or wide, and scikit-learn is not installed.

    Complexity:
        Some seconds, however many samples there are.

    Source:
        Patrini et al., *Making deep neural networks robust to label noise*, 2016,
        arXiv:1609.03683, for the noise channel; Northcutt, Jiang and Chuang, *Confident
        learning*, 2019, arXiv:1911.00068, for predictions out of fold.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truth = np.repeat([0, 1], 400)
        >>> features = rng.normal(size=(800, 2)) + 5 * truth[:, None]
        >>> codes = np.where(rng.random(800) < 0.2, 1 - truth, truth)
        >>> estimate = estimate_noise(features, codes, 2)
        >>> estimate.is_trusted, round(estimate.rate, 1)
        (True, 0.2)
    """
    if len(features) != codes.size:
        raise ScoresError(
            f"features are of {len(features):,} samples, labels of {codes.size:,}: expected one "
            "for each sample."
        )
    size = min(codes.size, MOST_SAMPLES)
    part = np.sort(generator(seed, "label noise").permutation(codes.size)[:size])
    with _one_thread():
        dense = dense_features(features, part, seed=seed)
        fitting = max(FEWEST_SAMPLES, _MOST_NUMBERS // (dense.shape[1] * num_classes))
        if size > fitting:
            kept = np.sort(generator(seed, "fewer samples").permutation(size)[:fitting])
            part, dense = part[kept], dense[kept]
        labels = codes[part]
        counts = np.bincount(labels)
        if np.count_nonzero(counts) < 2:
            raise ScoresError("the samples looked at are all of one class: noise cannot be told.")
        known = out_of_fold(dense, labels, seed=seed)
    agrees = known.predicted == labels
    accuracy, majority = float(agrees.mean()), float(counts.max() / labels.size)
    doubt = _doubt(known, agrees, majority)
    low, high = known.noise_interval
    return NoiseEstimate(
        rate=known.noise_rate,
        low=low,
        high=high,
        num_samples=labels.size,
        accuracy=accuracy,
        majority=majority,
        is_trusted=not doubt,
        doubt=doubt,
    )


def _doubt(known: OutOfFold, agrees: npt.NDArray[np.bool_], majority: float) -> str:
    """Say why the estimate is not to be trusted, or nothing."""
    accuracy = float(agrees.mean())
    chance = 2 * np.sqrt(majority * (1 - majority) / agrees.size)
    if accuracy <= majority + chance:
        return (
            f"a linear teacher agrees with {accuracy:.0%} of the labels, no better than naming "
            f"the largest class, {majority:.0%}: these features tell nothing of the labels"
        )
    if accuracy < _LEAST_ACCURACY or accuracy - majority < _LEAST_GAIN * (1 - majority):
        return (
            f"a linear teacher agrees with {accuracy:.0%} of the labels only (the largest class "
            f"has {majority:.0%}): these features tell too little of the labels"
        )
    surest = np.argsort(-known.probabilities.max(axis=1), kind="stable")
    first, second, _ = np.array_split(agrees[surest], 3)
    if first.mean() - second.mean() > _PLATEAU:
        return (
            f"the surer a linear teacher is, the more often it agrees with the labels "
            f"({first.mean():.0%} in the surest third, {second.mean():.0%} in the next): its own "
            "errors are in the estimate"
        )
    return ""


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep linear algebra on one thread where that can be: for products this small more cost time.

    On a processor that others use too, several threads took up to 15 times as long.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    with threadpool_limits(1):
        yield
