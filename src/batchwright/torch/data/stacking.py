"""Fields of a batch that are stacked, filled up with empty rows, and put together again."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from batchwright.errors import BudgetError, ColumnNotFoundError, LengthsError
from batchwright.torch.data.fields import Name, as_indices
from batchwright.torch.data.labels import LABEL_IGNORE, LABEL_NAMES, MEANT, PadValue

__all__ = [
    "LABEL_IGNORE",
    "PadValue",
    "Padding",
    "Pads",
    "assembled",
    "checked_pads",
    "chosen_field",
    "filled",
    "filled_up",
    "stacked",
    "type_for",
]

Pads: TypeAlias = PadValue | Mapping[Any, PadValue] | Sequence[PadValue]
"""What fields are filled up with: one value for all, or values by name or position."""


def checked_pads(given: Any, owner: str) -> Any:
    """Check what fields are to be filled up with.

    Returns:
        A number, or a dict of numbers by name or position.

    Raises:
        BudgetError: If something is no number.

    Example:
        >>> checked_pads([0, 1], "PadCollator"), checked_pads({"x": 2}, "PadCollator")
        ({0: 0, 1: 1}, {'x': 2})
    """
    if _is_number(given):
        return given
    values = given if isinstance(given, Mapping) else None
    if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str | bytes):
        values = dict(enumerate(given))
    for name, value in ({None: given} if values is None else values).items():
        if not _is_number(value):
            of = "" if values is None else f" of {name!r}"
            raise BudgetError(
                f"{owner}(pad=…): the padding{of} is {value!r}, expected a number. A tokenizer "
                "whose pad_token_id is None has none: take 0, or its eos_token_id."
            )
    return dict(values or {})


def _is_number(value: Any) -> bool:
    return isinstance(value, Real | np.bool_)


def type_for(dtype: torch.dtype, pad: PadValue) -> torch.dtype:
    """Return a type, or int64 where its own numbers do not reach to the padding.

    Example:
        >>> type_for(torch.bool, -100), type_for(torch.bool, False), type_for(torch.uint8, 255)
        (torch.int64, torch.bool, torch.uint8)
    """
    if dtype.is_floating_point or dtype.is_complex:
        return dtype
    if dtype == torch.bool:
        return dtype if pad in {0, 1} else torch.int64
    limits = torch.iinfo(dtype)
    return dtype if limits.min <= pad <= limits.max else torch.int64


def filled(shape: Sequence[int], pad: PadValue, dtype: torch.dtype, name: Name) -> Tensor:
    """Make a tensor of padding, of a type that can hold it: see `type_for`.

    Raises:
        LengthsError: If whole numbers are to be filled up with a fraction, NaN or infinity.
    """
    whole = not (dtype.is_floating_point or dtype.is_complex)
    if whole and not float(pad).is_integer():
        raise LengthsError(
            f"field {name!r} holds whole numbers, and pad={pad!r} is none: name the padding of "
            "each field, pad={name: value, …}."
        )
    return torch.full(tuple(shape), pad, dtype=type_for(dtype, pad))


@dataclass(frozen=True)
class Padding:
    """What the fields of a batch are filled up with.

    Attributes:
        values: Field → value.
        named: The fields that the user named.
    """

    values: Mapping[Any, PadValue]
    named: Collection[Any]

    @staticmethod
    def of(given: Pads, names: Sequence[Any], owner: str) -> "Padding":
        """Return what each field is filled up with.

        Args:
            given: One value for all but fields whose padding has a meaning; or values by name,
                others 0.
            names: The fields.
            owner: The class that has the option, for errors.

        Raises:
            ColumnNotFoundError: If a value is given for a field that there is not.
        """
        checked: Any = checked_pads(given, owner)
        named = checked if isinstance(checked, Mapping) else {}
        for name in named:
            if name not in names:
                message = (
                    f"{owner}(pad=…) names {name!r}, but samples have the fields {list(names)}."
                )
                raise ColumnNotFoundError(message)
        one = 0 if isinstance(checked, Mapping) else checked
        return Padding({name: MEANT.get(name, one) for name in names} | dict(named), set(named))

    def for_field(self, name: Any, dtype: torch.dtype, *, one_a_row: bool = False) -> PadValue:
        """Return the value for a field of some type.

        Booleans get False, unless they are named or True is given for all: -100 or the number of
        a token would be true. Only labels of one a row become whole numbers, for rows that are
        not there.
        """
        value = self.values[name]
        chosen = name in self.named or isinstance(value, bool)
        if dtype != torch.bool or chosen or (one_a_row and name in LABEL_NAMES):
            return value
        return False


def stacked(rows: Sequence[Any], name: Name) -> Any:
    """Stack numbers, and arrays and tensors of one shape; leave anything else a list.

    Raises:
        LengthsError: If arrays or tensors are of several shapes: what a batch holds must not
            depend on which samples meet in it.
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
        return as_indices(torch.stack(list(rows)))
    array = np.asarray(rows)
    if array.dtype.kind not in "biuf":
        return list(rows)
    if array.dtype.kind == "u":
        array = array.astype(np.int64)
    values = as_indices(torch.from_numpy(array))
    if values.is_floating_point() and all(type(row) in {int, float} for row in rows):
        values = values.to(torch.get_default_dtype())
    return values


def filled_up(
    field: Any, empty: int, padding: Padding, name: Name, owner: str, *, one_a_row: bool = True
) -> Any:
    """Append empty rows to a field.

    Raises:
        ColumnNotFoundError: If it holds no numbers.
    """
    if not isinstance(field, Tensor):
        message = (
            f"{owner}(shapes=…): the field {name!r} holds no numbers, and an empty row has "
            "nothing to put there. Leave it out of the samples."
        )
        raise ColumnNotFoundError(message)
    one_a_row = one_a_row and field.ndim == 1
    pad = padding.for_field(name, field.dtype, one_a_row=one_a_row)
    rows = filled((empty, *field.shape[1:]), pad, field.dtype, name)
    return torch.cat([field.to(rows.dtype), rows])


def chosen_field(
    name: bool | Name,  # noqa: FBT001
    fields: Mapping[Any, Any],
    option: str,
    kind: str,
) -> Any:
    """Return the field that an option names; True is the first.

    Raises:
        ColumnNotFoundError: If it is not among them.
    """
    if name is True and fields:
        return next(iter(fields))
    if name is True or name not in fields:
        message = f"{option}={name!r}): samples have the {kind} {list(fields)}. Name one of them."
        raise ColumnNotFoundError(message)
    return name


def assembled(first: Any, batch: Mapping[Any, Any], extras: Mapping[str, Tensor]) -> Any:
    """Put the fields of a batch together as samples hold them.

    Args:
        first: A sample.
        batch: Field → its values.
        extras: What is added. A key that samples already have is theirs.

    Returns:
        A dict for dicts; a tuple for tuples, with the extras behind; the values of the only
        field for anything else, or a tuple of them and the extras.
    """
    if isinstance(first, Mapping):
        return {**batch, **{name: value for name, value in extras.items() if name not in batch}}
    if isinstance(first, tuple) or extras:
        return (*batch.values(), *extras.values())
    return batch[0]
