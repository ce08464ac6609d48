"""Numbers that are lengths: integers, and floats or texts that stand for integers."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from batchwright._format import one_line
from batchwright.errors import LengthsError, SourceError
from batchwright.sources.table import Place

if TYPE_CHECKING:
    import pyarrow as pa

_LIMIT = 2**63

_PIECE_ROWS = 1 << 12
"""Texts read at a time, and looked at one by one where some among them are no number."""


def whole_numbers(values: np.ndarray, place: Place) -> np.ndarray:
    """Return `values` as integers, of their own dtype where they are integers already.

    Args:
        values: number[k].
        place: Where they come from, for messages.

    Returns:
        integer[k]: floats become int64, and so does uint64,
            which does not mix with signed integers.

    Raises:
        LengthsError: A value is fractional, NaN, infinite, or beyond int64.
        SourceError: They are not numbers.
    """
    kind = values.dtype.kind
    if kind == "i" or (kind == "u" and values.dtype.itemsize < 8):
        return values
    if kind == "u":
        _refuse(values >= np.uint64(_LIMIT), values, place)
        return values.astype(np.int64)
    if kind == "f":
        wide = values.astype(np.float64)
        # NaN and infinity fail the comparison too: neither is below the limit.
        with np.errstate(invalid="ignore"):
            whole = (np.abs(wide) < _LIMIT) & (np.trunc(wide) == wide)
        _refuse(~whole, values, place)
        return wide.astype(np.int64)
    raise SourceError(
        f"{place.source}: {place.column!r} is of type {values.dtype}; expected integers."
    )


def numbers_of_text(values: Any, place: Place) -> pa.Array[Any]:
    """Read numbers from text, as a file without types holds them.

    Raises:
        LengthsError: A value is empty.
        SourceError: A value is no number.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pc.utf8_trim_whitespace(values)
    # Arrow goes on after a text that is no number, and is slow with each: so in pieces.
    pieces = [
        values.slice(start, _PIECE_ROWS) for start in range(0, max(1, len(values)), _PIECE_ROWS)
    ]
    for type_ in (pa.int64(), pa.float64()):
        with contextlib.suppress(pa.ArrowInvalid):
            return pa.concat_arrays([pc.cast(piece, type_) for piece in pieces])
    for number, piece in enumerate(pieces):
        try:
            pc.cast(piece, pa.float64())
        except pa.ArrowInvalid:
            row = place.first_row + number * _PIECE_ROWS
            _refuse_texts(piece.to_pylist(), place._replace(first_row=row))
    raise SourceError(f"{place.source}: {place.column!r} is not all numbers.")


def _refuse_texts(texts: list[str], place: Place) -> None:
    for row, text in enumerate(texts):
        if not text:
            raise LengthsError(f"{place.row(row)} is empty. Every sample needs a length.")
        if not _is_number(text):
            raise SourceError(
                f"{place.row(row)} is {one_line(repr(text), 60)}, which is no number. "
                "If the column is text, say how to measure it, for instance as 'characters'."
            )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # which Python allows, and files do not mean


def _refuse(bad: np.ndarray, values: np.ndarray, place: Place) -> None:
    if bad.any():
        first = int(np.argmax(bad))
        raise LengthsError(
            f"{place.row(first)} is {values[first]}, which is no whole number of 64 bits. "
            "Round or filter the column."
        )
