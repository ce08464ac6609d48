"""Words of texts, counted in the bytes of UTF-8: several times as fast as splitting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from batchwright.typing import IntArray, LengthArray

if TYPE_CHECKING:
    from batchwright.sources.table import Array

_OTHER_SPACES = (
    "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""Separators of words beyond ASCII, as in `str.isspace`."""


def count_words(texts: Array) -> IntArray:
    """Count the words of each text, int64[k], as `str.split` finds them.

    Args:
        texts: Of type string or large_string, valid, without nulls.

    Example:
        >>> import pyarrow as pa
        >>> count_words(pa.array(["to be or", " not ", ""]))
        array([3, 1, 0])
    """
    if not len(texts):
        return np.empty(0, dtype=np.int64)
    buffers: Any = texts.buffers()
    dtype: np.dtype[Any] = np.dtype(np.int32 if str(texts.type) == "string" else np.int64)
    offsets: LengthArray = np.frombuffer(buffers[1], dtype)[
        texts.offset : texts.offset + len(texts) + 1
    ]
    start, stop = int(offsets[0]), int(offsets[-1])
    if start == stop:
        return np.zeros(len(texts), dtype=np.int64)
    data, edges = np.frombuffer(buffers[2], np.uint8)[start:stop], offsets - start
    is_word = ~_spaces(data)
    begins = is_word.copy()
    np.greater(is_word[1:], is_word[:-1], out=begins[1:])  # bytes not preceded by one of a word
    first = edges[edges < data.size]  # first bytes of texts, at which words also begin
    begins[first] = is_word[first]
    counts: IntArray = np.diff(np.searchsorted(np.flatnonzero(begins), edges))
    return counts


def _spaces(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Say which bytes are of characters that separate words."""
    found = (data - np.uint8(0x09)) < 5  # from 0x09 to 0x0d, since smaller numbers wrap around
    found |= (data - np.uint8(0x1C)) < 5
    if int(data.max()) < 0x80:
        return found
    for lead, tails in _tails().items():
        at = np.flatnonzero(data == lead)
        size = len(tails[0])
        is_space = np.zeros(at.size, dtype=np.bool_)
        for tail in tails:
            same = data[at + 1] == tail[0]
            for place in range(1, size):
                same &= data[at + 1 + place] == tail[place]
            is_space |= same
        for place in range(size + 1):
            found[at[is_space] + place] = True
    return found


def _tails() -> dict[int, list[bytes]]:
    """Return the first byte of other spaces, with the bytes that may follow it."""
    tails: dict[int, list[bytes]] = {}
    for space in _OTHER_SPACES:
        encoded = space.encode()
        tails.setdefault(encoded[0], []).append(encoded[1:])
    return tails
