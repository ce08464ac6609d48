"""Batches as rows, padded to the longest."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from batchwright._checks import budgets, check_choice, keep_whole
from batchwright.errors import BudgetError, ColumnNotFoundError
from batchwright.layout import Shape
from batchwright.torch.data.flat_rows import FlatBatch, FlatRows
from batchwright.torch.data.samples import (
    Name,
    Padding,
    Pads,
    assembled,
    checked_pads,
    checked_shapes,
    chosen_field,
    columns_of,
    cut_rows,
    filled,
    fitting,
    flattened,
    has_length,
    is_whole,
    limit_of,
    type_with,
)
from batchwright.typing import Batch, Field, IntArray, Sample

_Flat: TypeAlias = Mapping[Name, tuple[Tensor | FlatRows, IntArray]]
"""Field → its rows, flat or concatenated, [total, …], and the length of each."""


@dataclass(frozen=True)
class PadCollator:
    """Pads the sequences of a batch to the longest, and stacks everything else.

    Each field is padded on its own, so source and target may differ in length. A field is a
    sequence if it is a list, or an array or tensor of at least one dimension; it is padded along
    its first. Numbers are stacked, anything else (a string, None) stays a list. Integers become
    int64; other types stay.

    `pad_to_multiple_of`, `max_length` and `shapes` are for tokens and frames: by their type these
    are lists of integers or booleans, everything [length, features], and otherwise a sample's only
    sequence, or the first if it has one dimension and no other is one of these. Other fields, such
    as an embedding or an image, keep their size. Where this is wrong, pass `sequences`.

    Args:
        pad: Padding: one value for all, a mapping by name, or for tuples one value for each
            position. Fields not named get 0; unless they are named, labels (`labels`, `label`,
            `label_ids`) get -100, which torch's `cross_entropy` leaves out, an `attention_mask` 0
            and booleans False. As no boolean says that it is padding, give a batch of these
            `lengths` or an `attention_mask`.
        side: Where padding goes, in all fields: ``"right"``, or ``"left"`` as models that generate
            expect it. Positions are then ``attention_mask.cumsum(1) - 1``.
        pad_to_multiple_of: Rows are padded to a multiple of this, as in `TokenBudget`.
        max_length: Longer sequences are cut, as a plan with ``oversize="truncate"`` expects:
            ``plan.layout.max_length``. With several columns, a length for each.
        shapes: (rows, length) of the only shapes there may be: ``plan.layout.shapes`` of
            `Buckets`. Sequences are padded to the first that fits the longest of them, and empty
            rows fill the batch up. With several columns (rows, (length, length)).
        columns: Which column of the lengths each sequence takes, for several of them in `shapes` or
            `max_length`: ``{"input_ids": 0, "labels": 1}``; None for one that is padded to its own
            longest. Without it, the first takes the first, and so on.
        sequences: The fields, by name or position, that are rounded, cut and brought into shape.
            None: by their type, as above.
        attention_mask: Add int64[batch, length], 1 at tokens and 0 at padding, of the field so
            named; True is the first such sequence.
        lengths: Add int64[batch], the tokens of each row, of the field so named, as above.

    Returns:
        When called with samples: a dict, tuple or tensor, like a sample. `attention_mask` and
        `lengths` are further keys, unless samples have these, or the last of a tuple. O(tokens).

    Raises:
        BudgetError: If a setting is invalid; when called, if samples fit into no shape.
        LengthsError: When called, if samples are not of one kind.
        ColumnNotFoundError: When called, if samples lack a field, or one named here, or have
            sequences of which it is unknown what to pad them to.

    Example:
        >>> collate = PadCollator({"input_ids": 9}, attention_mask=True)
        >>> batch = collate([{"input_ids": [5, 6], "label": 1}, {"input_ids": [7], "label": 0}])
        >>> {name: value.tolist() for name, value in batch.items()}
        {'input_ids': [[5, 6], [7, 9]], 'label': [1, 0], 'attention_mask': [[1, 1], [1, 0]]}
    """

    pad: Pads = 0
    _: KW_ONLY
    side: Literal["right", "left"] = "right"
    pad_to_multiple_of: int = 1
    max_length: int | tuple[int, ...] | None = None
    shapes: Sequence[Shape] | None = None
    columns: Mapping[Name, int | None] | None = None
    sequences: Collection[Name] | None = None
    attention_mask: bool | Name = False
    lengths: bool | Name = False
    _num_columns: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        keep = object.__setattr__  # as plain dicts and tuples, which can be pickled
        keep(self, "pad", checked_pads(self.pad, "PadCollator"))
        check_choice("PadCollator", "side", self.side, ("right", "left"))
        keep_whole(self, "pad_to_multiple_of")
        if self.max_length is not None:
            keep(self, "max_length", budgets("PadCollator", "max_length", self.max_length))
        if self.sequences is not None:
            given = self.sequences
            keep(self, "sequences", (given,) if isinstance(given, str | int) else tuple(given))
        if self.shapes is not None:
            keep(self, "shapes", checked_shapes(self.shapes, "PadCollator", "length"))
        widths = {int(np.size(length)) for _, length in self.shapes or ()}
        widths |= {len(self.max_length)} if isinstance(self.max_length, tuple) else set()
        bounds = f"shapes={self.shapes}, max_length={self.max_length}"
        if len(widths) > 1:
            raise BudgetError(f"PadCollator({bounds}): expected as many columns in all of them.")
        keep(self, "_num_columns", max(widths, default=0))
        if self.columns is None:
            return
        if not isinstance(self.columns, Mapping):
            raise BudgetError(
                f"PadCollator(columns={self.columns!r}): expected a dict, field → column."
            )
        keep(self, "columns", dict(self.columns))
        named = {each for each in self.columns.values() if each is not None}
        if widths and named != set(range(self._num_columns)):
            raise BudgetError(
                f"PadCollator(columns={self.columns}, {bounds}): expected each column from 0 on, "
                "and no other."
            )

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Collate the samples of one batch."""
        columns = columns_of(samples)
        padding = Padding.of(self.pad, list(columns), "PadCollator")
        rows_of = {
            name: rows
            for name, rows in columns.items()
            if isinstance(rows, FlatRows) or any(map(has_length, rows))
        }
        flat = {name: _flat(rows, name) for name, rows in rows_of.items()}
        column_of = self._columns(flat)
        for name, column in column_of.items():
            limit = limit_of(self.max_length, column)
            if limit is not None and flat[name][1].max() > limit:
                flat[name] = _flat(cut_rows(rows_of[name], limit), name)
        rows, widths = self._shape(flat, column_of, len(samples))
        padded: dict[Name, Tensor] = {}
        for name, (values, sizes) in flat.items():
            pad, width = padding.for_field(name, values.dtype), widths[name]
            if isinstance(values, FlatRows):
                kind = type_with(pad, values.dtype, name)
                padded[name] = values.padded(width, pad, kind, left=self.side == "left")
                continue
            made = filled((len(sizes), width, *values.shape[1:]), pad, values.dtype, name)
            inside = self._inside(sizes, width)[(..., *(None,) * (made.ndim - 2))]
            made.masked_scatter_(inside, values.to(made.dtype))  # a third of indexing's time
            padded[name] = made
        batch = padding.batch(columns, padded, rows)
        extras: dict[str, Tensor] = {}
        for option in ("attention_mask", "lengths"):
            named = getattr(self, option)
            if named is not False:
                named = next(iter(column_of), True) if named is True else named
                chosen = chosen_field(named, padded, f"PadCollator({option}", "sequences")
                sizes = np.zeros(len(batch[chosen]), dtype=np.int64)
                sizes[: len(samples)] = flat[chosen][1]
                inside = self._inside(sizes, widths[chosen])
                mask = option == "attention_mask"
                extras[option] = inside.to(torch.int64) if mask else torch.from_numpy(sizes)
        first = batch if isinstance(samples, FlatBatch) else samples[0]
        return assembled(first, batch, extras)

    def _columns(self, flat: _Flat) -> dict[Name, int | None]:
        """Return the column of the lengths that each sequence takes; None for its own longest."""
        names, num_columns = self._sequences(flat), self._num_columns
        if not num_columns or (self.columns is None and num_columns == 1):
            return dict.fromkeys(names, 0)
        if self.columns is None:
            names = names if len(names) == num_columns else list(flat)
            if len(names) != num_columns:
                raise ColumnNotFoundError(
                    f"samples have the sequences {names}, and shapes or max_length {num_columns} "
                    "columns. Say which belongs to which: columns={name: column, …}."
                )
            return {name: column for column, name in enumerate(names)}
        if not set(names) <= set(self.columns) <= set(flat):
            raise ColumnNotFoundError(
                f"PadCollator(columns={self.columns}): samples have the sequences {names}. Name "
                "all of them and nothing else; None is for one padded to its own longest."
            )
        return dict(sorted(self.columns.items(), key=lambda item: item[1] is None))

    def _sequences(self, flat: _Flat) -> list[Name]:
        """Return the fields that are rounded, cut and brought into shape."""
        if self.sequences is not None:
            for name in self.sequences:
                if name not in flat:
                    raise ColumnNotFoundError(
                        f"PadCollator(sequences={self.sequences}): {name!r} is no sequence of the "
                        f"samples, they have {list(flat)}. Name those."
                    )
            return [name for name in flat if name in self.sequences]
        first = next((name for name, (values, _) in flat.items() if values.ndim <= 2), None)
        named = [each for each in (self.attention_mask, self.lengths) if not isinstance(each, bool)]
        names: list[Field] = [
            name
            for name, (values, _) in flat.items()
            if name in named
            or name == first
            or values.ndim == 2
            or (values.ndim == 1 and is_whole(values.dtype))
        ]
        if self.pad_to_multiple_of == 1 and self.max_length is None and self.shapes is None:
            return names
        if flat and not names:
            raise ColumnNotFoundError(
                f"none of the fields {list(flat)} is a sequence by its type. Name those that are "
                "to be rounded, cut or brought into shape: PadCollator(sequences=[…])."
            )
        known = {*names, *(self.columns or ())}
        for name, (values, sizes) in flat.items():
            for other in () if name in known else names:
                if sizes.min() < sizes.max() and np.array_equal(sizes, flat[other][1]):
                    raise ColumnNotFoundError(
                        f"field {name!r} is as long as {other!r} in each sample, but {values.dtype}"
                        f" of {values.ndim} dimensions keep their size. Name those that do not: "
                        f"PadCollator(sequences={[*names, name]})."
                    )
        return names

    def _shape(
        self, flat: _Flat, column_of: Mapping[Name, int | None], num_samples: int
    ) -> tuple[int | None, dict[Name, int]]:
        """Return the rows of the batch, if they are fixed, and the width of each field."""
        widths = {name: max(1, int(sizes.max())) for name, (_, sizes) in flat.items()}
        if self.shapes is None:
            multiple = self.pad_to_multiple_of
            for name in column_of:
                widths[name] = -(-widths[name] // multiple) * multiple
            return None, widths
        longest = np.zeros(self._num_columns, dtype=np.int64)
        for name, column in column_of.items():
            if column is not None:
                longest[column] = max(longest[column], flat[name][1].max())
        given = f"{num_samples} samples of up to {' and '.join(map(str, longest))} tokens"
        rows, lengths = fitting(self.shapes, num_samples, longest, given)
        for name, column in column_of.items():
            widths[name] = widths[name] if column is None else lengths[column]
        return rows, widths

    def _inside(self, sizes: IntArray, width: int) -> Tensor:
        """Return where tokens are, bool[rows, width]."""
        places, lengths = np.arange(width, dtype=np.int32), sizes.astype(np.int32)[:, None]
        left = self.side == "left"
        return torch.from_numpy(places >= width - lengths if left else places < lengths)


def _flat(rows: Sequence[Field], name: Name) -> tuple[Tensor | FlatRows, IntArray]:
    """Return the rows of a field, flat or concatenated, and their lengths."""
    return (rows, rows.lengths) if isinstance(rows, FlatRows) else flattened(rows, name)
