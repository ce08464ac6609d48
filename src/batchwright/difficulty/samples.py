"""Difficulty from the samples themselves: length, compression, rarity of words."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright.difficulty.arrays import as_array, check_types
from batchwright.errors import LengthsError
from batchwright.lengths import as_lengths
from batchwright.typing import Field, FloatArray, IntArray, IntoLengths

_DENSE = 1 << 22
"""Token ids up to here are counted in a table, however many there are."""

Counts: TypeAlias = Mapping[str, int] | npt.ArrayLike
"""How often each word, or each token id, occurs in the data."""


def length(lengths: IntoLengths) -> FloatArray:
    """Score each sample by its length: longer is harder.

    Length also shapes batches: under a token budget, long samples come in batches of few rows.
    Only a comparison shows which of the two had an effect.

    Args:
        lengths: integer[n], one length per sample: tokens, frames, patches.

    Raises:
        LengthsError: A length is not an integer of at least 1.

    Source:
        Platanios et al., "Competence-based curriculum learning", 2019, arXiv:1903.09848.

    Example:
        >>> length([7, 3, 12])
        array([ 7.,  3., 12.])
    """
    return as_lengths(lengths).astype(np.float64)


def compression(texts: Sequence[str] | Sequence[bytes]) -> FloatArray:
    """Score each text by its compressed size over its size: repetition is easy.

    ``len(zlib(x)) / len(x)``, in bytes of UTF-8. Texts of a few words score above 1, because
    zlib adds some bytes: compare texts of similar length, or combine with length. An empty text
    scores 0.

    Args:
        texts: n texts, or n byte strings.

    Raises:
        LengthsError: There are no texts, or one of them is neither text nor bytes.

    Source:
        Zhang et al., "Beyond random sampling", 2025, arXiv:2506.11300.

    Example:
        >>> easy, hard = compression(["la " * 60, "Sphinx of black quartz, judge my vow! " * 2])
        >>> bool(easy < 0.2 < hard)
        True
    """
    if isinstance(texts, str | bytes) or not len(texts):
        raise LengthsError("compression takes a list of texts, and at least one.")
    check_types(texts, str, bytes)

    def ratio(text: str | bytes) -> float:
        # "surrogatepass": a text that JSON escaped badly is still a text.
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        return len(zlib.compress(data)) / len(data) if data else 0.0

    return np.fromiter(map(ratio, texts), dtype=np.float64, count=len(texts))


def rarity(
    tokens: npt.ArrayLike | Sequence[npt.ArrayLike],
    offsets: npt.ArrayLike | None = None,
    *,
    mean: bool = False,
    counts: Counts | None = None,
) -> FloatArray:
    r"""Score each sample by how rare its tokens are in the data: ``−Σ ln p(w)``, in nats.

    The probability ``p(w)`` of a token is its share of all tokens of the data. The sum is mostly
    length; the mean is not. A sample without tokens scores 0.

    Args:
        tokens: integer[t], the token ids of all samples one after another, with `offsets`; or a
            list of n arrays of token ids; or a list of n texts, whose words are counted as
            `str.split` finds them.
        offsets: integer[n + 1], where samples begin and end in flat tokens.
        mean: Divide each sum by the number of tokens.
        counts: How often each token occurs, where these samples are a part of the data: integer[v]
            by token id, or word → count, as from `word_counts`. A token that is missing counts as
            1. None: counted here.

    Raises:
        LengthsError: Tokens are not integers of at least 0, or offsets do not fit them.

    Source:
        Platanios et al., "Competence-based curriculum learning", 2019, arXiv:1903.09848.

    Example:
        >>> rarity(["the cat", "the dog", "the the"], mean=True).round(2)
        array([1.1 , 1.1 , 0.41])
        >>> rarity([0, 1, 0, 2, 0, 0], [0, 2, 4, 6], mean=True).round(2)
        array([1.1 , 1.1 , 0.41])
    """
    texts = None if offsets is not None else _texts(tokens)
    if texts is None:
        flat, edges = _flat(tokens, offsets)
    else:
        flat, edges, counts = _words(texts, counts)
    sizes = np.diff(edges)
    if not flat.size:
        return np.zeros(sizes.size)
    if counts is None:
        if int(flat.max()) >= max(_DENSE, 4 * flat.size):
            flat = np.unique(flat, return_inverse=True)[1]
        occurring = np.bincount(flat.astype(np.int64, copy=False)).astype(np.float64)
    else:
        given = as_array(counts, "counts")
        if given.ndim != 1 or given.dtype.kind not in "iuf" or not (given >= 0).all():
            raise LengthsError(
                "rarity(counts=…): expected a count of at least 0 for each id, or each word."
            )
        # Tokens without a count share one more id.
        flat, occurring = np.minimum(flat, given.size), np.append(given.astype(np.float64), 0.0)
    surprise = np.log(occurring.sum()) - np.log(np.maximum(occurring, 1))
    samples = np.repeat(np.arange(sizes.size), sizes)
    sums: FloatArray = np.bincount(samples, surprise[flat], sizes.size)
    return sums / np.maximum(sizes, 1) if mean else sums


def word_counts(batches: Iterable[Sequence[str]]) -> Counter[str]:
    """Count how often each word occurs in batches of texts, as `rarity` takes `counts`.

    Example:
        >>> word_counts([["the cat", "the dog"], ["the the"]])
        Counter({'the': 4, 'cat': 1, 'dog': 1})
    """
    counts: Counter[str] = Counter()
    for texts in batches:
        counts.update(chain.from_iterable(map(str.split, texts)))
    return counts


def _texts(tokens: object) -> list[str] | None:
    """Return texts as a list; None of token ids."""
    if isinstance(tokens, str | bytes):
        raise LengthsError("rarity takes a list of texts, got one text.")
    if isinstance(tokens, np.ndarray) and tokens.dtype.kind in "UT":
        tokens = tokens.tolist()
    if not isinstance(tokens, Sequence) or not tokens or not isinstance(tokens[0], str):
        return None
    check_types(tokens, str)
    return list(tokens)


def _words(texts: list[str], counts: Counts | None) -> tuple[IntArray, IntArray, list[int]]:
    """Return ids of words, where samples begin, and the count of each id that has one."""
    words = list(map(str.split, texts))
    if counts is None:
        counts = Counter(chain.from_iterable(words))
    if not isinstance(counts, Mapping):
        raise LengthsError("rarity(counts=…) of texts: expected word → count, see word_counts.")
    ids = {word: k for k, word in enumerate(counts)}
    known = map(ids.get, chain.from_iterable(words), repeat(len(ids)))
    edges = _edges(words)
    return np.fromiter(known, np.int64, int(edges[-1])), edges, list(counts.values())


def _edges(samples: Sequence[Sequence[str]] | Sequence[np.ndarray]) -> IntArray:
    return np.cumsum([0, *map(len, samples)], dtype=np.int64)


def _flat(tokens: Field, offsets: npt.ArrayLike | None) -> tuple[np.ndarray, IntArray]:
    """Return token ids one after another, and where samples begin."""
    if offsets is None:
        if isinstance(tokens, np.ndarray) and tokens.dtype != object and tokens.ndim == 1:
            raise LengthsError("rarity of flat tokens needs offsets, [n + 1]: where samples begin.")
        samples = [as_array(sample, f"tokens[{k}]") for k, sample in enumerate(tokens)]
        if not samples or any(sample.ndim != 1 for sample in samples):
            raise LengthsError(
                "tokens: expected at least one sample, each a list of token ids, [l]."
            )
        filled = [sample for sample in samples if sample.size]  # an empty list has floats
        flat = np.concatenate(filled) if filled else np.empty(0, dtype=np.int64)
        edges = _edges(samples)
    else:
        flat, edges = as_array(tokens, "tokens"), as_array(offsets, "offsets")
    if flat.ndim != 1 or (flat.size and (flat.dtype.kind not in "iu" or flat.min() < 0)):
        raise LengthsError(
            f"tokens are {flat.dtype}{list(flat.shape)}, expected token ids: integers of at least "
            "0, one after another."
        )
    is_integer = edges.ndim == 1 and edges.size > 1 and edges.dtype.kind in "iu"
    if not is_integer or [edges[0], edges[-1]] != [0, flat.size] or (edges[1:] < edges[:-1]).any():
        raise LengthsError(
            f"offsets do not fit {flat.size} tokens: expected n + 1 integers that never fall, from "
            f"0 to {flat.size}."
        )
    return flat, edges.astype(np.int64)
