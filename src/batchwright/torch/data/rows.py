"""The rows of a batch: counted, selected, and cut in two.

A batch is a tensor, or a dict, tuple, list or dataclass of fields, nested in any way. A field has
rows if it is a tensor or array with the rows in dimension 0, or a list or tuple with one entry a
row. Numbers, strings, None, tensors without dimensions, and lists of these of another length belong
to the batch as a whole. A list whose tensors all have the batch's rows holds fields. A list that is
the batch itself holds fields if it holds tensors, as a `DataLoader` makes it, else rows. A batch
that can be read in two ways, or in none, is refused with the field's name: then pass `split=`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from numbers import Number
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from batchwright.errors import UpdateError
from batchwright.torch.data.documents import cut_documents, is_packed
from batchwright.torch.data.trees import (
    is_named_tuple,
    leaves_of,
    like,
    name_of,
    parts_of,
    tensors_of,
)
from batchwright.typing import Batch, Field

Rows: TypeAlias = slice | Sequence[int] | Tensor
"""Rows of a batch: a slice, or their numbers in any order, repeated ones allowed."""

Split: TypeAlias = Callable[[Batch], tuple[Batch, Batch]]
"""Cuts a batch in two: batch → (first half, second half)."""

_ADVICE = "Pass split= to the update for batches of this kind, or leave the field out."


def halves(batch: Batch) -> tuple[Field, Field]:
    """Cut a batch in two along its rows; one packed row, between two documents.

    The parts are of the same kind, and their tensors share memory with the batch. UpdateError if it
    has a single row or document, or its rows are unknown.
    """
    if is_packed(batch):
        parts = cut_documents(batch)
        if parts is None:
            raise UpdateError("a packed row of a single document cannot be split.")
        return parts
    rows = count_rows(batch)
    if rows < 2:
        raise UpdateError(f"a batch of {'a single row' if rows else 'no rows'} cannot be split.")
    middle = rows // 2
    return select_rows(batch, slice(0, middle)), select_rows(batch, slice(middle, rows))


def checked(split: Split) -> Split:
    """Make a user's split raise `UpdateError` for errors, and for parts as large as the batch."""

    def cut(batch: Batch) -> tuple[Field, Field]:
        try:
            first, second = split(batch)
        except UpdateError:
            raise
        except Exception as error:
            raise UpdateError(f"split= raised {type(error).__name__}: {error}") from error
        whole = size(batch)
        if whole is not None and whole in {size(first), size(second)}:
            raise UpdateError("split= returned a part that is no smaller than the batch.")
        return first, second

    def size(batch: Batch) -> int | None:
        tensors = tensors_of(batch)
        return sum(each.numel() for each in tensors) if tensors else num_rows(batch)

    return cut


def num_rows(batch: Batch) -> int | None:
    """Return how many rows a batch has; None where `count_rows` raises."""
    try:
        return count_rows(batch)
    except UpdateError:
        return None


def count_rows(batch: Batch) -> int:
    """Count the rows of a batch: of a packed one, one. UpdateError names fields that disagree."""
    if is_packed(batch):
        return 1
    reading = _reading_of(batch)
    reading.take(batch, None)
    return reading.rows


def select_rows(batch: Batch, rows: Rows) -> Batch:
    """Take rows of a batch; with a slice, tensors share memory with it.

    Example:
        >>> select_rows((torch.tensor([5, 6, 7]), ["a", "b", "c"]), [2, 0, 0])
        (tensor([7, 5, 5]), ['c', 'a', 'a'])
    """
    if is_packed(batch):
        numbers = list(range(1))[rows] if isinstance(rows, slice) else _checked(rows, 1)
        if numbers == [0]:
            return batch
        raise UpdateError(f"rows {rows!r} of a packed batch: it is one row, and stays whole.")
    return _reading_of(batch).take(batch, rows)


class _Node(NamedTuple):
    """A value in a batch, its path in errors, and its name in what holds it."""

    path: str
    value: Field
    is_structure: bool = False  # a tuple, or in a list, as a DataLoader makes it: may be fields
    name: Field = None
    is_batch: bool = False


