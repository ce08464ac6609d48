"""Batches as NumPy arrays, padded to the shapes of a plan: for JAX and any other array library."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright._ranks import place_of
from batchwright.batches import Entries
from batchwright.errors import (
    BudgetError,
    ColumnNotFoundError,
    LengthsError,
    MissingExtraError,
    PlanError,
)
from batchwright.layout import Layout
from batchwright.planner import Planner
from batchwright.plans import Plan
from batchwright.rank_batches import RankBatches
from batchwright.typing import Batch, Field, IntArray, State

Name: TypeAlias = str | int
"""A field of a sample: its key in a dict, its position in a tuple."""

Array: TypeAlias = npt.NDArray[Any]

_NO_NUMBERS = "OUSMm"
"""Kinds of types: objects (also whole numbers above 2**64), strings and dates."""

_LENGTHS, _SEGMENTS, _POSITIONS = "lengths", "segment_ids", "positions"


class Flat(NamedTuple):
    """Samples one after the other in one array, such as a memory map.

    Attributes:
        tokens: [total, …].
        offsets: integer[n + 1]. Sample i is ``tokens[offsets[i]:offsets[i + 1]]``.
    """

    tokens: Array
    offsets: npt.NDArray[np.integer[Any]]


def padded_batches(
    samples: Field,
    planner: Planner | Plan,
    *,
    pad: float | Mapping[Name, float] = 0,
    columns: Mapping[Name, int] | None = None,
    rank: int | None = None,
    world_size: int | None = None,
) -> "PaddedBatches":
    """Iterate over the batches of each epoch as NumPy arrays, padded to the shapes of the plan.

    A batch is like a sample: an array, a tuple or a dict. `lengths`, int32[rows], is a further key
    of a dict, else the last of a tuple: the tokens of each row, 0 for the empty rows by which
    `Buckets` fill a batch. Each pass goes through one epoch: call `set_epoch` before.

    Batches of `Packing` are one row as long as the capacity. In place of `lengths` they have
    `segment_ids`, int32[1, T], from 1 for the first document, 0 in gaps; and `positions`,
    int32[1, T], from 0 in each document.

    Args:
        samples: One sample for each length: a sequence of arrays [length, …], or of dicts or tuples
            of these, or what has ``__getitems__(indices)``. Or a dict, field → such a sequence. A
            `Flat`, or `FlatTokens` of torch, is read in one gather; others cost about a microsecond
            a sample. Types are kept.
        planner: A `Planner`: a new plan every epoch. Or one global `Plan`: the same every epoch.
        pad: What padding and empty rows hold: one value, or values by field; 0 for the others.
        columns: Field → its column of the lengths, for samples of several lengths: ``{"source": 0,
            "target": 1}``; `lengths` is then int32[rows, columns]. Fields that it does not name are
            stacked. None: every array of at least one dimension takes the only column.
        rank: This process, from 0. None: as `torch.distributed` says, if it is initialised.
        world_size: Processes, or devices, that get different batches. None: as `rank`.

    Raises:
        PlanError: If there is not one sample for each length; if the rank is not in the world, or a
            launcher started several processes and none is given; or if the plan packs rows of
            several columns.
        LengthsError: When iterated, if samples are longer than planned, or no numbers.
        ColumnNotFoundError: When iterated, if it is not known which column a field takes, or
            samples differ in their fields.
        BudgetError: When iterated, if a field cannot hold what it is padded with.

    Example:
        >>> samples = [np.arange(1, n + 1) for n in (3, 1, 2)]
        >>> for tokens, lengths in padded_batches(samples, Planner([3, 1, 2], max_tokens=4)):
        ...     print(tokens.tolist(), lengths.tolist())
        [[1, 2, 3]] [3]
        [[1, 2], [1, 0]] [2, 1]
    """
    return PaddedBatches(
        samples, planner, pad, columns, place_of(rank, world_size, "padded_batches")
    )


class PaddedBatches:
    """What `padded_batches` returns: one rank's batches of an epoch, in each pass.

    It is saved and loaded like a `PlanLoader`, also on another number of ranks.
    """

    def __init__(
        self,
        samples: Field,
        planner: Planner | Plan,
        pad: float | Mapping[Name, float],
        columns: Mapping[Name, int] | None,
        place: tuple[int, int],
    ) -> None:
        self._samples, self._pad, self._columns = samples, pad, columns
        self._ranked = RankBatches(planner, place)
        _check_size(samples, planner)

    def __len__(self) -> int:
        """Count this rank's batches of a whole epoch, also while one is resumed in its middle."""
        return len(self._ranked)

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over what is left of the epoch."""
        return self._passing()

    def __repr__(self) -> str:
        rank, world_size = self._ranked.rank, self._ranked.world_size
        return (
            f"PaddedBatches({len(self)} batches an epoch, epoch {self.epoch}, rank {rank} of "
            f"{world_size})"
        )

    @property
    def epoch(self) -> int:
        """The epoch of the next pass."""
        return self._ranked.epoch

    @property
    def plan(self) -> Plan:
        """The plan of the epoch, whole and of all ranks."""
        return self._ranked.plan

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; a state of another one is then forgotten."""
        self._ranked.set_epoch(epoch)

    def state_dict(self) -> State:
        """Return how far the loop is: a few hundred bytes, the same on every rank.

        JSON can keep it. Save it at the end of an update. Where something takes batches ahead of
        the loop, such as a prefetching iterator, count those that were trained: `state_after`.
        """
        return self._ranked.state_dict()

    def state_after(self, consumed: int) -> State:
        """Return the state once so many batches of the present pass were consumed."""
        return self._ranked.state_after(consumed)

    def load_state_dict(self, state: State, *, planned_by: Planner | Plan | None = None) -> None:
        """Make the next pass go on where a state was saved, in that state's epoch.

        The number of ranks, and the budget, may be others; see `PlanBatchSampler`. Of an epoch that
        was over, it goes on with the next one.
        """
        self._ranked.load_state_dict(state, planned_by)

    def _passing(self, *, is_ahead: bool = False) -> Iterator[Batch]:
        """Iterate; with `is_ahead` for a reader that takes batches ahead of the loop."""
        ranked, count = self._ranked, 0
        if ranked.is_spent and not ranked.is_alike:
            warnings.warn(
                f"epoch {self.epoch} is repeated, with the same batches. Call set_epoch(epoch) "
                "before each epoch; or, where the same batches are wanted, give one plan, "
                "planner(0), in place of the planner.",
                stacklevel=2,
            )
        ranked.begin()
        left, number = ranked.left, ranked.passes
        for block in left.batches.blocks():
            for place in range(len(block)):
                batch = self._collated(block.batch(place), left.layout).batch()
                count += 1
                ranked.took(count, number, is_ahead=is_ahead)
                yield batch

    def _first(self) -> "_Collated":
        """Collate the first sample of the epoch alone."""
        samples, starts = self.plan.batches.batch(0)
        one = Entries(samples[:1], None if starts is None else starts[:1])
        return self._collated(one, self.plan.layout)

    def _collated(self, entries: Entries, layout: Layout) -> "_Collated":
        return _collated(self._samples, entries, layout, self._pad, self._columns)


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
    return _collated(samples, entries, layout, pad, columns).batch()


