"""Batchings as plain values, for states: reading one back never executes code."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from batchwright.batching.buckets import Buckets
from batchwright.batching.draft import Batching
from batchwright.batching.fixed_size import FixedSize
from batchwright.batching.packing import Packing
from batchwright.batching.token_budget import TokenBudget
from batchwright.errors import PlanMismatchError

_KINDS: dict[str, type] = {
    kind.__name__: kind for kind in (Buckets, FixedSize, Packing, TokenBudget)
}


def described(batching: Batching) -> dict[str, Any] | None:
    """Write a batching down.

    Args:
        batching: Any batching.

    Returns:
        Its name and the settings that differ from their defaults, as JSON can keep them. None: it
        is not one of ours, or holds a function.

    Example:
        >>> described(TokenBudget(4_096, mixing=3))
        {'kind': 'TokenBudget', 'max_tokens': 4096, 'mixing': 3}
    """
    name = type(batching).__name__
    if _KINDS.get(name) is not type(batching):
        return None
    settings = {
        field.name: getattr(batching, field.name)
        for field in dataclasses.fields(batching)  # type: ignore[arg-type]
        if field.init
    }
    defaults = {field.name: field.default for field in dataclasses.fields(_KINDS[name])}
    settings = {key: value for key, value in settings.items() if value != defaults[key]}
    if any(callable(value) for value in settings.values()):
        return None
    return {"kind": name, **{key: _plain(value) for key, value in settings.items()}}


def rebuilt(description: Mapping[str, Any]) -> Batching:
    """Make the batching that `described` wrote down.

    Raises:
        PlanMismatchError: If it is none.

    Example:
        >>> rebuilt({"kind": "FixedSize", "batch_size": 8})
        FixedSize(batch_size=8, pad_to_multiple_of=1)
    """
    try:
        settings = {name: _tuples(value) for name, value in description.items()}
        batching: Batching = _KINDS[settings.pop("kind")](**settings)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PlanMismatchError(
            f"the state names the batching {description!r}, which this version does not have "
            f"({error}). Resume with the version of batchwright that saved it."
        ) from error
    return batching


def _plain(value: Any) -> Any:
    """Turn tuples into lists, and whole numbers of NumPy into Python's, as JSON does."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, bool | str | int) else value.item()


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