class Reading(NamedTuple):
    """How a batch is read: its number of rows, and whether only lists have them."""

    rows: int
    in_lists: bool = False

    def take(self, batch: Batch, rows: Rows | None) -> Field:
        """Take rows of a batch. None: only check that this is possible, and return the batch."""
        if rows is not None and not isinstance(rows, slice):
            rows = _checked(rows, self.rows)
        return self._taken(_Node("batch", batch, is_batch=True), rows)

    def _taken(self, node: _Node, rows: slice | list[int] | None) -> Field:
        kind = self._kind(node)
        if kind == "fields":
            made = {each.name: self._taken(each, rows) for each in _parts(node)}
            return like(node.value, made, node.path) if made and rows is not None else node.value
        return node.value if rows is None or kind == "whole" else _rows_of(node, rows)

    def _kind(self, node: _Node) -> Literal["rows", "fields", "whole"]:
        """Decide what a value holds: one entry a row, fields, or facts about the whole batch."""
        value = node.value
        if not _is_field(node):
            return "fields"
        if is_array(value):
            return "rows"
        given = f"{node.path} is a {type(value).__name__}"
        if not _is_sequence(value):
            if _is_plain(value):
                return "whole"
            raise UpdateError(
                f"{given}, and its rows are unknown: expected a tensor, an array, or a list with "
                f"one entry a row. {_ADVICE}"
            )
        if _may_be_fields(value, self.rows):
            return "fields" if len(value) != self.rows else self._kind_of_square(node)
        if len(value) == self.rows:
            return "rows"
        several = len(value) > self.rows > 1 and len(value) % self.rows == 0
        if _is_plain_throughout(value) and not several:
            return "whole"
        raise UpdateError(
            f"{given} of {len(value)} for {self.rows} rows: expected one entry a row. {_ADVICE}"
        )

    def _kind_of_square(self, node: _Node) -> Literal["rows", "fields"]:
        """Decide whether as many fields as there are rows are fields, or one entry a row."""
        kinds = _kinds_of(node.value)
        if "plain" in kinds or not (node.is_structure or _is_of_arrays(node.value)):
            return "rows"
        kinds -= {"none"}
        if node.is_structure:
            may_be_images = self.rows in {3, 4} and _have_three_dimensions(node.value)
            stacked = kinds == {"array"} and not self.in_lists and not may_be_images
            if len(kinds) > 1 or kinds <= {"list", "tuple"} or stacked:
                return "fields"
        elif self.in_lists or self.rows == 1:
            return "rows"
        raise UpdateError(
            f"{node.path} holds {self.rows} fields of {self.rows} rows: has it one entry a row, or "
            f"are these fields of the batch? {_ADVICE}"
        )


def _reading_of(batch: Batch) -> Reading:
    fields = list(_fields(_Node("batch", batch, is_batch=True)))
    arrays = [(each.path, each.value.shape[0]) for each in fields if is_array(each.value)]
    for path, rows in arrays:
        if rows != arrays[0][1]:
            raise UpdateError(
                f"{arrays[0][0]} has {arrays[0][1]} rows and {path} has {rows}: expected as "
                f"many in dimension 0. {_ADVICE}"
            )
    if arrays:
        return Reading(arrays[0][1])
    sequences = [each for each in fields if _is_sequence(each.value)]
    if not sequences:
        raise UpdateError(
            f"a batch of type {type(batch).__name__} has no rows: expected a tensor, or a dict, "
            f"tuple or dataclass of tensors and lists with one entry a row. {_ADVICE}"
        )
    return Reading(_rows_of_lists(sequences), in_lists=True)