def tf_dataset(batches: PaddedBatches) -> Field:
    """Return a `tf.data.Dataset` of the same batches, which needs no Keras.

    Each pass has the epoch that `batches` is in when it begins. It takes batches ahead of the loop:
    save ``batches.state_after(count)``.

    Raises:
        MissingExtraError: If TensorFlow is not installed.
    """
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        raise MissingExtraError("tf_dataset needs TensorFlow: pip install tensorflow.") from error

    first = batches._first()  # noqa: SLF001
    shapes = batches.plan.layout.shapes or ()
    is_fixed = first.is_packed or len(shapes) == 1  # the only shapes

    def spec(name: Name, array: Array) -> Field:
        varying = 0 if is_fixed else 2 if name in first.sequences else 1
        shape = [None] * varying + list(array.shape[varying:])
        return tf.TensorSpec(shape, tf.as_dtype(array.dtype))

    def passing() -> Iterator[Batch]:
        for batch in batches._passing(is_ahead=True):  # noqa: SLF001
            for name, one in first.arrays.items():
                if not np.can_cast(batch[name].dtype, one.dtype):  # TensorFlow casts in any case
                    raise LengthsError(
                        f"field {name!r} is {batch[name].dtype} in a batch, and {one.dtype} in the "
                        "first sample. Give all samples arrays of one type."
                    )
            yield batch

    signature = first.like({name: spec(name, array) for name, array in first.arrays.items()})
    return tf.data.Dataset.from_generator(passing, output_signature=signature).prefetch(1)


