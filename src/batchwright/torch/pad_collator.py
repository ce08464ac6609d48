"""Batches as rows, padded to the longest."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from batchwright.errors import BudgetError, ColumnNotFoundError
from batchwright.layout import Shape
from batchwright.torch.fields import Name, columns_of, flattened, is_sequence
from batchwright.torch.stacking import (
    LABEL_IGNORE,
    PadValue,
    assembled,
    chosen_field,
    filled_up,
    pads_of,
    stacked,
)

__all__ = ["LABEL_IGNORE", "PadCollator", "PadValue"]


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
            `Buckets`. Sequences are padded to the first that fits the longest of them, and empty
            rows fill the batch up: padding in sequences, -100 in `labels`, else 0. Of several
            columns (rows, (length, length)): each sequence is padded to its own.
        columns: Which of the lengths of a shape each sequence is padded to, by name or position:
            ``{"input_ids": 0, "labels": 1}``; None for one that is padded to its own longest.
            Without it, all take the only length, or the first takes the first, and so on. Says
            nothing where there are no shapes.
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
        ColumnNotFoundError: When called, if samples lack a field, or one named here, or have
            sequences of which it is not known what to pad them to.

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
    shapes: Sequence[Shape] | None = None
    columns: Mapping[Name, int | None] | None = None
    attention_mask: bool | Name = False
    lengths: bool | Name = False

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("pad_to_multiple_of", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                message = f"PadCollator({name}={value}): expected at least 1."
                raise BudgetError(message)
        widths = {np.size(length) for _, length in self.shapes or ()}
        if len(widths) > 1 or (self.shapes is not None and not widths):
            message = (
                f"PadCollator(shapes={self.shapes}): expected one or more, of as many columns."
            )
            raise BudgetError(message)
        if self.columns is None or self.shapes is None:
            return
        named = {each for each in self.columns.values() if each is not None}
        if named != set(range(max(widths, default=0))):
            message = (
                f"PadCollator(columns={dict(self.columns)}): expected each column of the shapes "
                f"{None if self.shapes is None else list(self.shapes)} from 0 on, and no other."
            )
            raise BudgetError(message)

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Collate the samples of one batch."""
        columns = columns_of(samples)
        pads = pads_of(self.pad, list(columns), "PadCollator")
        rows_of_all, widths = self._shape(columns)
        batch: dict[Any, Any] = {}
        lengths: dict[Any, Tensor] = {}
        for name, rows in columns.items():
            if any(map(is_sequence, rows)):
                batch[name], lengths[name] = self._padded(rows, name, pads[name], widths.get(name))
            else:
                batch[name] = stacked(rows)
            if rows_of_all is not None:
                empty = rows_of_all - len(samples)
                batch[name] = filled_up(batch[name], empty, pads[name], name, "PadCollator")
                if name in lengths:
                    lengths[name] = filled_up(lengths[name], empty, 0, name, "PadCollator")
        extras: dict[str, Tensor] = {}
        if self.attention_mask is not False:
            chosen = _chosen(self.attention_mask, lengths, "attention_mask")
            inside = torch.arange(batch[chosen].shape[1]) < lengths[chosen][:, None]
            extras["attention_mask"] = inside.to(torch.int64)
        if self.lengths is not False:
            extras["lengths"] = lengths[_chosen(self.lengths, lengths, "lengths")]
        return assembled(samples[0], batch, extras)

    def _shape(self, fields: Mapping[Any, Sequence[Any]]) -> tuple[int | None, dict[Any, int]]:
        """Return the rows of the batch, and how long each field is to be; else as it comes."""
        if self.shapes is None:
            return None, {}
        shapes = [(rows, np.atleast_1d(length).tolist()) for rows, length in self.shapes]
        longest = [0] * len(shapes[0][1])
        column_of = self._columns(fields, len(longest))
        for name, column in column_of.items():
            sizes = [len(row) for row in fields[name] if is_sequence(row)]
            longest[column] = max(longest[column], *sizes)
        if self.max_length is not None:
            longest = [min(each, self.max_length) for each in longest]
        num_samples = len(next(iter(fields.values())))
        for rows, lengths in shapes:
            fits = all(length >= each for length, each in zip(lengths, longest, strict=True))
            if fits and rows >= num_samples:
                return rows, {name: lengths[column] for name, column in column_of.items()}
        message = (
            f"{num_samples} samples of up to {' and '.join(map(str, longest))} tokens fit into "
            f"none of the shapes {list(self.shapes)}. Take those of the plan: plan.layout.shapes."
        )
        raise BudgetError(message)

    def _columns(self, fields: Mapping[Any, Sequence[Any]], num_columns: int) -> dict[Any, int]:
        """Return the column of the shapes that each sequence is padded to."""
        names = [name for name, rows in fields.items() if any(map(is_sequence, rows))]
        if self.columns is None and num_columns == 1:
            return dict.fromkeys(names, 0)
        if self.columns is None:
            if len(names) != num_columns:
                message = (
                    f"samples have the sequences {names}, and shapes {num_columns} columns. Say "
                    "which belongs to which: columns={name: column, …}."
                )
                raise ColumnNotFoundError(message)
            return {name: column for column, name in enumerate(names)}
        if set(names) != set(self.columns):
            message = (
                f"PadCollator(columns={dict(self.columns)}): samples have the sequences {names}. "
                "Name all of them and nothing else; None is for one padded to its own longest."
            )
            raise ColumnNotFoundError(message)
        return {name: column for name, column in self.columns.items() if column is not None}

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


def _chosen(name: bool | Name, lengths: Mapping[Any, Tensor], option: str) -> Any:  # noqa: FBT001
    return chosen_field(name, lengths, f"PadCollator({option}", "sequences")
