"""Difficulty by the loss of teachers that did not see the sample, and how many labels are wrong."""

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchwright._checks import whole_number
from batchwright._random import generator, shuffled
from batchwright.difficulty.noise import noise_rate
from batchwright.difficulty.scores import SMALLEST, as_labels
from batchwright.errors import LengthsError, MissingExtraError
from batchwright.order.scores import as_array
from batchwright.typing import FloatArray, IntArray, LengthArray

_RIDGES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
"""Penalties to try, from strong to weak. Noisy labels need strong ones."""

_CLIP = 5.0
"""Standard deviations at which a feature is cut off: rare pixels, outliers."""


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What teachers say of samples that they were not trained on.

    Attributes:
        loss: float64[n], cross-entropy of each label, in nats. High is hard, or wrong.
        predicted: integer[n], the class that the teacher finds likeliest, as the labels have it.
        probabilities: float64[n, k], of the classes.
        classes: integer[k], the values that the labels have, sorted.
        noise_rate: Estimated share of wrong labels; see `noise_rate`.
        noise_interval: Its 95 % interval.
        disagreement: Share of labels that are not `predicted`: noise and the teacher's errors.
    """

    loss: FloatArray
    predicted: LengthArray
    probabilities: FloatArray
    classes: LengthArray
    noise_rate: float
    noise_interval: tuple[float, float]
    disagreement: float


def out_of_fold(
    labels: npt.ArrayLike, features: npt.ArrayLike, *, folds: int = 5, seed: int = 0
) -> OutOfFold:
    """Score each sample by the loss of a teacher that was trained on the other folds.

    Samples are assigned to folds at random, the classes evenly. The teacher is scikit-learn's
    multinomial logistic regression on standardized features; its penalty is the one of six with
    the least loss out of fold. Of another teacher, pass the probabilities to `noise_rate`.

    Args:
        labels: integer[n], the class of each sample, as in `profile_labels`. The other way round,
            ``out_of_fold(features, labels)``, is understood too.
        features: float[n, ...], numbers of each sample.
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
        >>> result = out_of_fold(labels, features)
        >>> bool(result.loss[:40].min() > result.loss[40:].mean()), round(result.noise_rate, 1)
        (True, 0.1)
    """
    given, rows = as_array(labels, "labels"), as_array(features, "features")
    if given.ndim > 1 and rows.ndim == 1:
        given, rows = rows, given
    size = given.size
    classes, codes = np.unique(as_labels(given, size), return_inverse=True)
    codes = codes.astype(np.int64)
    if classes.size < 2:
        raise LengthsError(f"labels hold {classes.size} class, expected at least 2.")
    whole_number("out_of_fold", "folds", folds, least=2, most=size, error=LengthsError)
    if rows.ndim < 2 or len(rows) != size or not rows.size or rows.dtype.kind not in "buif":
        raise LengthsError(
            f"features are {rows.dtype}{list(rows.shape)}, expected float[{size}, ...]: numbers "
            "for each label. Of text, take embeddings."
        )
    rows = rows.reshape(size, -1)
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