def _check_size(samples: Field, planner: Planner | Plan) -> None:
    """Raise `PlanError` unless there is one sample for each length, as far as that is known."""
    planned = planner.num_samples if isinstance(planner, Planner) else planner.origin.num_samples
    columns = samples if isinstance(samples, Mapping) else {"": samples}
    for name, column in columns.items():
        of = f" in field {name!r}" if isinstance(samples, Mapping) else ""
        if isinstance(column, Flat):
            column = _offsets(column)[1:]  # noqa: PLW2901 (one for each sample)
        elif not hasattr(column, "__getitem__") and not hasattr(column, "__getitems__"):
            raise PlanError(
                f"the samples{of} are a {type(column).__name__}, which nobody can ask for those of "
                "a batch. Give a sequence, such as a list."
            )
        try:
            size = len(column)
        except Exception:  # noqa: BLE001, S112 (a data set may say in any way that it does not know)
            continue
        if planned not in {None, size}:
            raise PlanError(
                f"there are {planned} lengths, and {size} samples{of}. Plan with one length for "
                "each sample, after every filter."
            )


def _offsets(flat: Flat) -> npt.NDArray[np.integer[Any]]:
    offsets = flat.offsets
    if not isinstance(offsets, np.ndarray) or offsets.ndim != 1 or offsets.dtype.kind not in "iu":
        raise LengthsError(
            f"Flat has offsets of type {type(offsets).__name__}, expected an array of integers, "
            "one more than there are samples: np.append(0, np.cumsum(lengths))."
        )
    return offsets


class _Collated(NamedTuple):
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


class _Rows(NamedTuple):
    """The rows of a field, one after the other."""

    values: Array  # [total, …]
    lengths: IntArray  # int64[b]


