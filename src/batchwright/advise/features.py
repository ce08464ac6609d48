"""Features from which a teacher learns: numbers or texts of samples, and their similarity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from batchwright.advise.duplicates import Column, first_of_each
from batchwright.difficulty.kernels import landmarks
from batchwright.errors import LengthsError
from batchwright.typing import FloatArray, IntArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    Rows: TypeAlias = FloatArray | csr_matrix

MOST_FEATURES = 128
"""Features of a sample at most; more are projected on their principal axes."""

_TEXT_LANDMARKS = 1_500  # texts are less similar than images, so more of them are needed
_WIDEST = 4_096  # numbers of a sample that are read; in a larger one, every second or third
_CLIP = 5.0  # standard deviations at which a feature is cut off: rare pixels, outliers
_LONGEST_WORDS = 20  # from this mean length of words on, characters are counted instead
_WORD = r"(?u)\w+"
_BUCKETS = 2**16  # columns that words, or characters, are hashed to
_REACHES = (0.1, 0.3, 1.0)  # of kernels, in medians of the squared distance


def feature_rows(features: Column, part: IntArray, *, seed: int = 0) -> tuple[Rows, IntArray]:
    """Return at most `MOST_FEATURES` numbers for each sample of a part; for texts, sparse ones.

    Also returns the places of the samples in the part. Of equal texts, and of equal rows that are
    wide, only the first is used: a copy with the same wrong label would confirm it.

    Texts become hashed counts of words and pairs of words, weighted by rarity; if there are no
    spaces, of characters (Weinberger et al., *Feature Hashing for Large Scale Multitask Learning*,
    2009, arXiv:0902.2206). Arrays are flattened. Labels are not used.

    Raises:
        LengthsError: If features are not numbers of one shape, or texts; or not finite.
    """
    texts = _texts(features, part)
    if texts is not None:
        kept = first_of_each(texts)
        return _word_counts([texts[place] for place in kept.tolist()]), kept
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
    mean, scale = flat.mean(axis=0), flat.std(axis=0)
    if flat.shape[1] <= MOST_FEATURES:
        # Rounding leaves some 1e-16 of the mean if a feature is constant.
        scale[scale <= 1e-12 * np.abs(mean)] = np.inf
        rows: FloatArray = np.clip((flat - mean) / scale, -_CLIP, _CLIP)
        return rows, np.arange(len(part))
    kept = first_of_each(flat)
    flat = flat[kept] - flat[kept].mean(axis=0)
    from sklearn.decomposition import TruncatedSVD

    axes = TruncatedSVD(min(MOST_FEATURES, max(1, len(kept) - 1)), random_state=seed)
    with np.errstate(divide="ignore", invalid="ignore"):  # equal samples have no variance
        rows = axes.fit_transform(flat)
    return rows, kept


def similarities(rows: Rows, *, seed: int = 0) -> Iterator[tuple[FloatArray, IntArray]]:
    """Yield kernels: the similarity of all samples to some, and the indices of these.

    For texts, the weighted share of words that two have in common (their cosine). For numbers, the
    product, and functions of the distance that reach near, middling and far samples.
    """
    size = rows.shape[0]
    if not isinstance(rows, np.ndarray):
        chosen = landmarks(size, number=_TEXT_LANDMARKS, seed=seed)
        yield (rows @ rows[chosen].T).toarray(), chosen
        return
    chosen = landmarks(size, seed=seed)
    products = rows @ rows[chosen].T
    squares = (rows**2).sum(axis=1)
    yield products / max(float(squares.mean()), 1e-12), chosen
    distances = np.maximum(squares[:, None] + squares[chosen] - 2 * products, 0.0)
    middle = float(np.median(distances))
    if middle > 0:
        for reach in _REACHES:
            yield np.exp(-distances / (reach * middle)), chosen


def _texts(features: Column, part: IntArray) -> list[str] | None:
    """Return the texts of a part; None if features are not texts."""
    if hasattr(features, "to_pylist"):
        values = features.take(part).to_pylist()
    elif isinstance(features, Sequence):
        values = [features[index] for index in part.tolist()]
    else:
        values = np.asarray(features)[part].tolist()
    return values if all(isinstance(value, str) for value in values) else None


def _word_counts(texts: list[str]) -> csr_matrix:
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    characters, spaces = sum(map(len, texts)), sum(each.count(" ") for each in texts)
    counts = HashingVectorizer(
        # In Chinese, Japanese or a genome, text between spaces is not a word.
        analyzer="word" if characters < _LONGEST_WORDS * max(spaces, len(texts)) else "char",
        token_pattern=_WORD,
        ngram_range=(1, 2),
        n_features=_BUCKETS,
        alternate_sign=False,
        norm=None,
    ).transform(texts)
    return TfidfTransformer(sublinear_tf=True).fit_transform(counts)
