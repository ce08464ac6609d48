"""Samples of a batch, read as NumPy arrays."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright.batching.cut import ranges
from batchwright.errors import ColumnNotFoundError, LengthsError, PlanError
from batchwright.planner import Planner
from batchwright.plans import Plan
from batchwright.typing import Field, IntArray

Name: TypeAlias = str | int
"""A field of a sample: its key in a dict, its position in a tuple."""

Array: TypeAlias = npt.NDArray[Any]

_NO_NUMBERS = "OUSMm"
"""Kinds of types: objects (also whole numbers above 2**64), strings and dates."""


class Flat(NamedTuple):
    """Samples one after the other in one array, such as a memory map.

    Attributes:
        tokens: [total, …].
        offsets: integer[n + 1]. Sample i is ``tokens[offsets[i]:offsets[i + 1]]``.
    """

    tokens: Array
    offsets: npt.NDArray[np.integer[Any]]


class Rows(NamedTuple):
    """The rows of a field, one after the other."""

    values: Array  # [total, …]
    lengths: IntArray  # int64[b]


def check_size(samples: Field, planner: Planner | Plan) -> None:
    """Raise `PlanError` unless there is one sample for each length, as far as that is known."""
    planned = planner.num_samples if isinstance(planner, Planner) else planner.origin.num_samples
    columns = samples if isinstance(samples, Mapping) else {"": samples}
    for name, column in columns.items():
        of = f" in field {name!r}" if isinstance(samples, Mapping) else ""
        if isinstance(column, Flat):
            column = _offsets(column)[1:]  # noqa: PLW2901 (one for each sample)
        elif not hasattr(column, "__getitem__") and not hasattr(column, "__getitems__"):
            raise PlanError(
                f"the samples{of} are a {type(column).__name__}, which nobody can ask for those of "
                "a batch. Give a sequence, such as a list."
            )
        try:
            size = len(column)
        except Exception:  # noqa: BLE001, S112 (a data set may say in any way that it does not know)
            continue
        if planned not in {None, size}:
            raise PlanError(
                f"there are {planned} lengths, and {size} samples{of}. Plan with one length for "
                "each sample, after every filter."
            )


def _offsets(flat: Flat) -> npt.NDArray[np.integer[Any]]:
    offsets = flat.offsets
    if not isinstance(offsets, np.ndarray) or offsets.ndim != 1 or offsets.dtype.kind not in "iu":
        raise LengthsError(
            f"Flat has offsets of type {type(offsets).__name__}, expected an array of integers, "
            "one more than there are samples: np.append(0, np.cumsum(lengths))."
        )
    return offsets


def fields_of(samples: Field, indices: IntArray) -> tuple[dict[Name, Field], bool]:
    """Return what the samples of a batch have of each field, and whether fields have names."""
    if isinstance(samples, Mapping):
        return {name: _taken(column, indices) for name, column in samples.items()}, True
    taken = _taken(samples, indices)
    if hasattr(taken, "fields") and hasattr(taken, "columns"):  # of FlatTokens, not yet read
        rows = {
            name: Rows(np.asarray(each.tokens[ranges(each.starts, each.lengths)]), each.lengths)
            for name, each in taken.fields.items()
        }
        return {**rows, **taken.columns}, True
    if isinstance(taken, np.ndarray | Rows):
        return {0: taken}, False
    taken = list(taken)
    first = taken[0]
    if isinstance(first, Mapping):
        _check_alike([each.keys() for each in taken], indices)
        return {name: [each[name] for each in taken] for name in first}, True
    if isinstance(first, tuple):
        _check_alike([len(each) for each in taken], indices)
        return {number: [each[number] for each in taken] for number in range(len(first))}, False
    return {0: taken}, False


def _check_alike(fields: list[Any], indices: IntArray) -> None:
    """Raise `ColumnNotFoundError` unless all samples have the fields of the first."""
    for number, each in zip(indices, fields, strict=True):
        if each != fields[0]:
            one, other = (each if isinstance(each, int) else [*each] for each in (fields[0], each))
            raise ColumnNotFoundError(
                f"sample {indices[0]} has the fields {one}, and sample {number} {other}. Give all "
                "the same."
                if isinstance(other, list)
                else f"sample {indices[0]} is a tuple of {one} fields, and sample {number} of "
                f"{other}. Give all as many; or, if a tuple is a row of tokens, make it a list."
            )


def _taken(column: Field, indices: IntArray) -> Field:
    """Return the rows of a field: as `Rows`, an array, or a list."""
    if isinstance(column, Flat):
        begins = column.offsets[indices].astype(np.int64)
        lengths = column.offsets[indices + 1].astype(np.int64) - begins
        return Rows(np.asarray(column.tokens[ranges(begins, lengths)]), lengths)
    if isinstance(column, np.ndarray) and column.dtype != object:
        return column[indices]
    many = getattr(column, "__getitems__", None)
    numbers = indices.tolist()
    return many(numbers) if many is not None else [column[number] for number in numbers]


def rows_of(field: Field, name: Name, starts: IntArray | None, most: int | None) -> Rows:
    """Return the rows of a field one after the other, cut as the plan says."""
    if isinstance(field, np.ndarray):
        lengths = np.full(len(field), field.shape[1], dtype=np.int64)
        rows = Rows(field.reshape(-1, *field.shape[2:]), lengths)
    elif isinstance(field, Rows):
        rows = field
    else:
        try:
            each = [np.asarray(row) for row in field]
            lengths = np.array([len(row) for row in each], dtype=np.int64)
            filled = [row for row in each if len(row)] or each[:1]  # [] has no type of its own
            rows = Rows(_numbers(np.concatenate(filled)), lengths)
        except (TypeError, ValueError) as error:
            raise LengthsError(
                f"field {name!r} cannot be laid out as one array ({error}). Rows may differ in "
                "their first dimension only. Name the fields that are padded: columns={field: 0}."
            ) from error
    if starts is None and (most is None or not (rows.lengths > most).any()):
        return rows
    ends = np.cumsum(rows.lengths)
    begins = ends - rows.lengths + (0 if starts is None else starts)
    lengths = np.minimum(ends - begins, np.iinfo(np.int64).max if most is None else most)
    if (lengths < 0).any():
        raise PlanError(f"field {name!r} ends before a piece begins. Plan with its lengths.")
    return Rows(rows.values[ranges(begins, lengths)], lengths)


def _numbers(values: Array) -> Array:
    if values.dtype.kind in _NO_NUMBERS:
        raise TypeError(f"of type {values.dtype}")
    return values


def stacked(field: Field, name: Name) -> Array:
    """Return what samples have of a field as one array, [b, …]."""
    try:
        made = np.asarray(field)
    except ValueError:
        made = np.empty(0, dtype=object)
    if made.dtype.kind in _NO_NUMBERS:
        raise LengthsError(
            f"field {name!r} holds no numbers of one shape in each sample. Leave it out, or if it "
            "is padded name its column: columns={field: column, …}."
        )
    return made


def is_sequence(field: Field) -> bool:
    """Check whether a field has one entry a token."""
    if isinstance(field, Rows):
        return True
    if isinstance(field, np.ndarray):
        return field.ndim > 1
    return isinstance(field[0], list) or getattr(field[0], "ndim", 0) > 0