def _collated(
    samples: Field,
    entries: Entries,
    layout: Layout,
    pad: float | Mapping[Name, float],
    columns: Mapping[Name, int] | None,
) -> _Collated:
    fields, is_named = _fields(samples, entries.samples)
    unknown = [name for name in pad if name not in fields] if isinstance(pad, Mapping) else []
    if unknown:
        raise ColumnNotFoundError(f"pad has {unknown}, and samples have the fields {[*fields]}.")
    column_of = _columns(fields, layout, columns)
    rows = {
        name: _cut(fields[name], name, entries.starts, _most(layout, column))
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
            values = _stacked(field, name)
            arrays[name] = _full((count, *values.shape[1:]), value, values.dtype, name)
            arrays[name][: len(values)] = values
    if is_named:
        arrays = {**arrays, **{name: each for name, each in extras.items() if name not in arrays}}
    else:
        arrays |= {len(arrays) + place: each for place, each in enumerate(extras.values())}
    return _Collated(arrays, frozenset(rows), is_named, is_packed)


def _fields(samples: Field, indices: IntArray) -> tuple[dict[Name, Field], bool]:
    """Return what the samples of a batch have of each field, and whether fields have names."""
    if isinstance(samples, Mapping):
        return {name: _taken(column, indices) for name, column in samples.items()}, True
    taken = _taken(samples, indices)
    if hasattr(taken, "fields") and hasattr(taken, "columns"):  # of FlatTokens, not yet read
        rows = {
            name: _Rows(np.asarray(each.tokens[_runs(each.starts, each.lengths)]), each.lengths)
            for name, each in taken.fields.items()
        }
        return {**rows, **taken.columns}, True
    if isinstance(taken, np.ndarray | _Rows):
        return {0: taken}, False
    taken = list(taken)
    first = taken[0]
    if isinstance(first, Mapping):
        _check_alike([each.keys() for each in taken], indices)
        return {name: [each[name] for each in taken] for name in first}, True
    if isinstance(first, tuple):
        _check_alike([len(each) for each in taken], indices)
        return {number: [each[number] for each in taken] for number in range(len(first))}, False
    return {0: taken}, False


def _check_alike(fields: list[Any], indices: IntArray) -> None:
    """Raise `ColumnNotFoundError` unless all samples have the fields of the first."""
    for number, each in zip(indices, fields, strict=True):
        if each != fields[0]:
            one, other = (each if isinstance(each, int) else [*each] for each in (fields[0], each))
            raise ColumnNotFoundError(
                f"sample {indices[0]} has the fields {one}, and sample {number} {other}. Give all "
                "the same."
                if isinstance(other, list)
                else f"sample {indices[0]} is a tuple of {one} fields, and sample {number} of "
                f"{other}. Give all as many; or, if a tuple is a row of tokens, make it a list."
            )


def _taken(column: Field, indices: IntArray) -> Field:
    """Return the rows of a field: as `_Rows`, an array, or a list."""
    if isinstance(column, Flat):
        begins = column.offsets[indices].astype(np.int64)
        lengths = column.offsets[indices + 1].astype(np.int64) - begins
        return _Rows(np.asarray(column.tokens[_runs(begins, lengths)]), lengths)
    if isinstance(column, np.ndarray) and column.dtype != object:
        return column[indices]
    many = getattr(column, "__getitems__", None)
    numbers = indices.tolist()
    return many(numbers) if many is not None else [column[number] for number in numbers]


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
    found = [name for name, field in fields.items() if _is_sequence(field)]
    if not found:
        raise LengthsError(f"none of the fields {list(fields)} is an array [length, …].")
    return dict.fromkeys(found, 0)


def _is_sequence(field: Field) -> bool:
    if isinstance(field, _Rows):
        return True
    if isinstance(field, np.ndarray):
        return field.ndim > 1
    return isinstance(field[0], list) or getattr(field[0], "ndim", 0) > 0


def _most(layout: Layout, column: int) -> int | None:
    most = layout.max_length
    return most[column] if isinstance(most, tuple) else most


def _cut(field: Field, name: Name, starts: IntArray | None, most: int | None) -> _Rows:
    """Return the rows of a field one after the other, cut as the plan says."""
    if isinstance(field, np.ndarray):
        lengths = np.full(len(field), field.shape[1], dtype=np.int64)
        rows = _Rows(field.reshape(-1, *field.shape[2:]), lengths)
    elif isinstance(field, _Rows):
        rows = field
    else:
        try:
            each = [np.asarray(row) for row in field]
            lengths = np.array([len(row) for row in each], dtype=np.int64)
            filled = [row for row in each if len(row)] or each[:1]  # [] has no type of its own
            rows = _Rows(_numbers(np.concatenate(filled)), lengths)
        except (TypeError, ValueError) as error:
            raise LengthsError(
                f"field {name!r} cannot be laid out as one array ({error}). Rows may differ in "
                "their first dimension only. Name the fields that are padded: columns={field: 0}."
            ) from error
    if starts is None and (most is None or not (rows.lengths > most).any()):
        return rows
    ends = np.cumsum(rows.lengths)
    begins = ends - rows.lengths + (0 if starts is None else starts)
    lengths = np.minimum(ends - begins, np.iinfo(np.int64).max if most is None else most)
    if (lengths < 0).any():
        raise PlanError(f"field {name!r} ends before a piece begins. Plan with its lengths.")
    return _Rows(rows.values[_runs(begins, lengths)], lengths)


def _numbers(values: Array) -> Array:
    if values.dtype.kind in _NO_NUMBERS:
        raise TypeError(f"of type {values.dtype}")
    return values


def _lengths(rows: Mapping[Name, _Rows], column_of: Mapping[Name, int]) -> IntArray:
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
    places = _runs(begins, sizes)
    segments, positions = np.zeros((2, 1, width), dtype=np.int32)
    segments[0, places] = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    positions[0, places] = _runs(np.zeros_like(sizes), sizes)
    return {0: segments > 0}, {_SEGMENTS: segments, _POSITIONS: positions}


def _runs(begins: IntArray, lengths: IntArray) -> IntArray:
    """Count on from each of some places: int64[total]."""
    before = np.cumsum(lengths) - lengths
    counted: IntArray = np.arange(int(lengths.sum())) + np.repeat(begins - before, lengths)
    return counted


def _inside(lengths: IntArray, count: int, width: int) -> npt.NDArray[np.bool_]:
    """Return where tokens are, bool[count, width]."""
    where = np.zeros((count, width), dtype=np.bool_)
    where[: len(lengths)] = np.arange(width) < lengths[:, None]
    return where


def _stacked(field: Field, name: Name) -> Array:
    """Return what samples have of a field as one array, [b, …]."""
    try:
        made = np.asarray(field)
    except ValueError:
        made = np.empty(0, dtype=object)
    if made.dtype.kind in _NO_NUMBERS:
        raise LengthsError(
            f"field {name!r} holds no numbers of one shape in each sample. Leave it out, or if it "
            "is padded name its column: columns={field: column, …}."
        )
    return made


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