def _rows_of_lists(sequences: list[_Node]) -> int:
    """Count the rows of a batch in which no field is a tensor."""
    filled = [each for each in sequences if len(each.value)]
    counting = [each for each in filled if not _is_plain_throughout(each.value)] or filled
    if not counting:
        return 0
    possible = set.intersection(*({len(each.value)} | _rows_as_fields(each) for each in counting))
    if len(possible) == 1:
        return possible.pop()
    first = counting[0]
    if possible:
        raise UpdateError(
            f"{first.path} is a {type(first.value).__name__} of {len(first.value)}: has it one "
            f"entry a row, or does it hold fields? {_ADVICE}"
        )
    other = next((each for each in counting if len(each.value) != len(first.value)), first)
    raise UpdateError(
        f"{first.path} has {len(first.value)} entries and {other.path} has {len(other.value)}: "
        f"expected one a row. {_ADVICE}"
    )


def _checked(rows: Sequence[int] | Tensor, size: int) -> list[int]:
    given = torch.as_tensor(rows)
    numbers: list[int] = given.tolist() if given.ndim == 1 else []
    whole = given.dtype != torch.bool and not given.is_floating_point()
    if given.ndim == 1 and (not numbers or (whole and 0 <= min(numbers) <= max(numbers) < size)):
        return numbers
    raise UpdateError(
        f"rows {rows!r} of a batch of {size}: expected a slice, or whole numbers from 0 to "
        f"{size - 1}."
    )


def _rows_of(node: _Node, rows: slice | list[int]) -> Field:
    """Take rows of a tensor, array, list or tuple."""
    value = node.value
    strided = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested
    if isinstance(value, np.ndarray) or (strided and isinstance(rows, slice)):
        return value[rows]
    size = value.shape[0] if isinstance(value, Tensor) else len(value)
    numbers = list(range(size))[rows] if isinstance(rows, slice) else rows
    if not isinstance(value, Tensor):
        return like(value, dict(enumerate(value[number] for number in numbers)), node.path)
    if value.is_nested:
        kept = value.unbind()
        chosen = [kept[number] for number in numbers]
        return torch.nested.as_nested_tensor(chosen, layout=value.layout)
    if value.layout not in {torch.strided, torch.sparse_coo}:
        raise UpdateError(f"{node.path} is of layout {value.layout}, and cannot be cut. {_ADVICE}")
    return value.index_select(0, torch.tensor(numbers, dtype=torch.int64, device=value.device))


def _fields(node: _Node) -> Iterator[_Node]:
    if _is_field(node):
        yield node
    else:
        for part in _parts(node):
            yield from _fields(part)


def _parts(node: _Node) -> Iterator[_Node]:
    within = isinstance(node.value, list)
    for name, part in (parts_of(node.value) or {}).items():
        yield _Node(
            name_of(node.path, node.value, name), part, within or isinstance(part, tuple), name
        )


def _is_field(node: _Node) -> bool:
    """Check whether a value is a field, and not what holds fields."""
    value = node.value
    if node.is_batch:
        of_rows = type(value) is list and _holds_rows(value)
        return of_rows or is_array(value) or not _is_container(value)
    if not _is_sequence(value):
        return not _is_container(value)
    kinds = _kinds_of(value)
    mixed = len(kinds - {"none"}) > 1 or kinds == {"none", "mapping"}
    return not (node.is_structure and mixed)


def _holds_rows(batch: list[Field]) -> bool:
    """Check whether a list that is the batch holds rows, and not fields."""
    arrays, sequences = list(map(is_array, batch)), list(map(_is_sequence, batch))
    if any(arrays):
        holds, unclear = False, all(arrays) and _have_three_dimensions(batch)  # images, or frames
    elif not any(sequences):  # dicts of fields, or samples that happen to be equally long
        sizes = {each.shape[0] for each in _arrays_of(batch)}
        holds, unclear = True, len(sizes) == 1 and not _are_images(batch)
    else:
        holds = all(sequences)
        lengths = {len(each) for each in batch} if holds else set()
        unclear = len(lengths) == 1 and not all(len(_kinds_of(each)) > 1 for each in batch)
    if unclear:
        raise UpdateError(
            f"a batch that is a list of {len(batch)}: are these rows, or fields? Let collate_fn "
            "return a dict or a tuple, or pass split= to the update."
        )
    return holds


