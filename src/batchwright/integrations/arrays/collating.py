"""One batch as arrays, padded to a shape of the plan or packed into a row."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from batchwright.batches import Entries
from batchwright.batching.cut import ranges
from batchwright.errors import BudgetError, ColumnNotFoundError, LengthsError, PlanError
from batchwright.integrations.arrays.reading import (
    Array,
    Name,
    Rows,
    fields_of,
    is_sequence,
    rows_of,
    stacked,
)
from batchwright.layout import Layout
from batchwright.typing import Batch, Field, IntArray

_LENGTHS, _SEGMENTS, _POSITIONS = "lengths", "segment_ids", "positions"


class Collated(NamedTuple):
    """The arrays of a batch by field, and what they were made of."""

    arrays: dict[Name, Array]
    sequences: frozenset[Name]  # those of which the first two axes vary
    is_named: bool  # samples are dicts
    is_packed: bool

    def like(self, values: Mapping[Name, Field]) -> Batch:
        """Return values of all fields as a dict or a tuple, like a sample."""
        return dict(values) if self.is_named else tuple(values.values())

    def batch(self) -> Batch:
        """Return the batch."""
        return self.like(self.arrays)


def padded(
    samples: Field,
    indices: npt.ArrayLike,
    layout: Layout,
    *,
    starts: IntArray | None = None,
    pad: float | Mapping[Name, float] = 0,
    columns: Mapping[Name, int] | None = None,
) -> Batch:
    """Return one batch as `padded_batches` does.

    Args:
        samples: As there.
        indices: int64[b], the samples of the batch.
        layout: Of the plan: ``plan.layout``.
        starts: int64[b], where in its sample each row begins, if the plan splits samples.
        pad: As there.
        columns: As there.

    Example:
        >>> from batchwright import plan
        >>> made = plan([3, 1, 2], max_tokens=6)
        >>> tokens, lengths = padded([[5, 6, 7], [8], [9, 9]], [0, 1], made.layout, pad=-1)
        >>> tokens.tolist(), lengths.tolist()
        ([[5, 6, 7], [8, -1, -1]], [3, 1])
    """
    entries = Entries(np.asarray(indices, dtype=np.int64), starts)
    return collated(samples, entries, layout, pad, columns).batch()


def collated(
    samples: Field,
    entries: Entries,
    layout: Layout,
    pad: float | Mapping[Name, float],
    columns: Mapping[Name, int] | None,
) -> Collated:
    """Read the samples of one batch, and lay them out."""
    fields, is_named = fields_of(samples, entries.samples)
    unknown = [name for name in pad if name not in fields] if isinstance(pad, Mapping) else []
    if unknown:
        raise ColumnNotFoundError(f"pad has {unknown}, and samples have the fields {[*fields]}.")
    column_of = _columns(fields, layout, columns)
    rows = {
        name: rows_of(fields[name], name, entries.starts, _most(layout, column))
        for name, column in column_of.items()
    }
    lengths = _lengths(rows, column_of)
    is_packed = layout.kind == "packed"
    if is_packed:
        place, extras = _packed(layout, lengths)
        count = 1
    else:
        count, widths = _shape(layout, lengths)
        place = {column: _inside(lengths[:, column], count, widths[column]) for column in widths}
        made = np.zeros((count, lengths.shape[1]), dtype=np.int32)
        made[: len(lengths)] = lengths
        extras = {_LENGTHS: made if lengths.shape[1] > 1 else made[:, 0]}
    arrays: dict[Name, Array] = {}
    for name, field in fields.items():
        value = pad.get(name, 0) if isinstance(pad, Mapping) else pad
        if name in rows:
            values, where = rows[name].values, place[column_of[name]]
            arrays[name] = _full((*where.shape, *values.shape[1:]), value, values.dtype, name)
            arrays[name][where] = values
        elif is_packed:
            raise ColumnNotFoundError(
                f"field {name!r} has one entry a document, for which a packed row has no place. "
                "Leave it out, or give it one entry a token."
            )
        else:
            values = stacked(field, name)
            arrays[name] = _full((count, *values.shape[1:]), value, values.dtype, name)
            arrays[name][: len(values)] = values
    if is_named:
        arrays = {**arrays, **{name: each for name, each in extras.items() if name not in arrays}}
    else:
        arrays |= {len(arrays) + place: each for place, each in enumerate(extras.values())}
    return Collated(arrays, frozenset(rows), is_named, is_packed)


def _columns(
    fields: Mapping[Name, Field], layout: Layout, columns: Mapping[Name, int] | None
) -> dict[Name, int]:
    """Return the column of the lengths that each sequence takes."""
    shapes, caps = layout.shapes, layout.caps
    num_columns = len(caps) if caps is not None else np.size(shapes[0][1]) if shapes else None
    if columns is not None:
        taken = sorted(set(columns.values()))
        if taken != list(range(num_columns or len(taken))) or not set(columns) <= set(fields):
            raise ColumnNotFoundError(
                f"columns={dict(columns)}: samples have the fields {list(fields)}, and lengths "
                f"{num_columns or 'as many'} columns. Name a field for each column from 0 on."
            )
        return dict(columns)
    if (num_columns or 1) > 1:
        raise ColumnNotFoundError(
            f"samples have the fields {list(fields)}, and lengths {num_columns} columns. Say which "
            "belongs to which: columns={field: column, …}."
        )
    found = [name for name, field in fields.items() if is_sequence(field)]
    if not found:
        raise LengthsError(f"none of the fields {list(fields)} is an array [length, …].")
    return dict.fromkeys(found, 0)


def _most(layout: Layout, column: int) -> int | None:
    most = layout.max_length
    return most[column] if isinstance(most, tuple) else most


def _lengths(rows: Mapping[Name, Rows], column_of: Mapping[Name, int]) -> IntArray:
    """Return the lengths of the samples in each column, int64[b, k]."""
    found: dict[int, tuple[Name, IntArray]] = {}
    for name, (_, lengths) in rows.items():
        first, known = found.setdefault(column_of[name], (name, lengths))
        differ = np.flatnonzero(known != lengths)
        if differ.size:
            raise ColumnNotFoundError(
                f"sample {differ[0]} of the batch has {lengths[differ[0]]} entries in {name!r}, "
                f"and {known[differ[0]]} in {first!r}. Name the fields that are padded, and the "
                "column of the lengths that each takes: columns={field: column, …}."
            )
    return np.stack([found[column][1] for column in sorted(found)], axis=1)


def _shape(layout: Layout, lengths: IntArray) -> tuple[int, dict[int, int]]:
    """Return the rows of a padded batch, and how wide each column is."""
    longest = np.maximum(layout.rounded(lengths.max(axis=0)), 1)
    if layout.shapes is None:
        limits, row = layout.limits, longest if layout.caps else layout.areas(longest[None])
        if limits is not None and (len(lengths) * row > limits).any():
            raise LengthsError(
                f"{len(lengths)} samples of up to {' and '.join(map(str, longest))} tokens exceed "
                f"the plan's budget of {layout.limits}. Plan with the lengths of these samples."
            )
        return len(lengths), dict(enumerate(longest.tolist()))
    for count, sides in layout.shapes:
        widths = np.atleast_1d(sides)
        if count >= len(lengths) and (widths >= longest).all():
            return count, dict(enumerate(widths.tolist()))
    raise LengthsError(
        f"{len(lengths)} samples of up to {' and '.join(map(str, longest))} tokens fit into none "
        f"of the plan's shapes {list(layout.shapes)}. Plan with the lengths of these samples."
    )


def _packed(
    layout: Layout, lengths: IntArray
) -> tuple[dict[int, npt.NDArray[np.bool_]], dict[str, Array]]:
    """Return where tokens are in a packed row, and its segment ids and positions."""
    if layout.caps is not None or lengths.shape[1] > 1:
        raise PlanError(
            "the plan packs several columns, and a packed row here has one. Pack one column; or "
            "use PackCollator(columns=…), of batchwright.torch."
        )
    sizes = lengths[:, 0]
    ends = np.cumsum(layout.rounded(sizes))
    begins = np.append(0, ends[:-1])
    width = int(ends[-1]) if layout.budget is None else layout.budget
    if ends[-1] > width:
        raise LengthsError(
            f"{len(sizes)} documents take {ends[-1]} tokens, more than the capacity of {width}. "
            "Plan with the lengths of these samples."
        )
    places = ranges(begins, sizes)
    segments, positions = np.zeros((2, 1, width), dtype=np.int32)
    segments[0, places] = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    positions[0, places] = ranges(np.zeros_like(sizes), sizes)
    return {0: segments > 0}, {_SEGMENTS: segments, _POSITIONS: positions}


def _inside(lengths: IntArray, count: int, width: int) -> npt.NDArray[np.bool_]:
    """Return where tokens are, bool[count, width]."""
    where = np.zeros((count, width), dtype=np.bool_)
    where[: len(lengths)] = np.arange(width) < lengths[:, None]
    return where


def _full(shape: tuple[int, ...], value: float, dtype: Any, name: Name) -> Array:
    try:
        with np.errstate(all="ignore"):
            held = np.full((), value, dtype=dtype)
        is_held = held.dtype.kind not in "biu" and np.isfinite(held) == np.isfinite(value)
        is_held = is_held or held.item() == value
    except (OverflowError, ValueError, TypeError):
        is_held = False
    if not is_held:
        raise BudgetError(f"field {name!r} is {dtype}, and cannot hold pad={value!r}.")
    return np.full(shape, value, dtype=dtype)
