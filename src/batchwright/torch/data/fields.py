"""What the samples of a batch consist of, and how a field of them becomes one flat tensor."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from batchwright.errors import ColumnNotFoundError, LengthsError
from batchwright.typing import IntArray

Name: TypeAlias = str | int
"""A field of a sample: its key in a dict, its position in a tuple."""


def is_sequence(value: Any) -> bool:
    """Whether a value is a list, or an array or tensor of at least one dimension."""
    return isinstance(value, list) or getattr(value, "ndim", 0) > 0


def columns_of(samples: Sequence[Any]) -> dict[Any, list[Any]]:
    """Turn samples into columns.

    Args:
        samples: Dicts or tuples of fields, or one sequence each (then the only field, 0).

    Returns:
        Field → its value in each sample, in the sequence of the first sample's fields.

    Raises:
        LengthsError: If there is no sample, or samples are of different kinds.
        ColumnNotFoundError: If a sample lacks a field that the first one has.
    """
    if not samples:
        message = "there is no sample to collate, expected a batch of at least one."
        raise LengthsError(message)
    first = samples[0]
    if isinstance(first, Mapping):
        kind: type = Mapping
        names = list(first)
    else:
        kind = tuple if isinstance(first, tuple) else object
        names = list(range(len(first))) if isinstance(first, tuple) else [0]
    columns: dict[Any, list[Any]] = {name: [] for name in names}
    for row, sample in enumerate(samples):
        if not isinstance(sample, kind):
            message = (
                f"sample {row} of the batch is a {type(sample).__name__}, the first is a "
                f"{type(first).__name__}. Return samples of one kind from the data set."
            )
            raise LengthsError(message)
        fields = sample if isinstance(sample, Mapping | tuple) else (sample,)
        for name in names:
            try:
                columns[name].append(fields[name])
            except (KeyError, IndexError) as error:
                message = (
                    f"sample {row} of the batch has no field {name!r}, the first sample has. "
                    "Return the same fields for every sample."
                )
                raise ColumnNotFoundError(message) from error
    return columns


def flattened(rows: Sequence[Any], name: Name) -> tuple[Tensor, IntArray]:
    """Lay the rows of a field one behind the other.

    Integers become int64, what embeddings and losses take; other types stay as they are, and
    lists of floats become torch's default type.

    Args:
        rows: A list, array or tensor [length, …] of each sample.
        name: The field, for errors.

    Returns:
        A tensor [total, …], and int64[rows], the length of each row.

    Raises:
        LengthsError: If a row is no sequence, or rows differ in more than their length.
    """
    for row, value in enumerate(rows):
        if not is_sequence(value):
            message = (
                f"field {name!r} of sample {row} of the batch is a {type(value).__name__}, of "
                "other samples a sequence. Return the same kind for every sample."
            )
            raise LengthsError(message)
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    filled = [row for row in rows if len(row)]  # an empty list has no type of its own
    try:
        flat = _concatenated(filled or [np.empty(0, dtype=np.int64)])
    except (TypeError, ValueError, RuntimeError) as error:
        shapes = [list(np.shape(row)) for row in filled if not isinstance(row, list)]
        message = (
            f"field {name!r} cannot be laid out as one tensor ({error}; shapes {shapes}). Rows may "
            "differ in their first dimension only, and hold numbers."
        )
        raise LengthsError(message) from error
    return as_indices(flat), lengths


def as_indices(values: Tensor) -> Tensor:
    """Turn integers of any width into int64; return other types as they are."""
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        return values
    return values.to(torch.int64)


def _concatenated(rows: Sequence[Any]) -> Tensor:
    if any(isinstance(row, Tensor) for row in rows):
        return torch.cat([torch.as_tensor(row) for row in rows])
    array = np.concatenate(rows)
    if array.dtype.kind in "iu":
        array = array.astype(np.int64, copy=False)
    elif array.dtype.kind not in "fbc":
        message = f"values of type {array.dtype}"
        raise TypeError(message)
    flat = torch.from_numpy(array)
    if all(isinstance(row, list) for row in rows) and flat.is_floating_point():
        flat = flat.to(torch.get_default_dtype())
    return flat
