"""Batches as rows, padded to the longest."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from batchwright.checks import check_choice, check_positive
from batchwright.errors import BudgetError, ColumnNotFoundError
from batchwright.layout import Shape
from batchwright.torch.data.fields import Name, columns_of, flattened, is_sequence
from batchwright.torch.data.stacking import (
    LABEL_IGNORE,
    Padding,
    Pads,
    PadValue,
    assembled,
    checked_pads,
    chosen_field,
    filled,
    filled_up,
    stacked,
)
from batchwright.typing import IntArray

__all__ = ["LABEL_IGNORE", "PadCollator", "PadValue"]

_Flat: TypeAlias = tuple[Tensor, IntArray]
"""The rows of a field one after the other, [total, …], and the length of each."""


@dataclass(frozen=True)
class PadCollator:
    """Pads the sequences of a batch to the longest, and stacks everything else.

    Each field is padded on its own, so that source and target may differ in length. A field
    counts as a sequence if it is a list, or an array or tensor of at least one dimension; it is
    padded along its first. Numbers are stacked, anything else (a string, None) stays a list.
    Integers become int64; other types stay.

    What else is done to sequences, `pad_to_multiple_of`, `max_length` and `shapes`, is for tokens
    and frames, not for what has a fixed size. By their type, so that it is the same in every
    batch, these are: lists of whole numbers or booleans, everything [length, features], and
    otherwise a sample's only sequence, or the first if it is of one dimension and no other is one
    of these. So floats of one dimension (an embedding, several labels a sample) and images beside
    tokens keep their size. Say it where it is otherwise: `sequences`.

    Args:
        pad: What sequences are filled up with: one value for all, a mapping by name, or for
            tuples one value for each position. Fields not named get 0. Unless they are named,
            labels (`labels`, `label`, `label_ids`) always get -100, which torch's `cross_entropy`
            leaves out, an `attention_mask` 0 and booleans False. As nothing in booleans says what
            is padding, give the batch their `lengths` or an `attention_mask`.
        side: Where padding goes: ``"right"``, or ``"left"`` as models that generate want it, in all
            fields and in the attention mask. Positions are then ``attention_mask.cumsum(1) - 1``.
        pad_to_multiple_of: Rows are padded to a multiple of this, as in `TokenBudget`.
        max_length: Longer sequences are cut, as a plan with ``oversize="truncate"`` expects:
            ``plan.layout.max_length``. Of several columns, a length for each.
        shapes: (rows, length) of the only shapes there may be: ``plan.layout.shapes`` of
            `Buckets`. Sequences are padded to the first that fits the longest of them, and empty
            rows fill the batch up: padding in sequences, -100 in labels, else 0. Of several
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
        """Check the settings."""
        keep = object.__setattr__  # as plain dicts and tuples, which can be pickled
        keep(self, "pad", checked_pads(self.pad, "PadCollator"))
        if isinstance(self.max_length, list):
            keep(self, "max_length", tuple(self.max_length))
        check_choice("PadCollator", "side", self.side, ("right", "left"))
        if self.pad_to_multiple_of is None:
            message = "PadCollator(pad_to_multiple_of=None): expected at least 1."
            raise BudgetError(message)
        limits = self.max_length if isinstance(self.max_length, tuple) else (self.max_length,)
        for limit in limits:
            check_positive("PadCollator", max_length=limit)
        check_positive("PadCollator", pad_to_multiple_of=self.pad_to_multiple_of)
        for option in ("attention_mask", "lengths"):
            value = getattr(self, option)
            if not isinstance(value, bool | str | int):
                message = f"PadCollator({option}={value!r}): expected True, False or a field."
                raise BudgetError(message)
        if self.sequences is not None:
            given = self.sequences
            keep(self, "sequences", (given,) if isinstance(given, str | int) else tuple(given))
        keep(self, "shapes", _checked_shapes(self.shapes))
        self._check_columns()

    def _check_columns(self) -> None:
        if self.columns is not None:
            if not isinstance(self.columns, Mapping):
                message = f"PadCollator(columns={self.columns!r}): expected a dict, field → column."
                raise BudgetError(message)
            object.__setattr__(self, "columns", dict(self.columns))
        widths = {np.size(length) for _, length in self.shapes or ()}
        if isinstance(self.max_length, tuple):
            widths.add(len(self.max_length))
        if len(widths) > 1:
            message = (
                f"PadCollator(shapes={self.shapes}, max_length={self.max_length}): expected as "
                "many columns in all of them."
            )
            raise BudgetError(message)
        if self.columns is None or not widths:
            return
        named = {each for each in self.columns.values() if each is not None}
        if named != set(range(max(widths))):
            message = (
                f"PadCollator(columns={dict(self.columns)}): expected each column of shapes="
                f"{self.shapes} and max_length={self.max_length} from 0 on, and no other."
            )
            raise BudgetError(message)

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Collate the samples of one batch."""
        columns = columns_of(samples)
        padding = Padding.of(self.pad, list(columns), "PadCollator")
        rows_of = {name: rows for name, rows in columns.items() if any(map(is_sequence, rows))}
        laid_out = {name: flattened(rows, name) for name, rows in rows_of.items()}
        column_of = self._columns(laid_out)
        for name, column in column_of.items():
            limit = self._limit(column)
            if limit is not None and laid_out[name][1].max() > limit:
                laid_out[name] = flattened([row[:limit] for row in rows_of[name]], name)
        rows_of_all, widths = self._shape(laid_out, column_of, len(samples))
        batch: dict[Any, Any] = {}
        lengths: dict[Any, Tensor] = {}
        for name, rows in columns.items():
            if name in laid_out:
                flat, sizes = laid_out[name]
                pad = padding.for_field(name, flat.dtype)
                batch[name] = self._padded(flat, sizes, name, pad, widths[name])
                lengths[name] = torch.from_numpy(sizes)
            else:
                batch[name] = stacked(rows, name)
            if rows_of_all is not None:
                empty = rows_of_all - len(samples)
                batch[name] = filled_up(batch[name], empty, padding, name, "PadCollator")
                if name in lengths:
                    no_tokens = lengths[name].new_zeros(empty)
                    lengths[name] = torch.cat([lengths[name], no_tokens])
        extras: dict[str, Tensor] = {}
        first = [*column_of, *lengths][:1]
        if self.attention_mask is not False:
            chosen = _chosen(self.attention_mask, lengths, "attention_mask", first)
            inside = self._inside(lengths[chosen], batch[chosen].shape[1])
            extras["attention_mask"] = inside.to(torch.int64)
        if self.lengths is not False:
            extras["lengths"] = lengths[_chosen(self.lengths, lengths, "lengths", first)]
        return assembled(samples[0], batch, extras)

    def _columns(self, laid_out: Mapping[Any, _Flat]) -> dict[Any, int]:
        """Return the column of the lengths that each sequence has, in the fields' order."""
        names = self._sequences(laid_out)
        wide = isinstance(self.max_length, tuple)
        if not wide and self.shapes is None:
            return dict.fromkeys(names, 0)
        num_columns = (
            len(self.max_length)
            if isinstance(self.max_length, tuple)
            else max(np.size(length) for _, length in self.shapes or ())
        )
        if self.columns is None and num_columns == 1:
            return dict.fromkeys(names, 0)
        if self.columns is None:
            names = names if len(names) == num_columns else list(laid_out)
            if len(names) != num_columns:
                message = (
                    f"samples have the sequences {names}, and shapes or max_length {num_columns} "
                    "columns. Say which belongs to which: columns={name: column, …}."
                )
                raise ColumnNotFoundError(message)
            return {name: column for column, name in enumerate(names)}
        if not set(names) <= set(self.columns) <= set(laid_out):
            message = (
                f"PadCollator(columns={dict(self.columns)}): samples have the sequences {names}. "
                "Name all of them and nothing else; None is for one padded to its own longest."
            )
            raise ColumnNotFoundError(message)
        own = {name: -1 for name, column in self.columns.items() if column is None}
        return {name: column for name, column in self.columns.items() if column is not None} | own

    def _sequences(self, laid_out: Mapping[Any, _Flat]) -> list[Any]:
        """Return the fields that are rounded, cut and brought into shape."""
        if self.sequences is not None:
            for name in self.sequences:
                if name not in laid_out:
                    message = (
                        f"PadCollator(sequences={self.sequences}): {name!r} is no sequence of the "
                        f"samples, they have {list(laid_out)}. Name those."
                    )
                    raise ColumnNotFoundError(message)
            return [name for name in laid_out if name in self.sequences]
        flat = {name: values for name, (values, _) in laid_out.items() if values.ndim <= 2}
        first = next(iter(flat), None)
        named = [each for each in (self.attention_mask, self.lengths) if not isinstance(each, bool)]
        names = [
            name
            for name in laid_out
            if name in named
            or (name in flat and (name == first or flat[name].ndim == 2 or _is_whole(flat[name])))
        ]
        if self.pad_to_multiple_of > 1 or self.max_length is not None or self.shapes is not None:
            self._refuse_doubt(laid_out, names)
        return names

    def _refuse_doubt(self, laid_out: Mapping[Any, _Flat], names: list[Any]) -> None:
        """Raise if a field that keeps its size goes along with a sequence after all."""
        if laid_out and not names:
            message = (
                f"none of the fields {list(laid_out)} is a sequence of tokens or frames by its "
                "type. Name those that are to be rounded, cut or brought into shape: "
                "PadCollator(sequences=[…]), or [] if there is none."
            )
            raise ColumnNotFoundError(message)
        known = {*names, *(self.columns or ())}
        for name, (values, sizes) in laid_out.items():
            for other in names:
                as_long = np.array_equal(sizes, laid_out[other][1])
                if name not in known and as_long and sizes.min() < sizes.max():
                    message = (
                        f"field {name!r} is as long as {other!r} in each sample, but {values.dtype}"
                        f" of {values.ndim} dimensions keep their size. Name what is rounded, cut "
                        f"and brought into shape: PadCollator(sequences={[*names, name]})."
                    )
                    raise ColumnNotFoundError(message)

    def _limit(self, column: int) -> int | None:
        if not isinstance(self.max_length, tuple):
            return self.max_length
        return self.max_length[column] if column >= 0 else None

    def _shape(
        self, laid_out: Mapping[Any, _Flat], column_of: Mapping[Any, int], num_samples: int
    ) -> tuple[int | None, dict[Any, int]]:
        """Return the rows of the batch, if they are fixed, and how wide each field is to be."""
        widths = {name: max(1, int(sizes.max())) for name, (_, sizes) in laid_out.items()}
        if self.shapes is None:
            multiple = self.pad_to_multiple_of
            return None, widths | {
                name: -(-widths[name] // multiple) * multiple for name in column_of
            }
        shapes = [(rows, np.atleast_1d(length).tolist()) for rows, length in self.shapes]
        longest = [0] * len(shapes[0][1])
        for name, column in column_of.items():
            if column >= 0:
                longest[column] = max(longest[column], int(laid_out[name][1].max()))
        for rows, lengths in shapes:
            fits = all(length >= each for length, each in zip(lengths, longest, strict=True))
            if fits and rows >= num_samples:
                fixed = {name: lengths[column] for name, column in column_of.items() if column >= 0}
                return rows, widths | fixed
        message = (
            f"{num_samples} samples of up to {' and '.join(map(str, longest))} tokens fit into "
            f"none of the shapes {list(self.shapes)}. Take those of the plan: plan.layout.shapes."
        )
        raise BudgetError(message)

    def _padded(
        self, flat: Tensor, sizes: IntArray, name: Name, pad: PadValue, width: int
    ) -> Tensor:
        padded = filled((len(sizes), width, *flat.shape[1:]), pad, flat.dtype, name)
        padded[self._inside(torch.from_numpy(sizes), width)] = flat.to(padded.dtype)
        return padded

    def _inside(self, lengths: Tensor, width: int) -> Tensor:
        """Tell tokens from padding, bool[rows, width]."""
        places = torch.arange(width)
        if self.side == "left":
            return places >= width - lengths[:, None]
        return places < lengths[:, None]


def _is_whole(values: Tensor) -> bool:
    """Whether values are whole numbers or booleans."""
    return not (values.is_floating_point() or values.is_complex())


def _checked_shapes(shapes: Any) -> Any:
    """Return shapes as a tuple; raise unless they are (rows, length) each."""
    if shapes is None:
        return None
    try:
        pairs = tuple((rows, length) for rows, length in shapes)
        good = all(np.ndim(rows) == 0 and np.min(length) >= 1 for rows, length in pairs)
    except (TypeError, ValueError):
        pairs, good = (), False
    if not pairs or not good:
        message = (
            f"PadCollator(shapes={shapes!r}): expected one or more (rows, length), "
            "plan.layout.shapes."
        )
        raise BudgetError(message)
    return pairs


def _chosen(
    name: bool | Name,  # noqa: FBT001
    lengths: Mapping[Any, Tensor],
    option: str,
    first: Sequence[Any],
) -> Any:
    if name is True and first:
        return first[0]
    return chosen_field(name, lengths, f"PadCollator({option}", "sequences")
