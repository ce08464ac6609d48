"""Batches as rows, padded to the longest."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from batchwright.errors import BudgetError, ColumnNotFoundError
from batchwright.torch.fields import Name, as_indices, columns_of, flattened, is_sequence

PadValue: TypeAlias = float | bool

LABEL_IGNORE = -100
"""What torch's `cross_entropy` leaves out of the loss."""

_MEANT: dict[Any, PadValue] = {"labels": LABEL_IGNORE, "attention_mask": 0}
"""Fields whose padding has a meaning: no token's value would do."""


@dataclass(frozen=True)
class PadCollator:
    """Pads the sequences of a batch to the longest, and stacks everything else.

    Each field is padded on its own, so that source and target may differ in length. A field
    counts as a sequence if it is a list, or an array or tensor of at least one dimension; it is
    padded along its first. Numbers are stacked, anything else (a string, None) stays a list.
    Integers become int64; other types stay.

    Args:
        pad: What sequences are filled up with: one value for all, a mapping by name, or for
            tuples one value for each position. Fields not named get 0. Unless they are named,
            `labels` always get -100, which torch's `cross_entropy` leaves out, and an
            `attention_mask` 0.
        pad_to_multiple_of: Rows are padded to a multiple of this, as in `TokenBudget`.
        shapes: (rows, length) of the only shapes there may be: ``plan.layout.shapes`` of
            `Buckets`. Sequences are padded to the shortest that fits the longest of them, and empty
            rows fill the batch up: padding in sequences, -100 in `labels`, else 0.
        max_length: Longer sequences are cut, as a plan with ``oversize="truncate"`` expects:
            ``plan.layout.max_length``.
        attention_mask: Add int64[batch, length], 1 at tokens and 0 at padding, of the field so
            named; True is the first sequence.
        lengths: Add int64[batch], the tokens of each row, of the field so named; True is the
            first sequence.

    Returns:
        When called with the samples of a batch: a dict for dicts, with `attention_mask` and
        `lengths` as further keys; a tuple for tuples, with them behind the fields; the tensor
        itself for single sequences. A key that samples already have is theirs. O(tokens).

    Raises:
        BudgetError: If a setting makes no sense.
        LengthsError: When called, if samples are not of one kind.
        ColumnNotFoundError: When called, if samples lack a field, or one named here.

    Example:
        >>> collate = PadCollator({"input_ids": 9}, attention_mask=True)
        >>> batch = collate([{"input_ids": [5, 6], "label": 1}, {"input_ids": [7], "label": 0}])
        >>> {name: value.tolist() for name, value in batch.items()}
        {'input_ids': [[5, 6], [7, 9]], 'label': [1, 0], 'attention_mask': [[1, 1], [1, 0]]}
    """

    pad: PadValue | Mapping[str, PadValue] | Sequence[PadValue] = 0
    _: KW_ONLY
    pad_to_multiple_of: int = 1
    max_length: int | None = None
    shapes: Sequence[tuple[int, int]] | None = None
    attention_mask: bool | Name = False
    lengths: bool | Name = False

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("pad_to_multiple_of", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                message = f"PadCollator({name}={value}): expected at least 1."
                raise BudgetError(message)

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Collate the samples of one batch."""
        columns = columns_of(samples)
        pads = self._pads(columns)
        rows_of_all, width = self._shape(columns)
        batch: dict[Any, Any] = {}
        lengths: dict[Any, Tensor] = {}
        for name, rows in columns.items():
            if any(map(is_sequence, rows)):
                batch[name], lengths[name] = self._padded(rows, name, pads[name], width)
            else:
                batch[name] = _stacked(rows)
            if rows_of_all is not None:
                empty = rows_of_all - len(samples)
                batch[name] = _filled_up(batch[name], empty, pads[name], name)
                if name in lengths:
                    lengths[name] = _filled_up(lengths[name], empty, 0, name)
        extras: dict[str, Tensor] = {}
        if self.attention_mask is not False:
            chosen = _chosen(self.attention_mask, lengths, "attention_mask")
            inside = torch.arange(batch[chosen].shape[1]) < lengths[chosen][:, None]
            extras["attention_mask"] = inside.to(torch.int64)
        if self.lengths is not False:
            extras["lengths"] = lengths[_chosen(self.lengths, lengths, "lengths")]
        if isinstance(samples[0], Mapping):
            return batch | {name: value for name, value in extras.items() if name not in batch}
        if isinstance(samples[0], tuple) or extras:
            return (*batch.values(), *extras.values())
        return batch[0]

    def _shape(self, columns: Mapping[Any, Sequence[Any]]) -> tuple[int | None, int | None]:
        """Return the rows and the length that the batch is to have; None: as it comes."""
        if self.shapes is None:
            return None, None
        sequences = [row for rows in columns.values() for row in rows if is_sequence(row)]
        longest = max((len(row) for row in sequences), default=0)
        if self.max_length is not None:
            longest = min(longest, self.max_length)
        num_samples = len(next(iter(columns.values())))
        for rows, length in self.shapes:
            if length >= longest and rows >= num_samples:
                return rows, length
        message = (
            f"{num_samples} samples of up to {longest} tokens fit into none of the shapes "
            f"{list(self.shapes)}. Take those of the plan: plan.layout.shapes."
        )
        raise BudgetError(message)

    def _padded(
        self, rows: Sequence[Any], name: Name, pad: PadValue, width: int | None
    ) -> tuple[Tensor, Tensor]:
        if self.max_length is not None:
            rows = [row[: self.max_length] if is_sequence(row) else row for row in rows]
        flat, lengths = flattened(rows, name)
        if width is None:
            longest = max(1, int(lengths.max()))
            width = -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
        padded = torch.full((len(rows), width, *flat.shape[1:]), pad, dtype=flat.dtype)
        sizes = torch.from_numpy(lengths)
        padded[torch.arange(width) < sizes[:, None]] = flat
        return padded, sizes

    def _pads(self, columns: Mapping[Any, Any]) -> dict[Any, PadValue]:
        given = self.pad
        if isinstance(given, int | float):
            return {name: _MEANT.get(name, given) for name in columns}
        pads: dict[Any, PadValue] = {name: _MEANT.get(name, 0) for name in columns}
        named = given if isinstance(given, Mapping) else dict(enumerate(given))
        for name, value in named.items():
            if name not in columns:
                message = (
                    f"PadCollator(pad=…) names {name!r}, but samples have the fields "
                    f"{list(columns)}."
                )
                raise ColumnNotFoundError(message)
            pads[name] = value
        return pads


def _stacked(rows: Sequence[Any]) -> Any:
    """Stack numbers, and arrays and tensors without a dimension; leave anything else a list."""
    if all(isinstance(row, Tensor) for row in rows):
        return as_indices(torch.stack(list(rows)))
    if not all(isinstance(row, int | float | np.generic | np.ndarray | Tensor) for row in rows):
        return list(rows)
    array = np.asarray(rows)
    if array.dtype.kind not in "biuf":
        return list(rows)
    if array.dtype.kind == "u":
        array = array.astype(np.int64)
    stacked = as_indices(torch.from_numpy(array))
    if stacked.is_floating_point() and all(type(row) in {int, float} for row in rows):
        stacked = stacked.to(torch.get_default_dtype())
    return stacked


def _filled_up(field: Any, empty: int, pad: PadValue, name: Name) -> Any:
    """Append empty rows to a field."""
    if not isinstance(field, Tensor):
        message = (
            f"PadCollator(shapes=…): the field {name!r} holds no numbers, and an empty row has "
            "nothing to put there. Leave it out of the samples."
        )
        raise ColumnNotFoundError(message)
    rows = torch.full((empty, *field.shape[1:]), pad, dtype=field.dtype)
    return torch.cat([field, rows])


def _chosen(name: bool | Name, lengths: Mapping[Any, Tensor], option: str) -> Any:  # noqa: FBT001
    if name is True and lengths:
        return next(iter(lengths))
    if name is True or name not in lengths:
        message = (
            f"PadCollator({option}={name!r}): samples have the sequences {list(lengths)}. "
            "Name one of them."
        )
        raise ColumnNotFoundError(message)
    return name
