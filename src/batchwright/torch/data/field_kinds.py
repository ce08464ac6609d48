"""What the values in a batch are: arrays with rows, lists, or facts about the batch as a whole."""

import os
from enum import Enum
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from batchwright.torch.data.containers import is_named_tuple, parts_of


def is_container(value: Any) -> bool:
    """Whether a value holds others, by name or position."""
    return parts_of(value) is not None and not isinstance(value, PackedSequence | torch.Size)


def is_array(value: Any) -> bool:
    """Whether a value is a tensor or array of at least one dimension."""
    return isinstance(value, Tensor | np.ndarray) and value.ndim > 0


def is_sequence(value: Any) -> bool:
    """Whether a value is a list or tuple whose entries have no names."""
    is_one = isinstance(value, list | tuple) and not is_named_tuple(value)
    return is_one and not isinstance(value, torch.Size)


def is_plain(value: Any) -> bool:
    """Whether a value belongs to a batch as a whole: it has no rows."""
    known = (str, bytes, Number, np.generic, Enum, os.PathLike, torch.Size)
    if value is None or isinstance(value, known):
        return True
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim == 0
    kind = type(value)
    if any(hasattr(kind, name) for name in ("__len__", "__iter__", "__getitem__")):
        return isinstance(value, set | frozenset | range) and all(map(is_plain, value))
    held = getattr(value, "__dict__", {}).values()
    return not any(is_array(part) or parts_of(part) is not None for part in held)


def is_plain_throughout(value: Any) -> bool:
    """Whether nothing inside a value has rows either."""
    parts = parts_of(value)
    return is_plain(value) if parts is None else all(map(is_plain_throughout, parts.values()))


def arrays_of(value: Any) -> list[Any]:
    """Return all tensors and arrays of at least one dimension."""
    if is_array(value):
        return [value]
    return [each for part in (parts_of(value) or {}).values() for each in arrays_of(part)]


def sizes_of(value: Any) -> set[int]:
    """Return the sizes of dimension 0 of the tensors and arrays inside a value."""
    return {each.shape[0] for each in arrays_of(value)}


def lengths_of(value: Any) -> set[int]:
    """Return the lengths of the lists and tuples inside a value."""
    parts = (parts_of(value) or {}).values() if is_container(value) else ()
    lengths = {len(each) for each in parts if is_sequence(each)}
    return lengths.union(*map(lengths_of, parts))


def is_of_arrays(value: Any) -> bool:
    """Whether a list or tuple holds tensors, or lists and tuples of them, and nothing else."""
    return all(is_array(each) or (is_sequence(each) and is_of_arrays(each)) for each in value)


def kinds_of(value: Any) -> set[str]:
    """Return what the entries of a list or tuple are."""
    return set(map(_kind_of, value))


def _kind_of(value: Any) -> str:
    if value is None:
        return "none"
    if is_array(value):
        return "array"
    if is_sequence(value):
        return "tuple" if isinstance(value, tuple) else "list"
    return "mapping" if is_container(value) else "plain"


def differ_in_kind(value: Any) -> bool:
    """Whether the tensors inside a value are of several types or numbers of dimensions."""
    return len({(type(each), each.dtype, each.ndim) for each in arrays_of(value)}) > 1


def have_three_dimensions(value: Any, *, deep: bool = True) -> bool:
    """Whether the tensors of a list, or deep inside it, have three dimensions, as images do."""
    inside = arrays_of(value)
    outermost = all(is_array(each) or each is None for each in value)
    return (deep or outermost) and all(each.ndim == 3 for each in inside)


def are_images(value: Any) -> bool:
    """Whether tensors [channels, height, width] differ in both height and width."""
    arrays = arrays_of(value)
    return have_three_dimensions(value) and all(
        len({each.shape[side] for each in arrays}) > 1 for side in (1, 2)
    )
