"""How a batch is read: which of its fields belong to the rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from batchwright.errors import UpdateError
from batchwright.torch.data.containers import like, name_of, parts_of
from batchwright.torch.data.field_kinds import (
    are_images,
    differ_in_kind,
    have_three_dimensions,
    is_array,
    is_container,
    is_of_arrays,
    is_plain,
    is_plain_throughout,
    is_sequence,
    kinds_of,
    lengths_of,
    sizes_of,
)

Rows: TypeAlias = slice | Sequence[int] | Tensor
"""Rows of a batch: a slice of them, or their numbers in any sequence, repeated ones allowed."""

ADVICE = "Pass split= to the update for batches of this kind, or leave the field out."


@dataclass(frozen=True)
class Taken:
    """Rows that are taken.

    Attributes:
        numbers: Which.
        part: The same as a slice, where it is one.
    """

    numbers: list[int]
    part: slice | None

    @staticmethod
    def of(rows: Rows, size: int) -> "Taken":
        """Check the numbers of rows that are to be taken from a batch of some size."""
        if isinstance(rows, slice):
            return Taken(list(range(size))[rows], rows)
        given = torch.as_tensor(rows)
        whole = given.dtype != torch.bool and not given.is_floating_point()
        numbers: list[int] = given.tolist() if given.ndim == 1 else []
        if given.ndim != 1 or (
            numbers and not (whole and 0 <= min(numbers) <= max(numbers) < size)
        ):
            raise UpdateError(
                f"rows {rows!r} of a batch of {size}: expected a slice, or whole numbers from 0 to "
                f"{size - 1}."
            )
        return Taken(numbers, None)

    def from_array(self, value: Any, path: str) -> Any:
        """Take rows of a tensor or array."""
        if isinstance(value, np.ndarray):
            return value[self.numbers if self.part is None else self.part]
        if value.is_nested:
            kept = value.unbind()
            return torch.nested.as_nested_tensor(
                [kept[number] for number in self.numbers], layout=value.layout
            )
        if self.part is not None and value.layout == torch.strided:
            return value[self.part]
        numbers = torch.tensor(self.numbers, dtype=torch.int64, device=value.device)
        if value.layout not in {torch.strided, torch.sparse_coo}:
            raise UpdateError(f"{path} is of layout {value.layout}, and cannot be cut. {ADVICE}")
        return value.index_select(0, numbers)

    def from_list(self, value: Any, path: str) -> Any:
        """Take entries of a list or tuple."""
        return like(value, dict(enumerate(value[number] for number in self.numbers)), path)


class Leaf(NamedTuple):
    """A list or tuple in a batch.

    Attributes:
        path: What it is called in errors.
        value: It.
        structures: Whether it is of a kind that commonly holds fields: a tuple, or a list in a
            list, as a `DataLoader` makes of tuples.
        name: Its name or position in what it lies in.
    """

    path: str
    value: Any
    structures: bool
    name: Any = None


@dataclass(frozen=True)
class Reading:
    """How a batch is read.

    Attributes:
        rows: How many there are.
        in_lists: Whether lists alone have them, and no tensor.
    """

    rows: int
    in_lists: bool = False

    @staticmethod
    def of(batch: Any) -> "Reading":
        """Count the rows."""
        arrays: dict[str, int] = {}
        sequences: list[Leaf] = []
        for leaf in _leaves(batch, "batch"):
            if is_array(leaf.value):
                arrays[leaf.path] = leaf.value.shape[0]
            elif is_sequence(leaf.value):
                sequences.append(leaf)
        if arrays:
            first, rows = next(iter(arrays.items()))
            for path, other in arrays.items():
                if other != rows:
                    raise UpdateError(
                        f"{first} has {rows} rows and {path} has {other}: expected as many in "
                        f"dimension 0. {ADVICE}"
                    )
            return Reading(rows)
        if not sequences:
            raise UpdateError(
                f"a batch of type {type(batch).__name__} has no rows: expected a tensor, or a "
                "dict, tuple or dataclass of tensors with the rows in dimension 0, and of lists "
                "with one entry a row. Pass split= to the update for any other kind."
            )
        return _of_lists(sequences)

    def apply(self, value: Any, taken: Taken | None, path: str = "batch") -> Any:
        """Take rows of a batch, or None of them: to see whether it could be done."""
        leaf = next(iter(_leaves(value, path)), None)
        if leaf is not None and leaf.path == path:
            return self._of_leaf(leaf, taken)
        return self._of_parts(value, taken, path)

    def _of_parts(self, value: Any, taken: Taken | None, path: str) -> Any:
        made = {
            leaf.name: self._of_leaf(leaf, taken)
            if _is_field(leaf)
            else self._of_parts(leaf.value, taken, leaf.path)
            for leaf in _parts(value, path)
        }
        return value if taken is None or not made else like(value, made, path)

    def _of_leaf(self, leaf: Leaf, taken: Taken | None) -> Any:
        path, value = leaf.path, leaf.value
        if is_array(value):
            return value if taken is None else taken.from_array(value, path)
        if is_sequence(value):
            kind = self._kind(leaf)
            if kind == "fields":
                return self._of_parts(value, taken, path)
            return value if taken is None or kind == "whole" else taken.from_list(value, path)
        if not is_plain(value):
            raise UpdateError(
                f"{path} is a {type(value).__name__}, and its rows are not known: expected a "
                f"tensor, an array, or a list with one entry a row. {ADVICE}"
            )
        return value

    def _kind(self, leaf: Leaf) -> Literal["rows", "fields", "whole"]:
        """Say what a list or tuple holds."""
        value = leaf.value
        if _fits_as_fields(value, self.rows):
            return self._kind_of_square(leaf) if len(value) == self.rows else "fields"
        if len(value) == self.rows:
            return "rows"
        several = len(value) > self.rows > 1 and len(value) % self.rows == 0
        if is_plain_throughout(value) and not several:
            return "whole"
        raise UpdateError(
            f"{leaf.path} is a {type(value).__name__} of {len(value)} for {self.rows} rows: "
            f"expected one entry a row. {ADVICE}"
        )

    def _kind_of_square(self, leaf: Leaf) -> Literal["rows", "fields"]:
        """Say what as many fields as there are rows are: fields, or one entry a row after all."""
        value, kinds = leaf.value, kinds_of(leaf.value)
        structures = leaf.structures
        if "plain" in kinds or ("none" in kinds and not structures):
            return "rows"
        kinds -= {"none"}
        if len(kinds) > 1 or (structures and kinds <= {"list", "tuple"}):
            return "fields"
        images = have_three_dimensions(value)
        if (self.in_lists and (images or not structures)) or not (
            structures or is_of_arrays(value)
        ):
            return "rows"
        structures = structures and not self.in_lists
        may_be_channels = self.rows in _CHANNELS and images
        if kinds != {"mapping"} and (differ_in_kind(value) or (structures and not may_be_channels)):
            return "fields"
        if self.rows == 1 or (may_be_channels and are_images(value)):
            return "rows"
        raise UpdateError(
            f"{leaf.path} holds {self.rows} fields of {self.rows} rows: has it one entry a row, or "
            f"are these fields of the batch? {ADVICE}"
        )


_CHANNELS = (3, 4)
"""Rows that might be the channels of an image."""


def _of_lists(sequences: list[Leaf]) -> Reading:
    """Count the rows of a batch in which no field is a tensor."""
    filled = [each for each in sequences if len(each.value)]
    counting = [each for each in filled if not is_plain_throughout(each.value)] or filled
    if not counting:
        return Reading(0, in_lists=True)
    possible = set.intersection(*({len(each.value)} | _as_fields(each) for each in counting))
    as_rows = {len(each.value) for each in counting}
    images = (each for each in counting if have_three_dimensions(each.value, deep=False))
    if len(as_rows) == 1 and any(are_images(each.value) or not each.structures for each in images):
        possible = as_rows
    if len(possible) == 1:
        return Reading(possible.pop(), in_lists=True)
    first = counting[0]
    if possible:
        raise UpdateError(
            f"{first.path} is a {type(first.value).__name__} of {len(first.value)}: has it one "
            f"entry a row, or does it hold fields? {ADVICE}"
        )
    other = next((each for each in counting if len(each.value) != len(first.value)), first)
    raise UpdateError(
        f"{first.path} has {len(first.value)} entries and {other.path} has {len(other.value)}: "
        f"expected one a row. {ADVICE}"
    )


def _as_fields(leaf: Leaf) -> set[int]:
    """Return how many rows a list or tuple may have if it holds fields."""
    value = leaf.value
    if not leaf.structures and not is_of_arrays(value):
        return set()
    return {size for size in sizes_of(value) | lengths_of(value) if _fits_as_fields(value, size)}


def _fits_as_fields(value: Any, rows: int) -> bool:
    """Whether everything inside a list or tuple may be a field of so many rows."""
    return _counts(value) and all(_fits(each, rows) for each in value)


def _counts(value: Any) -> bool:
    """Whether there is anything inside a list or tuple that has rows."""
    if is_array(value):
        return True
    parts = parts_of(value) if is_container(value) else None
    inner = () if parts is None else parts.values()
    return any(is_array(each) or is_sequence(each) or _counts(each) for each in inner)


def _fits(value: Any, rows: int) -> bool:
    if is_array(value):
        return bool(value.shape[0] == rows)
    if is_sequence(value) and len(value) == rows:
        return True
    parts = parts_of(value) if is_container(value) else None
    return is_plain(value) if parts is None else all(_fits(each, rows) for each in parts.values())


def _leaves(value: Any, path: str) -> Iterator[Leaf]:
    """Yield the fields of a batch."""
    of_rows = type(value) is list and _holds_rows(value)
    if of_rows or is_array(value) or not is_container(value):
        yield Leaf(path, value, structures=False)
    else:
        yield from _inner_leaves(value, path)


def _inner_leaves(value: Any, path: str) -> Iterator[Leaf]:
    for leaf in _parts(value, path):
        if _is_field(leaf):
            yield leaf
        else:
            yield from _inner_leaves(leaf.value, leaf.path)


def _parts(value: Any, path: str) -> Iterator[Leaf]:
    within = isinstance(value, list)
    for name, part in (parts_of(value) or {}).items():
        structures = isinstance(part, tuple) or within
        yield Leaf(name_of(path, value, name), part, structures, name)


def _is_field(leaf: Leaf) -> bool:
    """Whether something is a field, and not what holds fields."""
    if not is_sequence(leaf.value):
        return not is_container(leaf.value)
    kinds = kinds_of(leaf.value)
    mixed = len(kinds - {"none"}) > 1 or kinds == {"none", "mapping"}
    return not (leaf.structures and mixed)


def _holds_rows(batch: list[Any]) -> bool:
    """Whether a list that is a batch holds rows, and not fields."""
    ambiguous = UpdateError(
        f"a batch that is a list of {len(batch)}: are these rows, or fields? Let collate_fn return "
        "a dict or a tuple of fields, or pass split= to the update."
    )
    if any(map(is_array, batch)):
        if all(map(is_array, batch)) and have_three_dimensions(batch):
            raise ambiguous  # images, or frames of a batch
        return False
    if not any(map(is_sequence, batch)):
        if len(sizes_of(batch)) == 1 and not are_images(batch):
            raise ambiguous  # dicts of fields, or samples that happen to be equally long
        return True
    if not all(map(is_sequence, batch)):
        return False
    if len({len(each) for each in batch}) > 1 or all(len(kinds_of(each)) > 1 for each in batch):
        return True
    raise ambiguous
