"""Turns the values of a column into lengths: numbers as they are, text and lists by a measure."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from batchwright._format import one_line
from batchwright.errors import LengthsError, SourceError, SourceNotFoundError
from batchwright.sources.table import (
    Kind,
    Place,
    Values,
    is_missing,
    kind_of,
    reading,
    type_of,
    without_missing,
)
from batchwright.sources.words import count_words

if TYPE_CHECKING:
    from batchwright.sources.table import Array

TEXT_MEASURES = ("characters", "words", "bytes", "tokens")
MILLISECONDS = "milliseconds"
MEASURES = (*TEXT_MEASURES, "items", MILLISECONDS)

_FITTING: dict[Kind | None, tuple[str | None, ...]] = {
    "numbers": (None, MILLISECONDS),
    "text": TEXT_MEASURES,
    "lists": (None, "items"),
    "binary": ("bytes",),
}
"""The measures of each kind of column; None if no measure is needed."""

MISSING = -(2**63)
"""The length of a row that is null or NaN, until `empty` says what to do with it."""

_LIMIT = 2**63
_CAST_ROWS = 1 << 12
_TOKENIZED_ROWS = 1 << 10
_WORDS_BYTES = 1 << 20  # counting is fastest for what fits into a processor's cache

Tokenizer: TypeAlias = "str | os.PathLike[str] | Callable[[list[str]], Any] | Any"
"""A tokenizer.json or a directory with one; a tokenizer of `tokenizers` or `transformers`; or a
function from a list of texts to the number of tokens of each."""

CountTokens: TypeAlias = Callable[[list[str]], np.ndarray]
"""From k texts to int64[k]."""


class Measure(NamedTuple):
    """How a column becomes lengths."""

    name: str | None = None  # None: numbers are lengths, and the items of lists are counted
    count_tokens: CountTokens | None = None
    key: str | None = None  # of the tokenizer's content; None for a function, which has none


def measure_of(name: str | None, tokenizer: Tokenizer | None) -> Measure:
    """Return the measure that was asked for. A tokenizer alone asks for `"tokens"`."""
    count, key = (None, None) if tokenizer is None else _tokenization(tokenizer)
    if name is None and count is not None:
        name = "tokens"
    if name is not None and name not in MEASURES:
        raise SourceError(f"measure={name!r} is none of {', '.join(map(repr, MEASURES))}.")
    if (name == "tokens") != (count is not None):
        raise SourceError(
            f"measure={name!r} with tokenizer={one_line(repr(tokenizer), 60)}: measure='tokens' "
            "needs a tokenizer, the path of a tokenizer.json or a function from a list of texts "
            "to a list of lengths, and no other measure takes one."
        )
    return Measure(name, count, key)


def measured(values: Values, measure: Measure, place: Place) -> Iterator[np.ndarray]:
    """Turn a batch of rows into lengths, integer[k], in one or several pieces.

    Rows that are null or NaN have the length `MISSING`.
    """
    missing = is_missing(values)
    if missing is None:
        yield from _measured(values, measure, place)
        return
    if kind_of(values) is None:  # all of them
        yield np.full(len(values), MISSING)
        return
    start = 0
    for piece in _measured(without_missing(values, missing), measure, place):
        stop = start + len(piece)
        yield np.where(missing[start:stop], MISSING, piece)
        start = stop


def _measured(values: Values, measure: Measure, place: Place) -> Iterator[np.ndarray]:
    kind = kind_of(values)
    fitting = _FITTING.get(kind)
    if fitting is None:
        raise SourceError(
            f"{place} is of type {type_of(values)}; expected integers, text or lists."
        )
    if measure.name not in fitting:
        expected = " or ".join(map(repr, fitting))
        instead = "" if measure.name is None else f", not {measure.name!r}"
        raise SourceError(f"{place} holds {kind}: pass measure={expected}{instead}.")
    if kind == "numbers":
        if not isinstance(values, np.ndarray):
            # A copy, so that neither a batch nor a mapped file is kept alive.
            values = np.array(values.to_numpy(zero_copy_only=False))
        if measure.name == MILLISECONDS:
            with np.errstate(over="ignore"):
                values = np.rint(values.astype(np.float64) * 1000)
        yield _whole_numbers(values, place)
    elif measure.count_tokens is not None:
        for start in range(0, len(values), _TOKENIZED_ROWS):
            texts: Any = values[start : start + _TOKENIZED_ROWS]
            yield measure.count_tokens(texts.to_pylist())
    else:
        # A batch may be a whole file: pieces of it stay in a cache.
        size = len(values)
        if measure.name == "words":
            size = max(1, size * _WORDS_BYTES // max(1, values.nbytes))
        for start in range(0, len(values), size):
            yield _counted(values[start : start + size], measure.name or "items")


def _counted(values: Any, name: str) -> np.ndarray:
    import pyarrow.compute as pc

    match name:
        case "items":
            counts = pc.list_value_length(values)
        case "characters":
            counts = pc.utf8_length(values)
        case "words":
            return count_words(values)
        case _:
            counts = pc.binary_length(values)
    return np.array(counts.to_numpy(zero_copy_only=False), dtype=np.int64)


def _whole_numbers(values: np.ndarray, place: Place) -> np.ndarray:
    """Return numbers as integers. Floats and uint64 become int64."""
    kind = values.dtype.kind
    if kind == "i" or (kind == "u" and values.dtype.itemsize < 8):
        return values
    if kind == "u":
        numbers, whole = values, values < np.uint64(_LIMIT)
    else:
        # Infinity also fails the comparison: it is not below the limit.
        with np.errstate(invalid="ignore", over="ignore"):
            numbers = values.astype(np.float64)
            whole = (np.abs(numbers) < _LIMIT) & (np.trunc(numbers) == numbers)
    if not whole.all():
        first = int(np.argmin(whole))
        raise LengthsError(
            f"{place.row(first)} is {values[first]}, which is not an integer of 64 bits. "
            "Round or filter the column; of seconds, pass measure='milliseconds'."
        )
    return numbers.astype(np.int64)


def numbers_of_text(values: Values, place: Place) -> Array:
    """Read numbers from text, for files without types."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text: Any = values
    texts = pc.utf8_trim_whitespace(text)
    is_empty: Any = pc.equal(pc.binary_length(texts), pa.scalar(0))
    texts = pc.if_else(is_empty, None, texts)  # CSV writes a missing number like this

    def cast(start: int, size: int, type_: pa.DataType) -> Any:
        with contextlib.suppress(pa.ArrowInvalid):
            return pc.cast(texts.slice(start, size), type_)
        return None

    # In pieces: Arrow continues after a text that is not a number, and is slow with each of them.
    starts = range(0, len(texts), _CAST_ROWS)
    for type_ in (pa.int64(), pa.float64()):
        pieces = []
        for start in starts:
            piece = cast(start, _CAST_ROWS, type_)
            if piece is None:
                break
            pieces.append(piece)
        else:
            return pa.concat_arrays(pieces)
    row = next(k for k in range(start, len(texts)) if cast(k, 1, pa.float64()) is None)
    raise SourceError(
        f"{place.row(row)} is {one_line(repr(texts[row].as_py()), 60)}, which is not a number. "
        "If the column is text, say what to count: measure='words' (--measure words), for instance."
    )


