"""How many labels are wrong, and whether that can be estimated at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from batchwright._random import generator
from batchwright.advise.duplicates import Column, check_one_for_each
from batchwright.difficulty import OutOfFold, out_of_fold
from batchwright.errors import LengthsError, MissingExtraError
from batchwright.typing import FloatArray, IntArray

if TYPE_CHECKING:
    from scipy.sparse import spmatrix

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
    features: Column, codes: IntArray, num_classes: int, *, seed: int = 0
) -> NoiseEstimate:
    """Estimate what share of labels is wrong, from teachers that did not see them.

    A teacher is a linear model on the features, see `batchwright.difficulty.out_of_fold`. It
    disagrees with a label because of noise, or by its own error. Noise is independent of its
    confidence; its own errors are not. So where agreement keeps rising with confidence, the
    estimate is not trusted. Takes some seconds, however many samples there are.

    Raises:
        LengthsError: If there is not one row of features for each sample, or one is not finite.
        MissingExtraError: If scikit-learn is not installed.
    """
    try:
        import sklearn  # noqa: F401 -- whether it is installed
        from threadpoolctl import threadpool_limits  # scikit-learn brings it
    except ImportError as error:
        raise MissingExtraError(
            "Estimating label noise needs scikit-learn, which is not installed. Run: "
            "pip install 'batchwright[advise]'."
        ) from error
    check_one_for_each("features", features, codes.size)
    drawn = generator(seed, "label noise").permutation(codes.size)[:MOST_SAMPLES]
    part = np.sort(drawn)
    with threadpool_limits(1):  # on a busy CPU, more threads took up to 15 times as long
        dense = dense_features(features, part, seed=seed)
        fitting = max(FEWEST_SAMPLES, _MOST_NUMBERS // (dense.shape[1] * num_classes))
        kept = np.isin(part, drawn[:fitting])
        labels = codes[part[kept]]
        if np.ptp(labels) == 0:
            raise LengthsError("the random part of the labels has only one class: give more.")
        known = out_of_fold(dense[kept], labels, seed=seed)
    majority = float(np.bincount(labels).max() / labels.size)
    doubt = _doubt(known, labels, majority)
    return NoiseEstimate(
        known.noise_rate,
        *known.noise_interval,
        num_samples=labels.size,
        accuracy=1 - known.disagreement,
        majority=majority,
        is_trusted=not doubt,
        doubt=doubt,
    )


def _doubt(known: OutOfFold, labels: IntArray, majority: float) -> str:
    """Return why the estimate is not to be trusted; empty if it is."""
    agrees = known.predicted == labels
    accuracy = agrees.mean()
    chance = 2 * np.sqrt(majority * (1 - majority) / labels.size)
    gain = max(chance, _LEAST_GAIN * (1 - majority))
    if accuracy < _LEAST_ACCURACY or accuracy - majority < gain:
        return (
            f"a linear model predicts {accuracy:.0%} of the labels, and the largest class has "
            f"{majority:.0%}, so these features contain too little information"
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


def dense_features(features: Column, part: IntArray, *, seed: int = 0) -> FloatArray:
    """Return at most `MOST_FEATURES` numbers for each sample of a part.

    Texts become hashed counts of words and pairs of words, weighted by rarity; where there are no
    spaces, of characters (Weinberger et al., *Feature Hashing for Large Scale Multitask Learning*,
    2009, arXiv:0902.2206). Arrays are flattened. Labels are not used.
    """
    texts = _texts(features, part)
    if texts is not None:
        wide = _word_counts(texts)
    else:
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
        wide = flat - flat.mean(axis=0)
    from sklearn.decomposition import TruncatedSVD

    axes = TruncatedSVD(min(MOST_FEATURES, len(part) - 1), random_state=seed)
    with np.errstate(divide="ignore", invalid="ignore"):  # equal samples have no variance
        dense: FloatArray = axes.fit_transform(wide)
    return dense


def _texts(features: Column, part: IntArray) -> list[str] | None:
    """Return the texts of a part; None if features are not texts."""
    if hasattr(features, "to_pylist"):
        values = features.take(part).to_pylist()
    elif isinstance(features, Sequence):
        values = [features[index] for index in part.tolist()]
    else:
        values = np.asarray(features)[part].tolist()
    return values if all(isinstance(value, str) for value in values) else None


def _word_counts(texts: list[str]) -> spmatrix:
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    characters, spaces = sum(map(len, texts)), sum(each.count(" ") for each in texts)
    counts = HashingVectorizer(
        # In Chinese, Japanese or a genome, what stands between spaces is not a word.
        analyzer="word" if characters < _LONGEST_WORDS * max(spaces, len(texts)) else "char",
        token_pattern=_WORD,
        ngram_range=(1, 2),
        n_features=_BUCKETS,
        alternate_sign=False,
        norm=None,
    ).transform(texts)
    return TfidfTransformer(sublinear_tf=True).fit_transform(counts)
