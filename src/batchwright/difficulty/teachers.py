"""Difficulty by the loss of teachers that did not see the sample, and how many labels are wrong."""

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchwright._checks import whole_number
from batchwright._random import generator, shuffled
from batchwright.difficulty.scores import (
    SMALLEST,
    as_array,
    as_labels,
    as_probabilities,
    check_classes,
)
from batchwright.errors import LengthsError, MissingExtraError
from batchwright.typing import FloatArray, IntArray, LengthArray

_RIDGES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
"""Penalties to try, from strong to weak. Noisy labels need strong ones."""

_CLIP = 5.0
"""Standard deviations at which a feature is cut off: rare pixels, outliers."""

_EXPONENTS = np.geomspace(0.25, 128, 55)
_RATES = np.linspace(0, 1, 401)
_LOGIT = 12.0
_BINS = 400
_ANCHOR_SHARE = 0.1
_ANCHOR_CERTAINTY = 0.99
_CHI_SQUARE_95 = 3.841  # the 95 % quantile with one degree of freedom


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What teachers say of samples that they were not trained on.

    Attributes:
        loss: float64[n], cross-entropy of each label, in nats. High is hard, or wrong.
        predicted: integer[n], the class that the teacher finds likeliest, as the labels have it.
        probabilities: float64[n, k], of the classes.
        classes: integer[k], the values that the labels have, sorted.
        noise_rate: Estimated share of wrong labels; see `noise_rate`.
        noise_interval: Its 95 % interval, which covers chance, not a model that does not fit.
        disagreement: Share of labels that are not `predicted`: noise and the teacher's errors.
    """

    loss: FloatArray
    predicted: LengthArray
    probabilities: FloatArray
    classes: LengthArray
    noise_rate: float
    noise_interval: tuple[float, float]
    disagreement: float


@dataclass(frozen=True)
class NoiseRate:
    """What share of labels is wrong.

    Attributes:
        rate: The estimate.
        low: Lower end of the 95 % interval, which covers chance, not a model that does not fit.
        high: Its upper end.
        disagreement: Share of labels that are not the teacher's first choice: noise and its errors.
    """

    rate: float
    low: float
    high: float
    disagreement: float


def out_of_fold(
    features: npt.ArrayLike, labels: npt.ArrayLike, *, folds: int = 5, seed: int = 0
) -> OutOfFold:
    """Score each sample by the loss of a teacher that was trained on the other folds.

    Samples are assigned to folds at random, the classes evenly. The teacher is scikit-learn's
    multinomial logistic regression on standardized features; its penalty is the one of six with
    the least loss out of fold. Of another teacher, pass the probabilities to `noise_rate`.

    Args:
        features: float[n, d].
        labels: integer[n].
        folds: How many parts; the teacher is trained on all but one of them.
        seed: Determines which samples share a fold.

    Raises:
        LengthsError: Features are not finite or not [n, d], or there is one class only.
        MissingExtraError: scikit-learn is not installed.

    Source:
        Northcutt, Jiang, Chuang, "Confident learning", 2019, arXiv:1911.00068, for predictions out
        of fold; the rate is estimated differently.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truth = np.repeat([0, 1], 200)
        >>> features = rng.normal(size=(400, 2)) + 4 * truth[:, None]
        >>> labels = truth.copy()
        >>> labels[:40] = 1  # a tenth is wrong
        >>> result = out_of_fold(features, labels)
        >>> bool(result.loss[:40].min() > result.loss[40:].mean()), round(result.noise_rate, 1)
        (True, 0.1)
    """
    size = as_array(labels, "labels").size
    classes, codes = np.unique(as_labels(labels, size), return_inverse=True)
    codes = codes.astype(np.int64)
    if classes.size < 2:
        raise LengthsError(f"labels hold {classes.size} class, expected at least 2.")
    whole_number("out_of_fold", "folds", folds, least=2, most=size, error=LengthsError)
    rows = as_array(features, "features")
    if rows.ndim != 2 or len(rows) != size or not rows.size or rows.dtype.kind not in "buif":
        raise LengthsError(
            f"features are {rows.dtype}{list(rows.shape)}, expected float[{size}, d]: a row per "
            "label. Flatten images; of text, take embeddings."
        )
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        index = int(np.argmin(finite))
        raise LengthsError(f"features[{index}] has values that are NaN or infinite: fill them.")
    rows = rows.astype(np.float64, copy=False)
    # Samples of one class are assigned in turn.
    order = shuffled(np.arange(size), generator(seed, "out of fold"))
    order = order[np.argsort(codes[order], kind="stable")]
    fold = np.empty(size, dtype=np.int64)
    fold[order] = np.arange(size) % folds
    probabilities, loss = np.empty((size, classes.size)), np.full(size, np.inf)
    for ridge in _RIDGES:
        tried = np.empty_like(probabilities)
        for k in range(folds):
            known, asked = fold != k, fold == k
            tried[asked] = _predicted(rows[known], codes[known], rows[asked], ridge, classes.size)
        own = -np.log(np.clip(tried[np.arange(size), codes], SMALLEST, 1.0))
        if own.mean() >= loss.mean():
            break  # weaker penalties only fit noise
        probabilities, loss = tried, own
    estimate = noise_rate(probabilities, codes)
    return OutOfFold(
        loss=loss,
        predicted=classes[probabilities.argmax(axis=1)],
        probabilities=probabilities,
        classes=classes,
        noise_rate=estimate.rate,
        noise_interval=(estimate.low, estimate.high),
        disagreement=estimate.disagreement,
    )


def noise_rate(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> NoiseRate:
    """Estimate what share of labels is wrong, from 0 to 1 − 1/k.

    A teacher's errors become fewer as its confidence rises, wrong labels do not: where the teacher
    is sure, the remaining disagreement is label noise. The chance that a label agrees with the
    teacher's first choice is modelled as ``(1 − ρ)·q + ρ·(1 − q)/(k − 1)``, where ρ is the noise
    rate and ``q ∝ p^β`` the chance that the teacher is right: its probabilities to a power, because
    a teacher of noisy labels is less sure than it should be. Both ρ and β are fitted by maximum
    likelihood, with β such that a tenth of the samples are recognized with 99 % certainty.

    The estimate assumes that labels can be predicted from the data, and that noise neither prefers
    hard samples nor one wrong class: such noise may be missed, or come out a tenth too high.

    Args:
        probabilities: float[n, k], of teachers that were not trained on the sample.
        labels: integer[n], classes from 0 to k - 1.

    Raises:
        LengthsError: The probabilities are not distributions, or labels do not fit.

    Source:
        Anchor points and the noise channel: Liu and Tao, 2014, arXiv:1411.7718; Patrini et al.,
        2016, arXiv:1609.03683. Temperature scaling: Guo et al., 2017, arXiv:1706.04599.

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
    num_classes = p.shape[1]
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


