"""Difficulty by how little a text can be compressed."""

import zlib
from collections.abc import Sequence
from functools import partial

import numpy as np

from batchwright.difficulty.arrays import check_types
from batchwright.errors import ScoresError
from batchwright.typing import FloatArray


def compression(texts: Sequence[str] | Sequence[bytes], *, level: int = 6) -> FloatArray:
    """Score each text by its compressed size over its size: what repeats itself is easy.

    ``len(zlib(x)) / len(x)``, in bytes of UTF-8. Texts of a few words score above 1, because
    zlib adds some bytes of its own: compare texts of like length, or combine it with length. An
    empty text scores 0.

    Args:
        texts: n texts, or n byte strings.
        level: Of zlib, from 1 (fast) to 9.

    Returns:
        float64[n].

    Raises:
        ScoresError: There are no texts, one of them is neither text nor bytes, or no such level.

    Complexity:
        O(bytes), some tens of megabytes a second.

    Source:
        Zhang, Mohamed, Abdine, Shang, Vazirgiannis, "Beyond random sampling: efficient language
        model pretraining via curriculum learning", 2025, arXiv:2506.11300.

    Example:
        >>> easy, hard = compression(["la " * 60, "Sphinx of black quartz, judge my vow! " * 2])
        >>> bool(easy < 0.2 < hard)
        True
    """
    if level not in range(1, 10):
        raise ScoresError(f"compression(level={level!r}): expected a level from 1 to 9.")
    if isinstance(texts, str | bytes) or not len(texts):
        raise ScoresError("compression takes a list of texts, and at least one.")
    check_types(texts, str, bytes)
    ratios = map(partial(_ratio, level=level), texts)
    return np.fromiter(ratios, dtype=np.float64, count=len(texts))


def _ratio(text: str | bytes, level: int) -> float:
    # "surrogatepass": a text that JSON escaped badly is still a text.
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return len(zlib.compress(data, level)) / len(data) if data else 0.0
