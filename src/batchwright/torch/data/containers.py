"""Dicts, dataclasses and tuples of a batch: taken apart, and put together again."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from batchwright.errors import UpdateError


def parts_of(value: Any) -> dict[Any, Any] | None:
    """Take apart what holds several things.

    Args:
        value: Anything.

    Returns:
        What a mapping, dataclass, tuple or list holds, by its name or position; None for anything
        else.

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


def is_named_tuple(value: Any) -> bool:
    """Whether a value is a tuple with names."""
    return isinstance(value, tuple) and hasattr(value, "_fields")


def name_of(path: str, value: Any, name: Any) -> str:
    """Name a part of something as code would: ``batch['x']``, ``batch.x``.

    Example:
        >>> name_of("batch", {"x": 1}, "x")
        "batch['x']"
    """
    by_name = is_named_tuple(value) or dataclasses.is_dataclass(value)
    return f"{path}.{name}" if by_name and not isinstance(value, Mapping) else f"{path}[{name!r}]"


def like(value: Any, parts: Mapping[Any, Any], path: str | None = "batch") -> Any:
    """Put parts together as `value` holds them.

    Args:
        value: A mapping, dataclass, tuple or list.
        parts: What is to be held, by the names or positions of `parts_of`.
        path: What it is called in errors. None: what a dataclass keeps beside its fields is kept.

    Returns:
        One of the same class, where this can be made of its parts; else a dict, tuple or list.

    Raises:
        UpdateError: If a dataclass keeps more than its fields.
    """
    if isinstance(value, Mapping):
        makers = _of_dicts(value, parts) if isinstance(value, dict) else _of_mappings(value, parts)
        return _first_good(makers, parts) if type(value) is not dict else dict(parts)
    if dataclasses.is_dataclass(value):
        return _of_dataclass(value, parts, path)
    if is_named_tuple(value):
        return value._make(parts.values())
    kind = tuple if isinstance(value, tuple) else list
    if type(value) is kind:
        return kind(parts.values())
    return _first_good(iter([lambda: type(value)(parts.values())]), parts, kind)


def mapped(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """Apply a function to every tensor in something, however deep.

    Example:
        >>> import torch
        >>> mapped({"x": torch.ones(1), "name": "a"}, lambda tensor: 2 * tensor)
        {'x': tensor([2.]), 'name': 'a'}
    """
    if isinstance(value, Tensor):
        return function(value)
    parts = parts_of(value)
    if not parts:
        return value
    return like(value, {name: mapped(part, function) for name, part in parts.items()}, None)


def _of_dicts(value: Any, parts: Mapping[Any, Any]) -> Iterator[Callable[[], Any]]:
    yield lambda: _updated(copy.copy(value), parts)  # with its attributes, such as default_factory
    yield lambda: type(value)(parts)


def _of_mappings(value: Any, parts: Mapping[Any, Any]) -> Iterator[Callable[[], Any]]:
    yield lambda: type(value)(parts)
    yield lambda: _updated(copy.copy(value), parts)


def _updated(made: Any, parts: Mapping[Any, Any]) -> Any:
    for name, part in parts.items():
        made[name] = part
    return made


def _first_good(
    makers: Iterator[Callable[[], Any]],
    parts: Mapping[Any, Any],
    otherwise: Callable[[Any], Any] | None = None,
) -> Any:
    """Return the first that holds the parts, and nothing else."""
    for make in makers:
        try:
            made = make()
            held = parts_of(made)
        except Exception:  # noqa: BLE001, S112 (a class of the user's: whatever it raises)
            continue
        whole = held is not None and held.keys() == parts.keys()
        if held and whole and all(held[name] is part for name, part in parts.items()):
            return made
    return dict(parts) if otherwise is None else otherwise(parts.values())


def _of_dataclass(value: Any, parts: Mapping[Any, Any], path: str | None) -> Any:
    """Copy a dataclass, frozen or not, without running its `__post_init__` a second time."""
    made = copy.copy(value)
    others = [each for each in getattr(made, "__dict__", {}) if each not in parts]
    for name in () if path is None else others:
        if not isinstance(getattr(type(value), name, None), functools.cached_property):
            raise UpdateError(
                f"{path}.{name} is an attribute beside the fields of {type(value).__name__}, and "
                "it is not known whether it belongs to the rows. Make it a field or a property, or "
                "pass split= to the update."
            )
        del made.__dict__[name]  # computed again when asked for
    for name, part in parts.items():
        object.__setattr__(made, name, part)
    return made
