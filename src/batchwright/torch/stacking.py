"""Fields of a batch that are stacked, filled up with empty rows, and put together again."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from batchwright.errors import ColumnNotFoundError
from batchwright.torch.fields import Name, as_indices

PadValue: TypeAlias = float | bool
"""What is put where there is no data."""

LABEL_IGNORE = -100
"""What torch's `cross_entropy` leaves out of the loss."""

_MEANT: dict[Any, PadValue] = {"labels": LABEL_IGNORE, "attention_mask": 0}
"""Fields whose padding has a meaning: no token's value would do."""


def pads_of(
    given: PadValue | Mapping[str, PadValue] | Sequence[PadValue],
    names: Sequence[Any],
    owner: str,
) -> dict[Any, PadValue]:
    """Return what each field is filled up with.

    Args:
        given: One value for all but fields whose padding has a meaning; or values by name, or by
            position.
        names: The fields.
        owner: The class that has the option, for errors.

    Returns:
        Field → value; 0 where nothing was given.

    Raises:
        ColumnNotFoundError: If a value is given for a field that there is not.
    """
    if isinstance(given, int | float):
        return {name: _MEANT.get(name, given) for name in names}
    pads: dict[Any, PadValue] = {name: _MEANT.get(name, 0) for name in names}
    named = given if isinstance(given, Mapping) else dict(enumerate(given))
    for name, value in named.items():
        if name not in pads:
            message = f"{owner}(pad=…) names {name!r}, but samples have the fields {list(names)}."
            raise ColumnNotFoundError(message)
        pads[name] = value
    return pads


def stacked(rows: Sequence[Any]) -> Any:
    """Stack numbers, and arrays and tensors of one shape; leave anything else a list."""
    if all(isinstance(row, Tensor) for row in rows):
        same = len({row.shape for row in rows}) == 1
        return as_indices(torch.stack(list(rows))) if same else list(rows)
    if not all(isinstance(row, int | float | np.generic | np.ndarray | Tensor) for row in rows):
        return list(rows)
    if len({np.shape(row) for row in rows}) > 1:
        return list(rows)
    array = np.asarray(rows)
    if array.dtype.kind not in "biuf":
        return list(rows)
    if array.dtype.kind == "u":
        array = array.astype(np.int64)
    values = as_indices(torch.from_numpy(array))
    if values.is_floating_point() and all(type(row) in {int, float} for row in rows):
        values = values.to(torch.get_default_dtype())
    return values


def filled_up(field: Any, empty: int, pad: PadValue, name: Name, owner: str) -> Any:
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
    rows = torch.full((empty, *field.shape[1:]), pad, dtype=field.dtype)
    return torch.cat([field, rows])


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
