"""What samples consist of: fields as columns, flat and stacked tensors, padding, and pieces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from batchwright.errors import BudgetError, ColumnNotFoundError, LengthsError, PlanError
from batchwright.layout import Shape
from batchwright.torch.data.flat_rows import FlatBatch, FlatRows
from batchwright.torch.data.trees import Parts
from batchwright.typing import Batch, Field, IntArray, Sample

Name: TypeAlias = str | int
"""A field of a sample: its key in a dict, its position in a tuple."""

Columns: TypeAlias = dict[Name, Sequence[Field]]
"""The samples of a batch by field: the values of each."""

PadValue: TypeAlias = float | bool
Pads: TypeAlias = PadValue | Mapping[Name, PadValue] | Sequence[PadValue]
"""Padding: one value for all fields, or values by name or position."""

LABEL_NAMES = ("labels", "label", "label_ids")
"""Fields that hold labels, as trainers name them. The first that a batch has is counted."""

LABEL_IGNORE = -100
"""The label that torch's `cross_entropy` leaves out of the loss."""

MEANT: dict[Name, PadValue] = {**dict.fromkeys(LABEL_NAMES, LABEL_IGNORE), "attention_mask": 0}
"""Fields whose padding has a meaning: no token's value would do."""


def has_length(value: Field) -> bool:
    """Check whether a value is a list, or an array or tensor of at least one dimension."""
    return isinstance(value, list) or getattr(value, "ndim", 0) > 0


def columns_of(samples: Sequence[Sample]) -> Columns:
    """Turn samples (dicts, tuples, or single sequences) into columns."""
    if not samples:
        raise LengthsError("there is no sample to collate, expected a batch of at least one.")
    if isinstance(samples, FlatBatch):
        return {**samples.fields, **{name: [*row] for name, row in samples.columns.items()}}
    first = samples[0]
    kind = next((kind for kind in (Mapping, tuple) if isinstance(first, kind)), object)
    columns: dict[Name, list[Field]] = {name: [] for name in _fields_of(first)}
    for row, sample in enumerate(samples):
        if not isinstance(sample, kind):
            raise LengthsError(
                f"sample {row} of the batch is a {type(sample).__name__}, the first is a "
                f"{type(first).__name__}: expected samples of one kind."
            )
        fields = _fields_of(sample) if kind is not object else {0: sample}
        for name, column in columns.items():
            if name not in fields:
                raise ColumnNotFoundError(
                    f"sample {row} of the batch has no field {name!r}, the first sample has. "
                    "Return the same fields for every sample."
                )
            column.append(fields[name])
    return {**columns}


def _fields_of(sample: Sample) -> Parts:
    if isinstance(sample, Mapping):
        return dict(sample)
    return dict(enumerate(sample if isinstance(sample, tuple) else (sample,)))


def flattened(rows: Sequence[Field], name: Name) -> tuple[Tensor, IntArray]:
    """Concatenate the rows of a field: a tensor [total, …], and int64[rows], their lengths."""
    if isinstance(rows, FlatRows):
        return rows.flat(), rows.lengths
    for row, value in enumerate(rows):
        if not has_length(value):
            raise LengthsError(
                f"field {name!r} of sample {row} of the batch is a {type(value).__name__}, of "
                "other samples a sequence."
            )
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    filled = [row for row in rows if len(row)]
    filled = filled or [row for row in rows if not isinstance(row, list)]  # lists have no type
    try:
        if any(isinstance(row, Tensor) for row in filled):
            flat = _tensor(torch.cat([torch.as_tensor(row) for row in filled]))
        else:
            array = np.concatenate(filled or [np.empty(0, dtype=np.int64)])
            flat = _tensor(array, of_python=all(isinstance(row, list) for row in filled))
    except (TypeError, ValueError, RuntimeError) as error:
        shapes = [list(np.shape(row)) for row in filled if not isinstance(row, list)]
        raise LengthsError(
            f"field {name!r} cannot be laid out as one tensor ({error}; shapes {shapes}). Rows may "
            "differ in their first dimension only, and hold numbers."
        ) from error
    return flat, lengths


def cut_rows(rows: Sequence[Field], limit: int) -> Sequence[Field]:
    """Cut longer rows of a field to a limit."""
    if isinstance(rows, FlatRows):
        return rows.cut(limit)
    return [row[:limit] if has_length(row) else row for row in rows]