def _rows_as_fields(node: _Node) -> set[int]:
    """Return how many rows a list or tuple may have if it holds fields."""
    value = node.value
    if not node.is_structure and not _is_of_arrays(value):
        return set()
    sizes = {each.shape[0] for each in _arrays_of(value)} | _lengths_of(value)
    return {size for size in sizes if _may_be_fields(value, size)}


def _may_be_fields(value: Field, rows: int) -> bool:
    """Check whether everything in a list or tuple may be a field of so many rows."""
    if _kinds_of(value) <= {"array", "none"} and _are_images(value):
        return False
    has_rows = bool(_arrays_of(value) or _lengths_of(value))
    return has_rows and all(_fits(each, rows) for each in value)


def _fits(value: Field, rows: int) -> bool:
    if is_array(value):
        return bool(value.shape[0] == rows)
    if _is_sequence(value) and len(value) == rows:
        return True
    parts = parts_of(value) if _is_container(value) else None
    return _is_plain(value) if parts is None else all(_fits(each, rows) for each in parts.values())


def is_array(value: Field) -> bool:
    """Check whether a value is a tensor or array of at least one dimension."""
    return isinstance(value, Tensor | np.ndarray) and value.ndim > 0


def _is_container(value: Field) -> bool:
    return parts_of(value) is not None and not isinstance(value, PackedSequence | torch.Size)


def _is_sequence(value: Field) -> bool:
    """Check whether a value is a list or tuple whose entries have no names."""
    is_one = isinstance(value, list | tuple) and not is_named_tuple(value)
    return is_one and not isinstance(value, torch.Size)


def _is_plain(value: Field) -> bool:
    """Check whether a value belongs to a batch as a whole: it has no rows."""
    known = (str, bytes, Number, np.generic, Enum, os.PathLike, torch.Size)
    if value is None or isinstance(value, known):
        return True
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim == 0
    kind = type(value)
    if any(hasattr(kind, name) for name in ("__len__", "__iter__", "__getitem__")):
        return isinstance(value, set | frozenset | range) and all(map(_is_plain, value))
    held = getattr(value, "__dict__", {}).values()
    return not any(is_array(part) or parts_of(part) is not None for part in held)


def _is_plain_throughout(value: Field) -> bool:
    return all(map(_is_plain, leaves_of(value)))


def _arrays_of(value: Field) -> list[Field]:
    return [each for each in leaves_of(value) if is_array(each)]


def _lengths_of(value: Field) -> set[int]:
    """Return the lengths of the lists and tuples in a value."""
    parts = (parts_of(value) or {}).values() if _is_container(value) else ()
    lengths = {len(each) for each in parts if _is_sequence(each)}
    return lengths.union(*map(_lengths_of, parts))


def _is_of_arrays(value: Field) -> bool:
    """Check whether a list or tuple holds only arrays, or lists and tuples of them."""
    return all(is_array(each) or (_is_sequence(each) and _is_of_arrays(each)) for each in value)


def _kinds_of(value: Field) -> set[str]:
    """Return what the entries of a list or tuple are."""
    kinds = set()
    for each in value:
        if each is None or is_array(each):
            kinds.add("none" if each is None else "array")
        elif _is_sequence(each):
            kinds.add("tuple" if isinstance(each, tuple) else "list")
        else:
            kinds.add("mapping" if _is_container(each) else "plain")
    return kinds


def _have_three_dimensions(value: Field) -> bool:
    return all(each.ndim == 3 for each in _arrays_of(value))


def _are_images(value: Field) -> bool:
    """Check whether the arrays [channels, height, width] differ in both height and width."""
    sides = [each.shape[1:] for each in _arrays_of(value) if each.ndim == 3]
    differ = all(len(set(side)) > 1 for side in zip(*sides, strict=True))
    return bool(sides) and differ and _have_three_dimensions(value)
