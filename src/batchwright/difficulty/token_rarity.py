"""Difficulty by how rare the words are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, repeat
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright.difficulty.arrays import as_array, check_types
from batchwright.errors import ScoresError
from batchwright.typing import FloatArray, IntArray

_DENSE = 1 << 22
"""Token ids up to here are counted in a table, whatever their number."""

Counts: TypeAlias = Mapping[str, int] | npt.ArrayLike
"""How often each word, or each token id, occurs in the data."""


def rarity(
    tokens: npt.ArrayLike | Sequence[Any],
    offsets: npt.ArrayLike | None = None,
    *,
    mean: bool = False,
    counts: Counts | None = None,
    pattern: str | None = None,
) -> FloatArray:
    r"""Score each sample by how rare its tokens are in the data: ``−Σ ln p(w)``.

    The probability ``p(w)`` of a token is its share of all tokens of the data. The sum grows with
    length, and mostly is length; the mean is not. A sample without tokens scores 0.

    Args:
        tokens: integer[t], the token ids of all samples one after another, with `offsets`; or a
            list of n arrays of token ids; or a list of n texts, of which the words are taken.
        offsets: integer[n + 1], where samples begin and end in flat tokens.
        mean: Divide each sum by the number of tokens.
        counts: How often each token occurs, where these samples are a part of the data: integer[v]
            by token id, or word → count, as `word_counts` counts them. None: counted here. What
            is not in it counts as 1.
        pattern: Regular expression of a word, for texts. None: what white space separates.

    Returns:
        float64[n], in nats.

    Raises:
        ScoresError: Tokens are no whole numbers of at least 0, or offsets do not fit them.

    Complexity:
        O(t), or O(t log t) where ids are sparse and huge.

    Source:
        Platanios, Stretcu, Neubig, Poczos, Mitchell, "Competence-based curriculum learning for
        neural machine translation", 2019, arXiv:1903.09848.

    Example:
        >>> rarity(["the cat", "the dog", "the the"], mean=True).round(2)
        array([1.1 , 1.1 , 0.41])
        >>> rarity([0, 1, 0, 2, 0, 0], [0, 2, 4, 6], mean=True).round(2)
        array([1.1 , 1.1 , 0.41])
    """
    if offsets is None and _is_text(tokens):
        flat, edges, occurring = _words(tokens, counts, pattern)
    else:
        if pattern is not None:
            raise ScoresError("rarity(pattern=…) goes with texts, not with token ids.")
        flat, edges = _flat(tokens, offsets)
        flat, occurring = _occurrences(flat, counts)
    if not flat.size:
        return np.zeros(edges.size - 1)
    surprise = np.log(occurring.sum()) - np.log(np.maximum(occurring, 1))
    sizes = np.diff(edges)
    samples = np.repeat(np.arange(sizes.size), sizes)
    surprises = np.bincount(samples, surprise[flat], sizes.size)
    sums: FloatArray = np.asarray(surprises, dtype=np.float64)
    return sums / np.maximum(sizes, 1) if mean else sums


def word_counts(batches: Iterable[Sequence[str]], *, pattern: str | None = None) -> Counter[str]:
    """Count words over data that comes in batches: what `rarity` takes as `counts`.

    Args:
        batches: Batches of texts.
        pattern: Regular expression of a word; None: what white space separates.

    Returns:
        Word → how often it occurs.

    Raises:
        ScoresError: The pattern is no regular expression.

    Complexity:
        O(words), in memory for the distinct ones.

    Example:
        >>> word_counts([["the cat", "the dog"], ["the the"]])
        Counter({'the': 4, 'cat': 1, 'dog': 1})
    """
    split = _splitter(pattern)
    counts: Counter[str] = Counter()
    for texts in batches:
        counts.update(chain.from_iterable(map(split, texts)))
    return counts


def _is_text(tokens: Any) -> bool:
    if isinstance(tokens, str | bytes):
        raise ScoresError("rarity takes a list of texts, got one text.")
    if isinstance(tokens, np.ndarray):
        return tokens.dtype.kind in "UT"
    return len(tokens) > 0 and isinstance(tokens[0], str)


def _words(
    tokens: Any, counts: Counts | None, pattern: str | None
) -> tuple[IntArray, IntArray, FloatArray]:
    texts = tokens.tolist() if isinstance(tokens, np.ndarray) else tokens
    check_types(texts, str)
    words = list(map(_splitter(pattern), texts))
    edges = _edges(words)
    if counts is None:
        counts = Counter(chain.from_iterable(words))
    if not isinstance(counts, Mapping):
        raise ScoresError("rarity(counts=…) of texts: expected word → count, see word_counts.")
    # Words that are not counted get one id after the known ones, and count as 1.
    ids = {word: k for k, word in enumerate(counts)}
    unknown = len(ids)
    known = map(ids.get, chain.from_iterable(words), repeat(unknown))
    flat = np.fromiter(known, dtype=np.int64, count=int(edges[-1]))
    occurring = np.fromiter(chain(counts.values(), (0,)), dtype=np.float64, count=unknown + 1)
    return flat, edges, occurring


def _splitter(pattern: str | None) -> Callable[[str], list[str]]:
    if pattern is None:
        return str.split
    try:
        word = re.compile(pattern)
    except re.error as error:
        raise ScoresError(f"pattern={pattern!r} is no regular expression: {error}.") from error
    if word.groups > 1:
        raise ScoresError(f"pattern={pattern!r} has {word.groups} groups; use (?:…) for them.")
    return word.findall


def _edges(samples: Sequence[Any]) -> IntArray:
    edges = np.zeros(len(samples) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, samples), dtype=np.int64, count=len(samples)), out=edges[1:])
    return edges


def _flat(tokens: Any, offsets: npt.ArrayLike | None) -> tuple[npt.NDArray[Any], IntArray]:
    if offsets is None:
        if isinstance(tokens, np.ndarray) and tokens.dtype != object and tokens.ndim == 1:
            raise ScoresError("rarity of flat tokens needs offsets, [n + 1]: where samples begin.")
        samples = [as_array(sample, f"tokens[{k}]") for k, sample in enumerate(tokens)]
        if not samples or any(sample.ndim != 1 for sample in samples):
            raise ScoresError(
                "tokens: expected at least one sample, each a list of token ids, [l]."
            )
        filled = [sample for sample in samples if sample.size]
        flat = np.concatenate(filled) if filled else np.empty(0, dtype=np.int64)
        return _token_ids(flat), _edges(samples)
    flat, edges = _token_ids(as_array(tokens, "tokens")), as_array(offsets, "offsets")
    if (
        edges.ndim != 1
        or edges.size < 2
        or edges.dtype.kind not in "iu"
        or edges[0] != 0
        or edges[-1] != flat.size
        or (edges[1:] < edges[:-1]).any()
    ):
        raise ScoresError(
            f"offsets are no offsets into {flat.size} tokens: expected n + 1 integers that never "
            f"fall, from 0 to {flat.size}."
        )
    return flat, edges.astype(np.int64)


def _token_ids(flat: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if flat.ndim != 1 or (flat.size and flat.dtype.kind not in "iu"):
        raise ScoresError(
            f"tokens are {flat.dtype}{list(flat.shape)}, expected token ids, integers."
        )
    if flat.size and flat.min() < 0:
        raise ScoresError(f"tokens[{int(flat.argmin())}] is {flat.min()}, expected at least 0.")
    return flat


def _occurrences(
    flat: npt.NDArray[Any], counts: Counts | None
) -> tuple[npt.NDArray[Any], FloatArray]:
    """Return ids, and how often each of them occurs."""
    if not flat.size:
        return flat, np.zeros(1)
    largest = int(flat.max())
    if counts is None:
        if largest >= max(_DENSE, 4 * flat.size):
            _, ids, found = np.unique(flat, return_inverse=True, return_counts=True)
            return ids, found.astype(np.float64)
        return flat, np.bincount(flat.astype(np.int64, copy=False)).astype(np.float64)
    given = as_array(counts, "counts")
    if given.ndim != 1 or given.dtype.kind not in "iuf" or not (given >= 0).all():
        raise ScoresError(
            "rarity(counts=…) of token ids: expected a count for each id, integer[v]."
        )
    occurring = np.append(given.astype(np.float64), 0.0)
    ids = np.minimum(flat, given.size)
    return ids, occurring
