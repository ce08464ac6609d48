"""Difficulty from the samples themselves: length, compression, rarity of words."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright.difficulty.scores import check_types
from batchwright.errors import LengthsError
from batchwright.lengths import as_lengths
from batchwright.order.scores import as_array
from batchwright.typing import FloatArray, IntoLengths

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
    samples: Sequence[str] | Sequence[npt.ArrayLike],
    *,
    mean: bool = False,
    counts: Counts | None = None,
) -> FloatArray:
    r"""Score each sample by how rare its tokens are in the data: ``−Σ ln p(w)``, in nats.

    The probability ``p(w)`` of a token is its share of all tokens of the data. The sum is mostly
    length; the mean is not. A sample without tokens scores 0.

    Args:
        samples: n texts, whose words are counted as `str.split` finds them, or n arrays of token
            ids, integer[l].
        mean: Divide each sum by the number of tokens.
        counts: How often each token occurs, where these samples are a part of the data: word →
            count, as from `word_counts`, or integer[v] by token id. A token that is missing counts
            as 1. None: counted here.

    Raises:
        LengthsError: There are no samples, or tokens are not integers of at least 0.

    Source:
        Platanios et al., "Competence-based curriculum learning", 2019, arXiv:1903.09848.

    Example:
        >>> rarity(["the cat", "the dog", "the the"], mean=True).round(2)
        array([1.1 , 1.1 , 0.41])
        >>> rarity([[0, 1], [0, 2], [0, 0]], mean=True).round(2)
        array([1.1 , 1.1 , 0.41])
    """
    if isinstance(samples, str | bytes) or not len(samples):
        raise LengthsError("rarity takes a list of texts or of arrays of ids, and at least one.")
    tokens: Sequence[Sequence[str] | np.ndarray]
    if isinstance(samples[0], str):
        check_types(samples, str)
        tokens = words = [str(text).split() for text in samples]
        counts = Counter(chain.from_iterable(words)) if counts is None else counts
        if not isinstance(counts, Mapping):
            raise LengthsError("rarity(counts=…) of texts: expected word → count, see word_counts.")
        ids = {word: k for k, word in enumerate(counts)}
        known = map(ids.get, chain.from_iterable(words), repeat(len(ids)))
        flat = np.fromiter(known, np.int64)
        counts = list(counts.values())
    else:
        tokens = arrays = [as_array(each, f"samples[{k}]") for k, each in enumerate(samples)]
        filled = [each for each in arrays if each.size]  # an empty list has floats
        good = all(
            each.ndim == 1 and each.dtype.kind in "iu" and each.min() >= 0 for each in filled
        )
        if not good:
            raise LengthsError(
                "samples: expected a list of token ids, integers of at least 0, each."
            )
        flat = np.concatenate([np.zeros(0, np.int64), *filled]).astype(np.int64)
    sizes = np.fromiter(map(len, tokens), np.int64, len(tokens))
    if not flat.size:
        return np.zeros(sizes.size)
    if counts is None:
        if int(flat.max()) >= max(_DENSE, 4 * flat.size):
            flat = np.unique(flat, return_inverse=True)[1]
        counts = np.bincount(flat)
    occurring = as_array(counts, "counts")
    if occurring.ndim != 1 or occurring.dtype.kind not in "iuf" or not (occurring >= 0).all():
        raise LengthsError(
            "rarity(counts=…): expected a count of at least 0 for each id, or each word."
        )
    # Tokens without a count share one more id.
    flat, occurring = np.minimum(flat, occurring.size), np.append(occurring, 0.0)
    surprise = np.log(occurring.sum()) - np.log(np.maximum(occurring, 1))
    sums = np.bincount(np.repeat(np.arange(sizes.size), sizes), surprise[flat], sizes.size)
    return np.asarray(sums / np.maximum(sizes, 1) if mean else sums, np.float64)


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