def _tokenization(tokenizer: Tokenizer) -> tuple[CountTokens, str | None]:
    """Return a function that counts tokens, and a key of the tokenizer's content."""
    inner = getattr(tokenizer, "backend_tokenizer", tokenizer)
    name = "the tokenizer"
    if isinstance(tokenizer, str | os.PathLike):
        path = Path(tokenizer)
        file = path / "tokenizer.json" if path.is_dir() else path
        name = str(file)
        if not file.is_file():
            raise SourceNotFoundError(
                f"There is no tokenizer at {file}. Pass the path of a tokenizer.json, which "
                "tokenizer.save_pretrained(directory) of transformers writes."
            )
        with reading(name, "a tokenizer"):
            content = file.read_bytes()
    elif hasattr(inner, "to_str") and hasattr(inner, "encode_batch"):
        content = inner.to_str().encode()  # a copy: the settings below are not the user's
    elif callable(tokenizer):
        return partial(_counts_of, tokenizer), None
    else:
        raise SourceError(
            f"tokenizer={one_line(repr(tokenizer), 80)} is not a tokenizer: pass the path of a "
            "tokenizer.json, or a function from a list of texts to a list of lengths."
        )
    with reading(name, "a tokenizer"):
        import tokenizers

        loaded = tokenizers.Tokenizer.from_buffer(content)
    loaded.no_truncation()
    loaded.no_padding()

    def count(texts: list[str]) -> np.ndarray:
        with reading(name, "a tokenizer"):
            encodings = loaded.encode_batch_fast(texts)
        return np.fromiter(map(len, encodings), dtype=np.int64, count=len(texts))

    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    return count, f"{tokenizers.__version__}-{digest}"


def _counts_of(function: Callable[[list[str]], object], texts: list[str]) -> np.ndarray:
    result = function(texts)
    try:
        counts = np.asarray(result)
    except ValueError:
        counts = np.empty(0)
    if counts.shape != (len(texts),) or counts.dtype.kind not in "iu" or counts.min() < 0:
        raise SourceError(
            f"The tokenizer function returned {one_line(repr(result), 80)} for {len(texts):,} "
            "texts; expected the number of tokens of each, as a list of as many integers. For "
            "a function that returns ids: lambda texts: [len(ids) for ids in tokenize(texts)]"
        )
    return counts.astype(np.int64)
