"""How many labels are wrong, from predictions of a teacher that did not see them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from batchwright.difficulty.arrays import as_array, as_labels
from batchwright.errors import ScoresError
from batchwright.typing import FloatArray

SMALLEST = 1e-12
"""Probabilities are taken for at least this."""

_EXPONENTS = np.geomspace(0.25, 128, 55)
_RATES = np.linspace(0, 1, 401)
_LOGIT = 12.0
_BINS = 400

_ANCHOR_SHARE = 0.1
_ANCHOR_CERTAINTY = 0.99

_CHI_SQUARE_95 = 3.841
"""The 95 % quantile of a chi-squared variable with one degree of freedom."""


@dataclass(frozen=True)
class NoiseRate:
    """What share of labels is wrong.

    Attributes:
        rate: The estimate.
        low: Lower end of the 95 % interval, from the profile likelihood. It covers chance, not a
            model that does not fit.
        high: Its upper end.
        disagreement: Share of labels that are not the teacher's first choice: what counting
            alone would say. It contains the teacher's own errors.
    """

    rate: float
    low: float
    high: float
    disagreement: float


def noise_rate(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> NoiseRate:
    """Estimate what share of labels is wrong, without the teacher's own errors.

    A teacher that is wrong by itself disagrees with right labels too. Its errors fall as its
    confidence rises, those of the labels do not: among the samples that it is sure of, what
    disagreement is left is label noise. So the chance that a label agrees with the teacher's
    first choice is taken to be ``(1 − ρ)·q + ρ·(1 − q)/(k − 1)``: either the label is right and
    so is the teacher, with probability q, or the label went over to one of the k − 1 other
    classes. Here ρ is the noise rate, and q comes from the teacher's probabilities p by one
    exponent, ``q ∝ p^β``, because a teacher that learnt from noisy labels is less sure than it
    should be. Both numbers are fitted by maximum likelihood.

    That labels can be told from data at all is assumed, and has to be: β is such that a tenth of
    the samples are recognised with 99 % certainty. Noise should not prefer hard samples: that part
    of it looks like errors of the teacher, and is not counted. Noise is taken to choose among all
    wrong classes: where one of them takes nearly as many labels as the right one, teachers learn
    that too, and the rate comes out up to a tenth too high.

    Args:
        probabilities: float[n, k], of teachers that were not trained on the sample.
        labels: integer[n], classes from 0 to k - 1, as they are, noise and all.

    Returns:
        The rate, between 0 and 1 − 1/k: beyond that, labels say nothing.

    Raises:
        ScoresError: If the probabilities are no distributions, or labels do not fit.

    Complexity:
        O(n k).

    Source:
        Anchor points and the noise channel: Liu and Tao, "Classification with noisy labels by
        importance reweighting", 2014, arXiv:1411.7718; Patrini, Rozza, Menon, Nock, Qu, "Making
        deep neural networks robust to label noise: a loss correction approach", 2016,
        arXiv:1609.03683. The exponent is temperature scaling: Guo, Pleiss, Sun, Weinberger, "On
        calibration of modern neural networks", 2017, arXiv:1706.04599.

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
    size, num_classes = p.shape
    y = as_labels(labels, size)
    if size == 0 or num_classes < 2:
        raise ScoresError(
            f"probabilities have shape {list(p.shape)}, expected at least one row, two columns."
        )
    if y.min() < 0 or y.max() >= num_classes:
        raise ScoresError(
            f"labels are {y.min()} to {y.max()}, probabilities are of classes 0 to "
            f"{num_classes - 1}."
        )
    agrees = p.argmax(axis=1) == y
    odds = np.log(np.maximum(p, SMALLEST))
    odds -= odds.max(axis=1, keepdims=True)
    rates = _RATES[1 - 1 / num_classes > _RATES]
    profile = np.full(rates.size, -np.inf)
    for exponent in _EXPONENTS:
        certainty = 1 / np.exp(exponent * odds).sum(axis=1)
        anchors = np.quantile(certainty, 1 - _ANCHOR_SHARE)
        if anchors >= _ANCHOR_CERTAINTY or exponent == _EXPONENTS[-1]:
            likelihood = _log_likelihood(certainty, agrees, rates, num_classes)
            profile = np.maximum(profile, likelihood)
    best = int(profile.argmax())
    inside = np.flatnonzero(2 * (profile[best] - profile) <= _CHI_SQUARE_95)
    return NoiseRate(
        rate=float(rates[best]),
        low=float(rates[inside[0]]),
        high=float(rates[inside[-1]]),
        disagreement=float(1 - agrees.mean()),
    )


def as_probabilities(values: Any, name: str) -> FloatArray:
    """Check that every row is a distribution over classes, as far as float16 can say.

    Raises:
        ScoresError: Naming the first row that is none.
    """
    array = as_array(values, name)
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ScoresError(
            f"{name} are {array.dtype}{list(array.shape)}, expected float[n, k]: a row per sample, "
            "a column per class."
        )
    p = array.astype(np.float64)
    with np.errstate(invalid="ignore"):
        good = (p >= 0).all(axis=1) & (np.abs(p.sum(axis=1) - 1) < 1e-2)
    if not good.all():
        index = int(np.argmin(good))
        raise ScoresError(
            f"{name}[{index}] is no distribution: its least value is {p[index].min():.4g}, its sum "
            f"{p[index].sum():.4g}. Expected probabilities; of logits, their softmax."
        )
    return p


def _log_likelihood(
    certainty: FloatArray, agrees: npt.NDArray[np.bool_], rates: FloatArray, num_classes: int
) -> FloatArray:
    """Return float64[r], the log-likelihood of each rate, from a histogram over log-odds."""
    odds = np.log(np.maximum(certainty, 1e-9) / np.maximum(1 - certainty, 1e-9))
    scaled = (np.clip(odds, -_LOGIT, _LOGIT) + _LOGIT) / (2 * _LOGIT)
    bins = np.rint(scaled * (_BINS - 1)).astype(np.int64)
    centres = np.linspace(-_LOGIT, _LOGIT, _BINS)
    q = 1 / (1 + np.exp(-centres))
    agreement = np.outer(1 - rates, q) + np.outer(rates, 1 - q) / (num_classes - 1)
    yes = np.bincount(bins[agrees], minlength=_BINS)
    no = np.bincount(bins[~agrees], minlength=_BINS)
    total: FloatArray = np.log(agreement) @ yes + np.log1p(-agreement) @ no
    return total
