"""How many words texts have, as `str.split()` has them, without a Python loop."""

from __future__ import annotations

from typing import Any

import numpy as np

_SPACES = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680"
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""The characters that `str.split()` splits at."""

_WIDTHS = (1, 2, 3)

_CODES = {
    width: np.array(
        sorted(int.from_bytes(s.encode(), "big") for s in _SPACES if len(s.encode()) == width)
    )
    for width in _WIDTHS
}
"""Their UTF-8, read as one number each, by the number of bytes."""

_BEGINS_SPACE = {
    width: np.isin(np.arange(256), codes >> 8 * (width - 1)) for width, codes in _CODES.items()
}
"""bool[256]: whether such a space may begin with this byte."""


def count_words(texts: Any) -> np.ndarray:
    """Return how many words each text has: what `len(text.split())` is.

    Args:
        texts: A `pyarrow` array of k strings, none of them null, in valid UTF-8.

    Returns:
        int64[k].

    Complexity:
        O(bytes): a few passes over the bytes of all texts at once, in several times their memory.
    """
    import pyarrow as pa

    dtype = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    _, offset_buffer, byte_buffer = texts.buffers()
    start = texts.offset * np.dtype(dtype).itemsize
    offsets = np.frombuffer(offset_buffer, dtype, count=len(texts) + 1, offset=start)
    edges = offsets.astype(np.int64) - offsets[0]
    if edges[-1] == 0:
        return np.zeros(len(texts), dtype=np.int64)
    data = np.frombuffer(byte_buffer, np.uint8)[int(offsets[0]) : int(offsets[-1])]

    space = _spaces(data)
    # A word begins where a byte is no space and the one before it is one, or another text's.
    begins = ~space
    begins[1:] &= space[:-1]
    heads = edges[:-1][edges[:-1] < edges[1:]]
    begins[heads] = ~space[heads]
    counts: np.ndarray = np.diff(np.searchsorted(np.flatnonzero(begins), edges))
    return counts.astype(np.int64, copy=False)


def _spaces(data: np.ndarray) -> np.ndarray:
    """Return bool[n]: whether each byte of UTF-8 belongs to a space."""
    space: np.ndarray = _BEGINS_SPACE[1][data]
    if data.max() < 128:
        return space
    for width in _WIDTHS[1:]:
        starts = np.flatnonzero(_BEGINS_SPACE[width][data])
        codes = np.zeros(len(starts), dtype=np.int64)
        for k in range(width):
            codes = codes << 8 | data[starts + k]
        starts = starts[np.isin(codes, _CODES[width])]
        for k in range(width):
            space[starts + k] = True
    return space
