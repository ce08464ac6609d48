"""Samples of any kind as a few numbers each, for a linear teacher."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from batchwright.errors import MissingExtraError, ScoresError
from batchwright.typing import FloatArray, IntArray

MOST_FEATURES = 128
"""Numbers of a sample, at most: wider ones are projected on their main axes."""

_WIDEST = 4_096
"""Numbers of a sample that are read, at most: of more, as of large images, every so-many-th."""

_LONGEST_WORDS = 20
"""Characters of a word on average from which on characters are counted in place of words."""

_WORD = r"(?u)\w+"

_BUCKETS = 2**14
"""Columns that words, or characters, are hashed to."""


def dense_features(features: Any, part: IntArray, *, seed: int = 0) -> FloatArray:
    """Make a few numbers of each sample of a part.

    Texts become counts of words and of pairs of them, hashed and weighed by rarity; where there
    are no spaces, of characters. Arrays are flattened. What is wider than `MOST_FEATURES` is
    projected on as many main axes, without a look at labels.

    Args:
        features: n texts (a list, or a column of `pyarrow`), or an array [n, ...].
        part: int64[m], the samples to take.
        seed: Of the projection.

    Returns:
        float64[m, d].

    Raises:
        ScoresError: If features are neither numbers nor texts.
        MissingExtraError: If they are texts or wide, and scikit-learn is not installed.

    Source:
        Weinberger et al., *Feature Hashing for Large Scale Multitask Learning*, 2009,
        arXiv:0902.2206; Deerwester et al., *Indexing by Latent Semantic Analysis*, 1990.

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
        raise ScoresError(
            "features cannot be read as an array: expected numbers of the same shape for each "
            "sample, or texts."
        ) from error
    if array.dtype.kind not in "buif":
        raise ScoresError(f"features are of type {array.dtype}: expected numbers or texts.")
    flat = array[part].reshape(len(part), -1)
    flat = flat[:, :: -(-flat.shape[1] // _WIDEST)].astype(np.float64)
    if not np.isfinite(flat).all():
        index = int(part[int(np.argmin(np.isfinite(flat).all(axis=1)))])
        raise ScoresError(f"features[{index}] has values that are NaN or infinite: fill them.")
    return flat if flat.shape[1] <= MOST_FEATURES else _main_axes(flat, seed)


def _texts(features: Any, part: IntArray) -> list[str] | None:
    """Take the texts of a part; None if they are none."""
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
    text = _library("texts").feature_extraction.text
    characters, spaces = sum(map(len, texts)), sum(each.count(" ") for each in texts)
    # Chinese or Japanese, or a genome: what stands between spaces is no word there.
    kind = "word" if characters < _LONGEST_WORDS * max(spaces, len(texts)) else "char"
    counts = text.HashingVectorizer(
        analyzer=kind,
        token_pattern=_WORD,
        ngram_range=(1, 2),
        n_features=_BUCKETS,
        alternate_sign=False,
        norm=None,
    ).transform(texts)
    if not counts.nnz:
        return np.zeros((len(texts), 1))
    weighed = text.TfidfTransformer(sublinear_tf=True).fit_transform(counts)
    width = min(MOST_FEATURES, len(texts) - 1)
    decomposition = _library("texts").decomposition.TruncatedSVD(width, n_iter=3, random_state=seed)
    with np.errstate(divide="ignore", invalid="ignore"):  # all alike: shares of no variance
        axes: FloatArray = decomposition.fit_transform(weighed)
    return axes


def _main_axes(flat: FloatArray, seed: int) -> FloatArray:
    decomposition = _library("wide features").decomposition.PCA(
        min(MOST_FEATURES, len(flat)),
        svd_solver="randomized",
        random_state=seed,
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        axes: FloatArray = decomposition.fit_transform(flat)
    return axes


def _library(what: str) -> Any:
    try:
        import sklearn.decomposition
        import sklearn.feature_extraction.text
    except ImportError as error:
        raise MissingExtraError(
            f"Label noise is estimated from {what} with scikit-learn, which is not installed. "
            "Run: pip install 'batchwright[advise]'."
        ) from error
    return sklearn
