"""Mappings, dataclasses, tuples and lists, nested in any way: taken apart and rebuilt.

`torch.utils._pytree` takes dataclasses, mappings and subclasses of dicts and lists for leaves,
unless each class is registered.
"""

import contextlib
import copy
import dataclasses
import functools
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
from torch import Tensor

from batchwright.errors import UpdateError
from batchwright.typing import Field

Parts: TypeAlias = dict[Field, Field]
"""What a value holds, by name or position."""


def parts_of(value: Field) -> Parts | None:
    """Return what a mapping, dataclass, tuple or list holds, by name or position; else None."""
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [each.name for each in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names if hasattr(value, name)}
    if is_named_tuple(value):
        return dict(zip(value._fields, value, strict=True))
    return dict(enumerate(value)) if isinstance(value, tuple | list) else None


def is_named_tuple(value: object) -> bool:
    """Check whether a value is a named tuple."""
    return isinstance(value, tuple) and hasattr(value, "_fields")


def leaves_of(value: Field) -> Iterator[Field]:
    """Yield everything in a value that holds no parts, tensors and arrays included."""
    parts = None if isinstance(value, Tensor | np.ndarray) else parts_of(value)
    if parts is None:
        yield value
    else:
        for part in parts.values():
            yield from leaves_of(part)


def tensors_of(value: Field) -> list[Tensor]:
    """Return all tensors in a value, at any depth."""
    return [each for each in leaves_of(value) if isinstance(each, Tensor)]


def mapped(value: Field, function: Callable[[Tensor], Field]) -> Field:
    """Apply a function to every tensor in a value, at any depth."""
    if isinstance(value, Tensor):
        return function(value)
    parts = parts_of(value)
    if not parts:
        return value
    return like(value, {name: mapped(part, function) for name, part in parts.items()}, None)


def name_of(path: str, value: Field, name: object) -> str:
    """Name a part of a value as code would: ``batch['x']``, ``batch.x``."""
    by_name = is_named_tuple(value) or dataclasses.is_dataclass(value)
    return f"{path}.{name}" if by_name and not isinstance(value, Mapping) else f"{path}[{name!r}]"


def like(value: Field, parts: Parts, path: str | None = "batch") -> Field:
    """Rebuild what `parts_of` took apart from other parts, by the same names or positions.

    Returns an object of the same class if one can be made of the parts, else a dict, tuple or list.
    `path` is the name of `value` in errors; with None a dataclass keeps its other attributes.
    """
    if is_named_tuple(value):
        return value._make(parts.values())
    if not isinstance(value, Mapping | tuple | list):
        return _dataclass_like(value, parts, path)
    if isinstance(value, Mapping):
        plain: Field = dict(parts)
    else:
        plain = tuple(parts.values()) if isinstance(value, tuple) else list(parts.values())
    with contextlib.suppress(Exception):  # a class of the user's may raise anything
        kind: Callable[[Field], Field] = type(value)
        if isinstance(value, dict | UserDict):
            made: Field = copy.copy(value)  # with attributes such as default_factory
            for name, part in parts.items():
                made[name] = part
        else:
            made = kind(plain)
        held = parts_of(made) or {}
        if held.keys() == parts.keys() and all(held[name] is parts[name] for name in parts):
            return made
    return plain


def _dataclass_like(value: Field, parts: Parts, path: str | None) -> Field:
    """Copy a dataclass, frozen or not, without running its `__post_init__` again."""
    made = copy.copy(value)
    others = [each for each in getattr(made, "__dict__", {}) if each not in parts]
    for name in () if path is None else others:
        if not isinstance(getattr(type(value), name, None), functools.cached_property):
            raise UpdateError(
                f"{path}.{name} is an attribute besides the fields of {type(value).__name__}: it "
                "is unknown whether it belongs to the rows. Make it a field or a property, or pass "
                "split= to the update."
            )
        del made.__dict__[name]  # computed again on demand
    for name, part in parts.items():
        object.__setattr__(made, name, part)
    return made
