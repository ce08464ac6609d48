"""Batches as rows, padded to the longest."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from batchwright._checks import budgets, check_choice, keep_whole
from batchwright.errors import BudgetError, ColumnNotFoundError
from batchwright.layout import Shape
from batchwright.torch.data.samples import (
    Name,
    Padding,
    Pads,
    assembled,
    checked_pads,
    checked_shapes,
    chosen_field,
    columns_of,
    filled,
    fitting,
    flattened,
    has_length,
    is_whole,
    limit_of,
    stacked,
)
from batchwright.typing import Batch, Field, IntArray, Sample

_Flat: TypeAlias = tuple[Tensor, IntArray]
"""The concatenated rows of a field, [total, …], and the length of each."""


@dataclass(frozen=True)
class PadCollator:
    """Pads the sequences of a batch to the longest, and stacks everything else.

    Each field is padded on its own, so source and target may differ in length. A field is a
    sequence if it is a list, or an array or tensor of at least one dimension; it is padded along
    its first. Numbers are stacked, anything else (a string, None) stays a list. Integers become
    int64; other types stay.

    `pad_to_multiple_of`, `max_length` and `shapes` are for tokens and frames, not for what has a
    fixed size. By their type, these are lists of integers or booleans, everything
    [length, features], and otherwise a sample's only sequence, or the first if it has one dimension
    and no other is one of these. So floats of one dimension (an embedding, several labels a sample)
    and images beside tokens keep their size. Where this is wrong, pass `sequences`.

    Args:
        pad: Padding: one value for all, a mapping by name, or for tuples one value for each
            position. Fields not named get 0. Unless they are named, labels (`labels`, `label`,
            `label_ids`) get -100, which torch's `cross_entropy` leaves out, an `attention_mask` 0
            and booleans False. As no boolean says that it is padding, give a batch of these
            `lengths` or an `attention_mask`.
        side: Where padding goes: ``"right"``, or ``"left"`` as models that generate expect it, in
            all fields and the attention mask. Positions are then ``attention_mask.cumsum(1) - 1``.
        pad_to_multiple_of: Rows are padded to a multiple of this, as in `TokenBudget`.
        max_length: Longer sequences are cut, as a plan with ``oversize="truncate"`` expects:
            ``plan.layout.max_length``. With several columns, a length for each.
        shapes: (rows, length) of the only shapes there may be: ``plan.layout.shapes`` of
            `Buckets`. Sequences are padded to the first that fits the longest of them, and empty
            rows fill the batch up: padding in sequences, -100 in labels, else 0. With several
            columns (rows, (length, length)): each sequence is padded to its own.
        columns: Which of the lengths of a shape, or of `max_length`, each sequence takes, by name
            or position: ``{"input_ids": 0, "labels": 1}``; None for one that is padded to its own
            longest. Without it, all take the only length, or the first takes the first, and so on.
        sequences: The fields, by name or position, that are rounded, cut and brought into shape;
            others are only padded where they differ. None: by their type, as above.
        attention_mask: Add int64[batch, length], 1 at tokens and 0 at padding, of the field so
            named; True is the first such sequence.
        lengths: Add int64[batch], the tokens of each row, of the field so named; True is the
            first such sequence.

    Returns:
        When called with samples: a dict, tuple or tensor, like a sample. `attention_mask` and
        `lengths` are further keys, unless samples have these, or the last of a tuple. O(tokens).

    Raises:
        BudgetError: If a setting is invalid.
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

    def __post_init__(self) -> None:
        keep = object.__setattr__  # as plain dicts and tuples, which can be pickled
        keep(self, "pad", checked_pads(self.pad, "PadCollator"))
        check_choice("PadCollator", "side", self.side, ("right", "left"))
        keep_whole(self, "pad_to_multiple_of")
        if self.max_length is not None:
            keep(self, "max_length", budgets("PadCollator", "max_length", self.max_length))
        for option in ("attention_mask", "lengths"):
            value = getattr(self, option)
            if not isinstance(value, bool | str | int):
                raise BudgetError(
                    f"PadCollator({option}={value!r}): expected True, False or a field."
                )
        if self.sequences is not None:
            given = self.sequences
            keep(self, "sequences", (given,) if isinstance(given, str | int) else tuple(given))
        if self.shapes is not None:
            keep(self, "shapes", checked_shapes(self.shapes, "PadCollator", "length"))
        widths = self._widths()
        if len(widths) > 1:
            raise BudgetError(
                f"PadCollator(shapes={self.shapes}, max_length={self.max_length}): expected as "
                "many columns in all of them."
            )
        if self.columns is None:
            return
        if not isinstance(self.columns, Mapping):
            raise BudgetError(
                f"PadCollator(columns={self.columns!r}): expected a dict, field → column."
            )
        keep(self, "columns", dict(self.columns))
        named = {each for each in self.columns.values() if each is not None}
        if widths and named != set(range(max(widths))):
            raise BudgetError(
                f"PadCollator(columns={self.columns}): expected each column of shapes="
                f"{self.shapes} and max_length={self.max_length} from 0 on, and no other."
            )

    def _widths(self) -> set[int]:
        """Return the numbers of columns in shapes and maximums."""
        widths = {int(np.size(length)) for _, length in self.shapes or ()}
        return widths | ({len(self.max_length)} if isinstance(self.max_length, tuple) else set())

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Collate the samples of one batch."""
        columns = columns_of(samples)
        padding = Padding.of(self.pad, list(columns), "PadCollator")
        rows_of = {name: rows for name, rows in columns.items() if any(map(has_length, rows))}
        laid_out = {name: flattened(rows, name) for name, rows in rows_of.items()}
        column_of = self._columns(laid_out)
        for name, column in column_of.items():
            limit = limit_of(self.max_length, column)
            if limit is not None and laid_out[name][1].max() > limit:
                laid_out[name] = flattened([row[:limit] for row in rows_of[name]], name)
        num_rows, widths = self._shape(laid_out, column_of, len(samples))
        empty = 0 if num_rows is None else num_rows - len(samples)
        batch: dict[Any, Any] = {}
        lengths: dict[Any, Tensor] = {}
        for name, rows in columns.items():
            if name in laid_out:
                flat, sizes = laid_out[name]
                shape = (len(sizes), widths[name], *flat.shape[1:])
                padded = filled(shape, padding.for_field(name, flat.dtype), flat.dtype, name)
                inside = self._inside(torch.from_numpy(sizes), widths[name])
                padded[inside] = flat.to(padded.dtype)
                batch[name] = padded
                lengths[name] = torch.from_numpy(np.append(sizes, np.zeros(empty, np.int64)))
            else:
                batch[name] = stacked(rows, name)
            if num_rows is not None:
                batch[name] = padding.filled_up(batch[name], empty, name)
        extras: dict[str, Tensor] = {}
        for option in ("attention_mask", "lengths"):
            named = getattr(self, option)
            if named is not False:
                named = next(iter(column_of), True) if named is True else named
                chosen = chosen_field(named, lengths, f"PadCollator({option}", "sequences")
                extras[option] = lengths[chosen]
                if option == "attention_mask":
                    inside = self._inside(lengths[chosen], batch[chosen].shape[1])
                    extras[option] = inside.to(torch.int64)
        return assembled(samples[0], batch, extras)

    def _columns(self, laid_out: Mapping[Any, _Flat]) -> dict[Any, int]:
        """Return the column of the lengths that each sequence takes; -1 for its own longest."""
        names = self._sequences(laid_out)
        num_columns = max(self._widths(), default=0)
        if not num_columns or (self.columns is None and num_columns == 1):
            return dict.fromkeys(names, 0)
        if self.columns is None:
            names = names if len(names) == num_columns else list(laid_out)
            if len(names) != num_columns:
                raise ColumnNotFoundError(
                    f"samples have the sequences {names}, and shapes or max_length {num_columns} "
                    "columns. Say which belongs to which: columns={name: column, …}."
                )
            return {name: column for column, name in enumerate(names)}
        if not set(names) <= set(self.columns) <= set(laid_out):
            raise ColumnNotFoundError(
                f"PadCollator(columns={self.columns}): samples have the sequences {names}. Name "
                "all of them and nothing else; None is for one padded to its own longest."
            )
        column_of = {name: -1 if each is None else each for name, each in self.columns.items()}
        return dict(sorted(column_of.items(), key=lambda item: item[1] < 0))

    def _sequences(self, laid_out: Mapping[Any, _Flat]) -> list[Field]:
        """Return the fields that are rounded, cut and brought into shape."""
        if self.sequences is not None:
            for name in self.sequences:
                if name not in laid_out:
                    raise ColumnNotFoundError(
                        f"PadCollator(sequences={self.sequences}): {name!r} is no sequence of the "
                        f"samples, they have {list(laid_out)}. Name those."
                    )
            return [name for name in laid_out if name in self.sequences]
        flat = {name: values for name, (values, _) in laid_out.items() if values.ndim <= 2}
        first = next(iter(flat), None)
        named = [each for each in (self.attention_mask, self.lengths) if not isinstance(each, bool)]
        names = [
            name
            for name in laid_out
            if name in named
            or (
                name in flat
                and (name == first or flat[name].ndim == 2 or is_whole(flat[name].dtype))
            )
        ]
        if self.pad_to_multiple_of > 1 or self.max_length is not None or self.shapes is not None:
            self._refuse_doubt(laid_out, names)
        return names

    def _refuse_doubt(self, laid_out: Mapping[Any, _Flat], names: list[Any]) -> None:
        """Raise if a field that keeps its size is as long as a sequence after all."""
        if laid_out and not names:
            raise ColumnNotFoundError(
                f"none of the fields {list(laid_out)} is a sequence of tokens or frames by its "
                "type. Name those that are to be rounded, cut or brought into shape: "
                "PadCollator(sequences=[…]), or [] if there is none."
            )
        known = {*names, *(self.columns or ())}
        for name, (values, sizes) in laid_out.items():
            for other in names:
                as_long = np.array_equal(sizes, laid_out[other][1])
                if name not in known and as_long and sizes.min() < sizes.max():
                    raise ColumnNotFoundError(
                        f"field {name!r} is as long as {other!r} in each sample, but {values.dtype}"
                        f" of {values.ndim} dimensions keep their size. Name what is rounded, cut "
                        f"and brought into shape: PadCollator(sequences={[*names, name]})."
                    )

    def _shape(
        self, laid_out: Mapping[Any, _Flat], column_of: Mapping[Any, int], num_samples: int
    ) -> tuple[int | None, dict[Any, int]]:
        """Return the rows of the batch, if they are fixed, and the width of each field."""
        widths = {name: max(1, int(sizes.max())) for name, (_, sizes) in laid_out.items()}
        if self.shapes is None:
            multiple = self.pad_to_multiple_of
            return None, widths | {
                name: -(-widths[name] // multiple) * multiple for name in column_of
            }
        longest = np.zeros(max(self._widths()), dtype=np.int64)
        for name, column in column_of.items():
            if column >= 0:
                longest[column] = max(longest[column], laid_out[name][1].max())
        given = f"{num_samples} samples of up to {' and '.join(map(str, longest))} tokens"
        rows, lengths = fitting(self.shapes, num_samples, longest, given)
        return rows, widths | {name: lengths[each] for name, each in column_of.items() if each >= 0}

    def _inside(self, lengths: Tensor, width: int) -> Tensor:
        """Return where tokens are, bool[rows, width]."""
        places = torch.arange(width)
        if self.side == "left":
            return places >= width - lengths[:, None]
        return places < lengths[:, None]
