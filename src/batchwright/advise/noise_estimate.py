"""How many labels are wrong, and whether that can be estimated at all."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from batchwright._random import generator
from batchwright.advise.duplicates import check_one_for_each
from batchwright.difficulty import OutOfFold, out_of_fold
from batchwright.errors import LengthsError, MissingExtraError
from batchwright.typing import FloatArray, IntArray

MOST_SAMPLES = 4_000
"""Samples of the random part at most; fewer where there are many classes."""

FEWEST_SAMPLES = 200
"""Samples that an estimate needs."""

MOST_FEATURES = 128
"""Features of a sample at most; wider ones are projected on their main axes."""

_MOST_NUMBERS = 12_000_000  # samples × features × classes: fitted in a few seconds
_WIDEST = 4_096  # numbers of a sample that are read; of a larger one, every second or third
_LONGEST_WORDS = 20  # from this mean length of words on, characters are counted instead
_WORD = r"(?u)\w+"
_BUCKETS = 2**14  # columns that words, or characters, are hashed to

_LEAST_ACCURACY = 0.5
_LEAST_GAIN = 0.35
"""A teacher has to agree with this share of the labels, and to remove this share of the errors of
always predicting the largest class."""

_PLATEAU = 0.08
"""By how much a teacher may agree with labels more often in its most confident third of the samples
than in the second."""


@dataclass(frozen=True)
class NoiseEstimate:
    """The share of labels that are wrong.

    Where teachers are not good enough for it to be trusted, it contains their own errors: it is
    rather too high, and `low` means nothing.
    """

    rate: float  # the estimate
    low: float  # lower end of its 95 % interval
    high: float  # the upper one
    num_samples: int  # how many samples it is from
    accuracy: float  # how often teachers agreed with labels that they had not seen
    majority: float  # the share of the largest class
    is_trusted: bool
    doubt: str  # why it is not trusted; empty if it is


def estimate_noise(
    features: Any, codes: IntArray, num_classes: int, *, seed: int = 0
) -> NoiseEstimate:
    """Estimate what share of labels is wrong, from teachers that did not see them.

    A teacher is a linear model on the features, see `batchwright.difficulty.out_of_fold`. It
    disagrees with a label because of noise, or by its own error. Noise is independent of its
    confidence; its own errors are not. So where agreement keeps rising with confidence, the
    estimate is not trusted. Takes some seconds, however many samples there are.

    Args:
        features: Numbers of each sample, float[n, ...], or n texts.
        codes: int64[n], the classes, from 0 to k - 1; `FEWEST_SAMPLES` or more.
        num_classes: k.
        seed: Of the random part, and of the folds.

    Raises:
        LengthsError: If there is not one row of features for each sample, or one is not finite.
        MissingExtraError: If scikit-learn is not installed.
    """
    check_one_for_each("features", len(features), codes.size)
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
            raise LengthsError("the random part of the labels has only one class: give more.")
        known = out_of_fold(dense, labels, seed=seed)
    agrees = known.predicted == labels
    majority = float(counts.max() / labels.size)
    doubt = _doubt(known, agrees, majority)
    return NoiseEstimate(
        known.noise_rate,
        *known.noise_interval,
        num_samples=labels.size,
        accuracy=float(agrees.mean()),
        majority=majority,
        is_trusted=not doubt,
        doubt=doubt,
    )


def _doubt(known: OutOfFold, agrees: npt.NDArray[np.bool_], majority: float) -> str:
    """Return why the estimate is not to be trusted; empty if it is."""
    accuracy = float(agrees.mean())
    chance = 2 * np.sqrt(majority * (1 - majority) / agrees.size)
    if accuracy <= majority + chance:
        return (
            f"a linear model predicts {accuracy:.0%} of the labels, no better than always naming "
            f"the largest class ({majority:.0%}), so these features contain too little information"
        )
    if accuracy < _LEAST_ACCURACY or accuracy - majority < _LEAST_GAIN * (1 - majority):
        return (
            f"a linear model predicts only {accuracy:.0%} of the labels (the largest class has "
            f"{majority:.0%}), so these features contain too little information"
        )
    surest = np.argsort(-known.probabilities.max(axis=1), kind="stable")
    first, second, _ = np.array_split(agrees[surest], 3)
    if first.mean() - second.mean() > _PLATEAU:
        return (
            f"a linear model predicts {first.mean():.0%} of the labels in its most confident third "
            f"of the samples and {second.mean():.0%} in the second, so the estimate contains its "
            "own errors"
        )
    return ""


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep linear algebra on one thread: on a busy CPU, more took up to 15 times as long."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    with threadpool_limits(1):
        yield


def dense_features(features: Any, part: IntArray, *, seed: int = 0) -> FloatArray:
    """Return at most `MOST_FEATURES` numbers for each sample of a part.

    Texts become hashed counts of words and pairs of words, weighted by rarity; where there are no
    spaces, of characters (Weinberger et al., *Feature Hashing for Large Scale Multitask Learning*,
    2009, arXiv:0902.2206). Arrays are flattened. Labels are not used.

    Example:
        >>> dense_features(np.arange(24).reshape(3, 2, 4), np.array([0, 2])).shape
        (2, 8)
    """
    texts = _texts(features, part)
    if texts is not None:
        return _of_texts(texts, seed)
    try:
        array = np.asarray(features)
    except (TypeError, ValueError, RuntimeError) as error:
        raise LengthsError(
            "features cannot be read as an array: expected numbers of the same shape for each "
            "sample, or texts."
        ) from error
    if array.dtype.kind not in "buif":
        raise LengthsError(f"features are of type {array.dtype}: expected numbers or texts.")
    flat = array[part].reshape(len(part), -1)
    flat = flat[:, :: -(-flat.shape[1] // _WIDEST)].astype(np.float64)
    finite = np.isfinite(flat).all(axis=1)
    if not finite.all():
        index = int(part[int(np.argmin(finite))])
        raise LengthsError(f"features[{index}] has values that are NaN or infinite: fill them.")
    if flat.shape[1] <= MOST_FEATURES:
        return flat
    width = min(MOST_FEATURES, len(flat))
    return _projected(_sklearn().decomposition.PCA, flat, width, seed, svd_solver="randomized")


def _texts(features: Any, part: IntArray) -> list[str] | None:
    """Return the texts of a part; None if features are not texts."""
    if hasattr(features, "to_pylist"):
        values = features.take(part).to_pylist()
    elif isinstance(features, Sequence):
        values = [features[index] for index in part.tolist()]
    elif isinstance(features, np.ndarray) and features.dtype.kind in "OU":
        values = features[part].tolist()
    else:
        return None
    return values if all(isinstance(value, str) for value in values) else None


def _of_texts(texts: list[str], seed: int) -> FloatArray:
    library = _sklearn()
    characters, spaces = sum(map(len, texts)), sum(each.count(" ") for each in texts)
    # In Chinese, Japanese or a genome, what stands between spaces is not a word.
    kind = "word" if characters < _LONGEST_WORDS * max(spaces, len(texts)) else "char"
    counts = library.feature_extraction.text.HashingVectorizer(
        analyzer=kind,
        token_pattern=_WORD,
        ngram_range=(1, 2),
        n_features=_BUCKETS,
        alternate_sign=False,
        norm=None,
    ).transform(texts)
    if not counts.nnz:
        return np.zeros((len(texts), 1))
    weighted = library.feature_extraction.text.TfidfTransformer(sublinear_tf=True).fit_transform(
        counts
    )
    width = min(MOST_FEATURES, len(texts) - 1)
    return _projected(library.decomposition.TruncatedSVD, weighted, width, seed, n_iter=3)


def _projected(method: Any, values: Any, width: int, seed: int, **options: Any) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):  # equal samples have no variance
        axes: FloatArray = method(width, random_state=seed, **options).fit_transform(values)
    return axes


def _sklearn() -> Any:
    try:
        import sklearn.decomposition
        import sklearn.feature_extraction.text
    except ImportError as error:
        raise MissingExtraError(
            "Estimating label noise from texts or wide features needs scikit-learn, which is not "
            "installed. Run: pip install 'batchwright[advise]'."
        ) from error
    return sklearn
