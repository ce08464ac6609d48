"""What makes a length of a value: integers as they are, text and lists by a measure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from batchwright._format import one_line
from batchwright.errors import LengthsError, SourceError
from batchwright.sources.kinds import Kind, kind_of
from batchwright.sources.table import Place, Values
from batchwright.sources.tokenization import Tokenization
from batchwright.sources.whole_numbers import whole_numbers
from batchwright.sources.words import count_words

TEXT_MEASURES = ("characters", "words", "bytes", "tokens")
MEASURES = (*TEXT_MEASURES, "items")

_FITTING: dict[Kind, tuple[str | None, ...]] = {
    "numbers": (None,),
    "text": TEXT_MEASURES,
    "lists": (None, "items"),
    "binary": ("bytes",),
}
"""The measures of each kind of column; None where no measure needs to be named."""

_TOKENIZED_ROWS = 1 << 10
_WORDS_BYTES = 1 << 20
"""About how much text is counted at a time: what fits a processor's cache is counted fastest."""


@dataclass(frozen=True, slots=True)
class Measure:
    """How a column becomes lengths.

    Attributes:
        name: One of `MEASURES`, or None: integers are lengths, and lists are counted.
        tokenization: What counts tokens, for `"tokens"`.
    """

    name: str | None = None
    tokenization: Tokenization | None = None

    @classmethod
    def named(cls, name: str | None, tokenization: Tokenization | None) -> Measure:
        """Return the measure that was asked for. A tokenizer alone asks for `"tokens"`.

        Raises:
            SourceError: There is no such measure, or it does not go with a tokenizer.
        """
        if name is None and tokenization is not None:
            name = "tokens"
        if name is not None and name not in MEASURES:
            raise SourceError(f"measure={name!r} is none of {', '.join(map(repr, MEASURES))}.")
        if name == "tokens" and tokenization is None:
            raise SourceError(
                "measure='tokens' needs a tokenizer: the path of a tokenizer.json, or a function "
                "from a list of texts to a list of lengths."
            )
        if name != "tokens" and tokenization is not None:
            raise SourceError(f"A tokenizer goes with measure='tokens', not with {name!r}.")
        return cls(name, tokenization)


def measured(values: Values, measure: Measure, place: Place) -> Iterator[np.ndarray]:
    """Turn a batch of rows into lengths, in one or several pieces.

    Args:
        values: Plain rows of a column (`kinds.plain`).
        measure: How they become lengths.
        place: Where they come from.

    Yields:
        integer[k]: the next k lengths.

    Raises:
        LengthsError: A row is null, or a number that is not whole.
        SourceError: The measure does not fit the column.
    """
    kind = kind_of(values)
    if isinstance(values, np.ndarray):
        _refuse_unmeasurable(values, kind, measure, place)
        yield whole_numbers(values, place)
        return
    if values.null_count:
        first = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise LengthsError(
            f"{place.row(first)} is null. Every sample needs a length: fill or filter it."
        )
    _refuse_unmeasurable(values, kind, measure, place)
    if kind == "numbers":
        # A copy, so that neither a batch nor a mapped file is kept alive.
        yield whole_numbers(np.array(values.to_numpy(zero_copy_only=False)), place)
        return
    size = _rows_at_a_time(values, measure)
    for start in range(0, len(values), size):
        piece = values.slice(start, size)
        if measure.tokenization:
            texts = cast("list[str]", piece.to_pylist())
            yield measure.tokenization.count(texts)
        else:
            yield _counted(piece, measure.name or "items")


def _rows_at_a_time(values: Any, measure: Measure) -> int:
    # A batch may be a whole file; and of what is measured in pieces, the bar shows progress.
    if measure.tokenization:
        return _TOKENIZED_ROWS
    if measure.name == "words":
        return int(max(1, len(values) * _WORDS_BYTES // max(1, values.nbytes)))
    return len(values)


def _refuse_unmeasurable(values: Values, kind: Kind | None, measure: Measure, place: Place) -> None:
    where, asked = f"{place.source}: {place.column!r}", measure.name
    fitting = _FITTING.get(kind or "other")
    if fitting is None:
        type_ = values.dtype if isinstance(values, np.ndarray) else values.type
        raise SourceError(
            f"{where} is of type {one_line(type_, 80)}; expected integers, text or lists."
        )
    if asked in fitting:
        return
    if kind == "numbers":
        raise SourceError(
            f"{where} holds numbers, which are lengths as they are. Leave out measure={asked!r}, "
            "or name a column of text or lists."
        )
    measures = " or ".join(repr(name) for name in fitting if name)
    if asked is None:
        raise SourceError(f"{where} holds {kind}: say how to measure it, measure={measures}.")
    raise SourceError(f"{where} holds {kind}: expected measure={measures}, got {asked!r}.")


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