def _log_likelihood(
    certainty: FloatArray, agrees: np.ndarray, rates: FloatArray, num_classes: int
) -> FloatArray:
    """Return float64[r], the log-likelihood of each rate, from a histogram over log-odds."""
    odds = np.log(np.maximum(certainty, 1e-9) / np.maximum(1 - certainty, 1e-9))
    scaled = (np.clip(odds, -_LOGIT, _LOGIT) + _LOGIT) / (2 * _LOGIT)
    bins = np.rint(scaled * (_BINS - 1)).astype(np.int64)
    q = 1 / (1 + np.exp(-np.linspace(-_LOGIT, _LOGIT, _BINS)))
    agreement = np.outer(1 - rates, q) + np.outer(rates, 1 - q) / (num_classes - 1)
    yes = np.bincount(bins[agrees], minlength=_BINS)
    no = np.bincount(bins[~agrees], minlength=_BINS)
    total: FloatArray = np.log(agreement) @ yes + np.log1p(-agreement) @ no
    return total


def _predicted(
    features: FloatArray, codes: IntArray, test: FloatArray, ridge: float, num_classes: int
) -> FloatArray:
    """Return the probabilities of test samples under logistic regression on the others.

    It minimizes the mean cross-entropy plus ``ridge / 2 · ‖slopes‖²``.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingExtraError(
            "out_of_fold needs scikit-learn, which is not installed. Run: "
            "pip install 'batchwright[advise]'"
        ) from error
    mean, scale = features.mean(axis=0), features.std(axis=0)
    # Rounding leaves some 1e-16 of the mean where a feature is constant.
    scale[scale <= 1e-12 * np.abs(mean)] = np.inf
    train, test = (np.clip((x - mean) / scale, -_CLIP, _CLIP) for x in (features, test))
    # A class that no training sample has is about as likely as one that one of them has.
    result = np.full((len(test), num_classes), 1 / (codes.size + num_classes))
    seen = np.unique(codes)
    rest = 1 - result[:, seen.size :].sum(axis=1, keepdims=True)
    if seen.size == 1:
        result[:, seen] = rest
        return result
    # Of two classes it fits one slope, the difference of ours, at a different penalty.
    strength = (2 if seen.size == 2 else 1) / (ridge * codes.size)
    model = LogisticRegression(C=strength, tol=1e-3, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result[:, seen] = rest * model.fit(train, codes).predict_proba(test)
    return result
