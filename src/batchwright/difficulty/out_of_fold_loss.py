"""Difficulty by the loss of a teacher that never saw the sample."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright.difficulty.arrays import as_array, as_labels
from batchwright.difficulty.label_noise import SMALLEST, as_probabilities, noise_rate
from batchwright.difficulty.softmax_regression import RIDGES, Coordinates, Weights, fit
from batchwright.errors import ScoresError
from batchwright.seeding import generator, shuffled
from batchwright.typing import FloatArray, IntArray

Teacher: TypeAlias = Callable[[Any, IntArray, Any], npt.ArrayLike]
"""From training features, their labels (int64, from 0 to k - 1) and test features to
probabilities, float[m, k], of the test samples."""


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What teachers say of samples that they were not trained on.

    Attributes:
        loss: float64[n], cross-entropy of each label, in nats. High is hard, or wrong.
        predicted: integer[n], the class that the teacher finds likeliest, in the labels' own
            values.
        probabilities: float64[n, k], of the classes.
        classes: integer[k], the values that the labels have, sorted.
        noise_rate: Estimated share of wrong labels; see `label_noise.noise_rate`.
        noise_interval: Its 95 % interval: chance alone, not a model that does not fit.
        disagreement: Share of labels that are not `predicted`: noise and the teacher's own errors.
    """

    loss: FloatArray
    predicted: npt.NDArray[np.integer[Any]]
    probabilities: FloatArray
    classes: npt.NDArray[np.integer[Any]]
    noise_rate: float
    noise_interval: tuple[float, float]
    disagreement: float


def out_of_fold(
    features: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    folds: int = 5,
    seed: int = 0,
    teacher: Teacher | None = None,
) -> OutOfFold:
    """Score each sample by the loss of a teacher that was trained on the other folds.

    Samples are dealt to folds at random, the classes evenly. The same arguments give the same
    scores.

    The built-in teacher is a multinomial logistic regression on standardised features. How
    strongly it is penalised is chosen once, from six values, by the loss out of fold.

    Args:
        features: float[n, d]. With a teacher of your own, anything with n rows that an array of
            indices can select.
        labels: integer[n], noise and all.
        folds: How many parts; the teacher is trained on all but one of them.
        seed: Which samples share a fold.
        teacher: ``(train features, train labels, test features) → probabilities float[m, k]``,
            where labels are classes from 0 to k - 1. None: the built-in one.

    Returns:
        Losses, predictions and the share of labels that are wrong.

    Raises:
        ScoresError: Features are not finite or not [n, d], there is one class only, or the
            teacher's answer is no distribution.

    Complexity:
        The built-in teacher: O(folds · n · d · (min(n, d) + k · steps)): some tenths of a second
        for 1,200 × 64 features and 10 classes, some seconds for 5,000 × 784.

    Source:
        Northcutt, Jiang, Chuang, "Confident learning: estimating uncertainty in dataset labels",
        2019, arXiv:1911.00068, for predictions out of fold; the rate is estimated otherwise.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truth = np.repeat([0, 1], 200)
        >>> features = rng.normal(size=(400, 2)) + 4 * truth[:, None]
        >>> labels = truth.copy()
        >>> labels[:40] = 1  # a tenth is wrong
        >>> result = out_of_fold(features, labels)
        >>> bool(result.loss[:40].min() > result.loss[40:].mean())
        True
        >>> round(result.noise_rate, 1)
        0.1
    """
    size = as_array(labels, "labels").size
    given = as_labels(labels, size)
    classes, codes = np.unique(given, return_inverse=True)
    codes = codes.astype(np.int64)
    if classes.size < 2:
        raise ScoresError(
            f"labels hold {classes.size} class, expected at least 2: nothing to tell."
        )
    if not isinstance(folds, int) or not 2 <= folds <= size:
        raise ScoresError(f"out_of_fold(folds={folds!r}): expected 2 to {size}, the samples.")
    fold = _folds(codes, folds, seed)
    if teacher is None:
        probabilities = _built_in(_features(features, size), codes, classes.size, fold)
    else:
        probabilities = _of_teacher(teacher, features, codes, classes.size, fold)
    estimate = noise_rate(probabilities, codes)
    return OutOfFold(
        loss=_loss(probabilities, codes),
        predicted=classes[probabilities.argmax(axis=1)],
        probabilities=probabilities,
        classes=classes,
        noise_rate=estimate.rate,
        noise_interval=(estimate.low, estimate.high),
        disagreement=estimate.disagreement,
    )


def _features(features: npt.ArrayLike, size: int) -> FloatArray:
    array = as_array(features, "features")
    if array.ndim != 2 or not array.size or array.dtype.kind not in "buif":
        raise ScoresError(
            f"features are {array.dtype}{list(array.shape)}, expected float[n, d]: a row per "
            "sample. Flatten images; of text, take embeddings."
        )
    _check_rows(array, size)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        index = int(np.argmin(finite))
        raise ScoresError(f"features[{index}] has values that are NaN or infinite: fill them.")
    return array.astype(np.float64, copy=False)


def _folds(codes: IntArray, folds: int, seed: int) -> IntArray:
    """Deal samples to folds at random, those of one class in turn. int64[n]."""
    order = shuffled(np.arange(codes.size), generator(seed, "out of fold"))
    order = order[np.argsort(codes[order], kind="stable")]
    fold = np.empty(codes.size, dtype=np.int64)
    fold[order] = np.arange(codes.size) % folds
    return fold


def _built_in(
    features: FloatArray, codes: IntArray, num_classes: int, fold: IntArray
) -> FloatArray:
    held_out = [fold == k for k in range(fold.max() + 1)]
    coordinates = [Coordinates.of(features[~out]) for out in held_out]
    weights: list[Weights | None] = [None] * len(held_out)
    best, least = np.empty((0, 0)), np.inf
    for ridge in RIDGES:
        probabilities = np.empty((codes.size, num_classes))
        for k, (out, into) in enumerate(zip(held_out, coordinates, strict=True)):
            fitted = fit(
                into(features[~out]),
                codes[~out],
                num_classes,
                into.variances,
                ridge=ridge,
                start=weights[k],
            )
            probabilities[out] = fitted.probabilities(into(features[out]))
            weights[k] = fitted
        loss = float(_loss(probabilities, codes).mean())
        if loss >= least:
            break  # weaker ones only fit noise
        best, least = probabilities, loss
    return best


def _of_teacher(
    teacher: Teacher, features: Any, codes: IntArray, num_classes: int, fold: IntArray
) -> FloatArray:
    rows = features if hasattr(features, "__getitem__") and hasattr(features, "shape") else None
    rows = as_array(features, "features") if rows is None else rows
    _check_rows(rows, codes.size)
    probabilities = np.empty((codes.size, num_classes))
    for k in range(fold.max() + 1):
        inside, outside = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        answer = as_probabilities(
            teacher(rows[inside], codes[inside], rows[outside]), "the teacher's probabilities"
        )
        if answer.shape != (outside.size, num_classes):
            raise ScoresError(
                f"the teacher returned probabilities of shape {list(answer.shape)}, expected "
                f"{[outside.size, num_classes]}: a row per test sample, a column per class."
            )
        probabilities[outside] = answer
    return probabilities


def _check_rows(features: Any, size: int) -> None:
    if len(features) != size:
        raise ScoresError(f"features have {len(features)} rows for {size} labels.")


def _loss(probabilities: FloatArray, codes: IntArray) -> FloatArray:
    of_label = probabilities[np.arange(codes.size), codes]
    loss: FloatArray = -np.log(np.clip(of_label, SMALLEST, 1.0))
    return loss