def _tensor(values: Field, *, of_python: bool = False) -> Tensor:
    """Return a tensor: of integers as int64, of Python's floats as torch's default type."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "iufbc":
            raise TypeError(f"values of type {values.dtype}")
        values = torch.from_numpy(values.astype(np.int64) if values.dtype.kind == "u" else values)
    made: Tensor = values
    if made.is_floating_point() and of_python:
        return made.to(torch.get_default_dtype())
    return made.to(torch.int64) if is_whole(made.dtype) and made.dtype != torch.bool else made


def is_whole(dtype: torch.dtype) -> bool:
    """Check whether a type is of integers or booleans."""
    return not (dtype.is_floating_point or dtype.is_complex)


def stacked(rows: Sequence[Field], name: Name) -> Field:
    """Stack numbers, and arrays and tensors of one shape; leave anything else a list.

    Several shapes are an error: what a batch holds must not depend on which samples meet in it.
    """
    if not all(isinstance(row, int | float | np.generic | np.ndarray | Tensor) for row in rows):
        return list(rows)
    shapes = {tuple(np.shape(row)) for row in rows}
    if len(shapes) > 1:
        raise LengthsError(
            f"field {name!r} is of the shapes {sorted(map(list, shapes))} and cannot be stacked. "
            "For one entry a sample return it inside a dict or a list, which stay as they are."
        )
    if all(isinstance(row, Tensor) for row in rows):
        return _tensor(torch.stack(list(rows)))
    array = np.asarray(rows)
    if array.dtype.kind not in "biuf":
        return list(rows)
    return _tensor(array, of_python=all(type(row) in {int, float} for row in rows))


def limit_of(limits: int | tuple[int, ...] | None, column: int | None) -> int | None:
    """Return the limit of a column: the only one, or its own of several."""
    if isinstance(limits, tuple):
        return None if column is None else limits[column]
    return limits


def checked_shapes(
    shapes: Sequence[Shape], owner: str, length: str, *, columns: int | None = None
) -> tuple[Shape, ...]:
    """Return shapes as a tuple; raise unless they are (rows, length), of so many columns."""
    try:
        pairs = tuple((rows, sides) for rows, sides in shapes)
        good = all(np.ndim(rows) == 0 and np.min(sides) >= 1 for rows, sides in pairs)
        good = good and all(columns in {None, np.size(sides)} for _, sides in pairs)
    except (TypeError, ValueError):
        pairs, good = (), False
    if not pairs or not good:
        raise BudgetError(
            f"{owner}(shapes={shapes!r}): expected one or more (rows, {length}), as in "
            "plan.layout.shapes."
        )
    return pairs


def fitting(
    shapes: Sequence[Shape], number: int, longest: IntArray, given: str
) -> tuple[int, list[int]]:
    """Return the first shape for so many samples of up to some lengths, one for each column."""
    for rows, sides in shapes:
        lengths = np.atleast_1d(sides)
        if rows >= number and (lengths >= longest).all():
            return rows, lengths.tolist()
    raise BudgetError(
        f"{given} fit into none of the shapes {list(shapes)}. Take those of the plan: "
        "plan.layout.shapes."
    )


def checked_pads(given: Pads, owner: str) -> Field:
    """Return padding as a number, or a dict of numbers by name or position."""
    if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str | bytes):
        given = dict(enumerate(given))
    for name, value in given.items() if isinstance(given, Mapping) else [(None, given)]:
        if not isinstance(value, Real | np.bool_):
            of = "" if name is None else f" of {name!r}"
            raise BudgetError(
                f"{owner}(pad=…): the padding{of} is {value!r}, expected a number. A tokenizer "
                "whose pad_token_id is None has none: take 0, or its eos_token_id."
            )
    return dict(given) if isinstance(given, Mapping) else given


def filled(shape: Sequence[int], pad: PadValue, dtype: torch.dtype, name: Name) -> Tensor:
    """Make a tensor of padding, of a type that holds it: int64 where integers are too narrow."""
    return torch.full(tuple(shape), pad, dtype=type_with(pad, dtype, name))


def type_with(pad: PadValue, dtype: torch.dtype, name: Name) -> torch.dtype:
    """Return a type for values and their padding: int64 where integers are too narrow."""
    if not is_whole(dtype) or (dtype == torch.int64 and type(pad) is int):
        return dtype
    if not float(pad).is_integer():
        raise LengthsError(
            f"field {name!r} holds whole numbers, and pad={pad!r} is none. Give one by name."
        )
    bounds = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return dtype if bounds[0] <= pad <= bounds[1] else torch.int64


@dataclass(frozen=True)
class Padding:
    """The padding of each field of a batch, and which fields the user named."""

    values: Mapping[Name, PadValue]
    named: Mapping[Name, PadValue]
    owner: str

    @staticmethod
    def of(given: Pads, names: Sequence[Name], owner: str) -> "Padding":
        """Return the padding of fields: one value for all but `MEANT`, or values by name."""
        checked = given if type(given) is int else checked_pads(given, owner)
        named = checked if isinstance(checked, dict) else {}
        for name in named:
            if name not in names:
                raise ColumnNotFoundError(
                    f"{owner}(pad=…) names {name!r}, but samples have the fields {list(names)}."
                )
        one = 0 if isinstance(checked, dict) else checked
        return Padding({name: MEANT.get(name, one) for name in names} | named, named, owner)

    def for_field(self, name: Name, dtype: torch.dtype, *, one_a_row: bool = False) -> PadValue:
        """Return the value for a field of some type.

        Booleans get False, unless they are named or True is given for all: -100 would be true. Only
        labels of one a row become whole numbers, for rows that are not there.
        """
        value = self.values[name]
        chosen = name in self.named or isinstance(value, bool)
        if dtype != torch.bool or chosen or (one_a_row and name in LABEL_NAMES):
            return value
        return False

    def batch(self, columns: Columns, padded: Mapping[Name, Tensor], rows: int | None) -> Parts:
        """Return padded fields and the others, stacked, all with so many rows if that is given."""
        batch: Parts = {}
        for name, values in columns.items():
            field = padded[name] if name in padded else stacked(values, name)
            if rows is not None:
                if not isinstance(field, Tensor):
                    raise ColumnNotFoundError(
                        f"{self.owner}(shapes=…): the field {name!r} holds no numbers for empty "
                        "rows. Leave it out of the samples."
                    )
                pad = self.for_field(name, field.dtype, one_a_row=field.ndim == 1)
                empty = filled((rows - len(field), *field.shape[1:]), pad, field.dtype, name)
                field = torch.cat([field.to(empty.dtype), empty])
            batch[name] = field
        return batch


def chosen_field(name: Name, fields: Mapping[Name, Field], option: str, kind: str) -> Name:
    """Return the field that an option names; True is the first."""
    if name is True and fields:
        return next(iter(fields))
    if name is True or name not in fields:
        raise ColumnNotFoundError(
            f"{option}={name!r}): samples have the {kind} {list(fields)}. Name one of them."
        )
    return name


def assembled(first: Sample, batch: Parts, extras: Mapping[str, Tensor]) -> Batch:
    """Return a batch, and what is added to it unless samples have it, as the first sample is."""
    if isinstance(first, Mapping):
        return {**batch, **extras, **batch}
    if isinstance(first, tuple) or extras:
        return (*batch.values(), *extras.values())
    return batch[0]


class Piece(NamedTuple):
    """A part of a sample, which a plan with ``oversize="split"`` asks a data set for."""

    sample: int  # its index
    start: int  # where the piece begins, in tokens
    stop: int | None  # where it ends at the latest; None: at the sample's end


IntoPiece: TypeAlias = Piece | tuple[int, int, int | None] | int
"""A piece, or a plain index for a whole sample."""


class PieceDataset(Dataset[Sample]):
    """Cuts pieces out of the samples of another data set.

    The pieces of a sample, concatenated, are the sample. Fields that are no sequences, such as a
    label or a string, belong to every piece.

    Args:
        dataset: The whole samples: each a dict or tuple of fields, or one sequence.
        fields: The names (for tuples the positions) of the fields to cut, along their first
            dimension. None: every list, array and tensor, which then must be equally long.

    Raises:
        LengthsError: When read, if fields to cut differ in length and `fields` was not given.
        PlanError: When read, if a piece begins after its sample's end.
        ColumnNotFoundError: When read, if a sample lacks one of `fields`.

    Example:
        >>> documents = [{"input_ids": [5, 6, 7, 8, 9], "source": "book"}]
        >>> PieceDataset(documents)[Piece(0, 3, 6)]
        {'input_ids': [8, 9], 'source': 'book'}
    """

    def __init__(
        self, dataset: Field, *, fields: Sequence[str] | Sequence[int] | None = None
    ) -> None:
        self.dataset = dataset
        self.fields = None if fields is None else tuple(fields)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, piece: IntoPiece) -> Field:
        """Return a piece of a sample; a plain index gives the whole sample."""
        sample = self.dataset[piece[0] if isinstance(piece, tuple) else piece]
        return self._cut(sample, piece)

    def __getitems__(self, pieces: Sequence[IntoPiece]) -> list[Field]:
        """Return the pieces of a batch, by the other data set's `__getitems__` if it has one."""
        if not hasattr(self.dataset, "__getitems__"):
            return [self[piece] for piece in pieces]
        numbers = [each[0] if isinstance(each, tuple) else each for each in pieces]
        samples = self.dataset.__getitems__(numbers)
        return [self._cut(*each) for each in zip(samples, pieces, strict=True)]

    def _cut(self, sample: Sample, into: IntoPiece) -> Field:
        if not isinstance(into, tuple):
            return sample
        piece, made, names = Piece(*into), _fields_of(sample), self.fields
        if names is None:
            sizes = {name: len(value) for name, value in made.items() if has_length(value)}
            names = tuple(sizes)
            if len(set(sizes.values())) > 1:
                raise LengthsError(
                    f"sample {piece.sample} has fields of different lengths, {sizes}: say which "
                    "of them to cut, PieceDataset(dataset, fields=[…])."
                )
        for name in names:
            if name not in made:
                raise ColumnNotFoundError(
                    f"PieceDataset(fields=…): sample {piece.sample} has no field {name!r}, it has "
                    f"{list(made)}."
                )
            if piece.start >= len(made[name]):
                raise PlanError(
                    f"sample {piece.sample} has {len(made[name])} tokens in {name!r}, the piece "
                    f"begins at {piece.start}. Plan with the lengths of this data."
                )
            made[name] = made[name][piece.start : piece.stop]
        return assembled(sample, made, {})
