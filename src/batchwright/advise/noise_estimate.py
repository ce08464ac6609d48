"""How many labels are wrong, and whether that can be estimated at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from batchwright._format import plural
from batchwright._random import generator
from batchwright.advise.duplicates import Column, check_one_for_each
from batchwright.advise.features import feature_rows, similarities
from batchwright.advise.noise_sources import WIDEST, NoiseSource, combine
from batchwright.difficulty import NoiseRate, noise_rate
from batchwright.difficulty.kernels import leave_one_out
from batchwright.difficulty.noise import PLATEAU
from batchwright.errors import LengthsError, MissingExtraError
from batchwright.typing import FloatArray, IntArray

MOST_SAMPLES = 4_000
"""Samples of the random part at most; fewer if there are many classes."""

FEWEST_SAMPLES = 200
"""Samples that an estimate needs."""

_MOST_NUMBERS = 400_000  # samples × classes: learnt in a few seconds
_LEAST_GAIN = 4.0  # standard errors by which a teacher must be right more often than one class
_MOST_NOISE = 0.45  # above that, a teacher with little information looks like noise
_MOST_OWN_SHARE = 0.35
"""A teacher may itself be wrong on this share of the samples."""


@dataclass(frozen=True)
class NoiseEstimate:
    """The share of labels that are wrong.

    If sources are not good enough for it to be trusted, it may include the errors of teachers: then
    it is probably too high, and `low` means nothing.
    """

    rate: float  # the estimate
    low: float  # lower end of its 95 % interval
    high: float  # upper end
    num_samples: int  # how many samples it is from
    accuracy: float | None  # how often teachers agreed with labels that they had not seen
    majority: float  # the share of the largest class
    is_trusted: bool
    doubt: str  # why it is not trusted; empty if it is
    sources: tuple[NoiseSource, ...] = ()  # what it is from

    @property
    def of(self) -> str:
        """What it is from, as it follows "estimated from"."""
        return " and ".join(each.of for each in self.sources) or f"{self.num_samples:,} samples"


def estimate_noise(
    codes: IntArray,
    num_classes: int,
    *,
    features: Column = None,
    others: Sequence[NoiseSource] = (),
    seed: int = 0,
) -> NoiseEstimate | None:
    """Estimate the share of wrong labels, from all sources that there are.

    A teacher learns the labels from the features: kernel regression, which predicts each sample
    from all the others; see `batchwright.difficulty.noise_rate` for what is computed from that. It
    is not trusted if its agreement keeps rising with its confidence, or if it has too little
    information. This takes some seconds, however many samples there are.

    Args:
        codes: int64[n], classes from 0 to k - 1.
        num_classes: k.
        features: Numbers of each sample, float[n, ...], or n texts. None: only the other sources.
        others: Sources from duplicates or from a model.
        seed: Of the random part.

    Returns:
        None if there is no source.

    Raises:
        LengthsError: If there is not one row of features per sample, or one is not finite.
        MissingExtraError: If scikit-learn is not installed.
    """
    sources = list(others)
    if features is not None:
        sources.insert(0, from_features(features, codes, num_classes, seed=seed))
    return as_estimate(sources, float(np.bincount(codes).max() / codes.size))


def as_estimate(sources: Sequence[NoiseSource], majority: float) -> NoiseEstimate | None:
    """Make one estimate of all sources; None if there are none."""
    found = combine(sources)
    if found is None:
        return None
    return NoiseEstimate(
        found.rate,
        found.low,
        found.high,
        num_samples=sum(each.num_samples for each in found.sources),
        accuracy=next((each.accuracy for each in found.sources if each.accuracy is not None), None),
        majority=majority,
        is_trusted=not found.doubt,
        doubt=found.doubt,
        sources=found.sources,
    )


def from_features(
    features: Column, codes: IntArray, num_classes: int, *, seed: int = 0
) -> NoiseSource:
    """Estimate the noise by a teacher of features."""
    try:
        import sklearn  # noqa: F401 -- whether it is installed
    except ImportError as error:
        raise MissingExtraError(
            "Estimating label noise needs scikit-learn, which is not installed. Run: "
            "pip install 'batchwright[advise]'."
        ) from error
    check_one_for_each("features", features, codes.size)
    most = min(MOST_SAMPLES, max(FEWEST_SAMPLES, _MOST_NUMBERS // num_classes))
    part = np.sort(generator(seed, "label noise").permutation(codes.size)[:most])
    if np.ptp(codes[part]) == 0:
        raise LengthsError("the random part of the labels has only one class: give more.")
    p, kept = predict(features, part, codes[part], num_classes, seed=seed)
    labels = codes[part[kept]]
    of = f"{labels.size:,} samples by a teacher that had not seen their labels"
    return from_probabilities(p, labels, name="features", of=of)


def predict(
    features: Column, part: IntArray, labels: IntArray, num_classes: int, *, seed: int
) -> tuple[FloatArray, IntArray]:
    """Return a teacher's prediction for each sample of a part from all others, float64[m, k].

    Also returns the places in the part of those samples; see `feature_rows`.
    """
    from threadpoolctl import threadpool_limits  # scikit-learn brings it

    with threadpool_limits(1):  # on a busy CPU, more threads took up to 15 times as long
        rows, kept = feature_rows(features, part, seed=seed)
        return leave_one_out(similarities(rows, seed=seed), labels[kept], num_classes), kept


def from_probabilities(p: np.ndarray, labels: IntArray, *, name: str, of: str) -> NoiseSource:
    """Estimate the noise from a teacher's predictions for samples that it has not seen."""
    found = noise_rate(p, labels)
    majority = float(np.bincount(labels).max() / labels.size)
    return NoiseSource(
        name=name,
        of=of,
        rate=found.rate,
        low=found.low,
        high=found.high,
        num_samples=labels.size,
        accuracy=1 - found.disagreement,
        doubt=_doubt(found, majority, *p.shape),
    )


def _doubt(found: NoiseRate, majority: float, size: int, num_classes: int) -> str:
    """Return why the estimate is not trusted; empty if it is."""
    accuracy = 1 - found.disagreement
    if accuracy - majority < _LEAST_GAIN * np.sqrt(majority * (1 - majority) / size):
        return (
            f"a teacher predicts {accuracy:.0%} of the labels, and the largest class has "
            f"{majority:.0%}, so it has too little information"
        )
    first, second, _ = found.by_confidence
    if max(first, found.rate) > _MOST_NOISE:
        return (
            f"a teacher predicts {1 - first:.0%} of the labels in its most confident third of the "
            "samples, so it has too little information"
        )
    # The more labels are wrong, the less the agreement shows the teacher's own errors.
    room = 1 - found.rate * num_classes / (num_classes - 1)
    fall = min(PLATEAU, max(PLATEAU * room, 2 * np.sqrt(6 * first * (1 - first) / size)))
    if second - first > fall or found.own_errors > _MOST_OWN_SHARE:
        return (
            f"a teacher predicts {1 - first:.0%} of the labels in its most confident third of the "
            f"samples and {1 - second:.0%} in the second, so the estimate contains its own errors"
        )
    if found.high - found.low > WIDEST:
        return f"a teacher learns too little from {plural(size, 'sample')}"
    return ""
