"""Mappings, dataclasses, tuples and lists, nested in any way: taken apart and rebuilt.

`torch.utils._pytree` takes dataclasses, mappings and subclasses of dicts and lists for leaves,
unless each class is registered.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from batchwright.errors import UpdateError
from batchwright.typing import Field


def parts_of(value: Field) -> dict[Any, Field] | None:
    """Return what a mapping, dataclass, tuple or list holds, by name or position; else None.

    Example:
        >>> parts_of({"x": 1}), parts_of(("a", "b")), parts_of("text")
        ({'x': 1}, {0: 'a', 1: 'b'}, None)
    """
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [each.name for each in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names if hasattr(value, name)}
    if is_named_tuple(value):
        return dict(zip(value._fields, value, strict=True))
    return dict(enumerate(value)) if isinstance(value, tuple | list) else None


def is_named_tuple(value: Field) -> bool:
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


def mapped(value: Field, function: Callable[[Tensor], Any]) -> Field:
    """Apply a function to every tensor in a value, at any depth."""
    if isinstance(value, Tensor):
        return function(value)
    parts = parts_of(value)
    if not parts:
        return value
    return like(value, {name: mapped(part, function) for name, part in parts.items()}, None)


def name_of(path: str, value: Field, name: Any) -> str:
    """Name a part of a value as code would: ``batch['x']``, ``batch.x``."""
    by_name = is_named_tuple(value) or dataclasses.is_dataclass(value)
    return f"{path}.{name}" if by_name and not isinstance(value, Mapping) else f"{path}[{name!r}]"


def like(value: Field, parts: Mapping[Any, Field], path: str | None = "batch") -> Field:
    """Rebuild what `parts_of` took apart from other parts, by the same names or positions.

    Returns an object of the same class if one can be made of the parts, else a dict, tuple or list.
    `path` is the name of `value` in errors; with None a dataclass keeps its other attributes.
    """
    kind = type(value)
    if isinstance(value, Mapping):
        # A copy of a dict keeps attributes such as default_factory; others may share their items.
        makers = [lambda: _updated(copy.copy(value), parts), lambda: kind(parts)]
        made = None
        if kind is not dict:
            made = _first_good(makers if isinstance(value, dict) else makers[::-1], parts)
        return dict(parts) if made is None else made
    if dataclasses.is_dataclass(value):
        return _dataclass_like(value, parts, path)
    if is_named_tuple(value):
        return value._make(parts.values())
    base = tuple if isinstance(value, tuple) else list
    made = None if kind is base else _first_good([lambda: kind(parts.values())], parts)
    return base(parts.values()) if made is None else made


def _updated(made: Any, parts: Mapping[Any, Field]) -> Field:
    for name, part in parts.items():
        made[name] = part
    return made


def _first_good(makers: list[Callable[[], Any]], parts: Mapping[Any, Field]) -> Field:
    """Return the first object that holds exactly the parts; None if there is none."""
    for make in makers:
        try:
            made = make()
            held = parts_of(made)
        except Exception:  # noqa: BLE001, S112 (a class of the user's: whatever it raises)
            continue
        whole = held is not None and held.keys() == parts.keys()
        if held and whole and all(held[name] is part for name, part in parts.items()):
            return made
    return None


def _dataclass_like(value: Field, parts: Mapping[Any, Field], path: str | None) -> Field:
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
