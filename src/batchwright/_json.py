"""JSON that anybody may have written: parsed, and compared with the types it should have."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

INTEGER_BITS = 63  # NumPy has to count with them

_DEEPEST = 50
_TOO_DEEP = "nested too deep"


def parsed(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: It is no JSON, has numbers that JSON has not (NaN), or is nested deeper than
            anything of ours, so that whatever goes through it does not have to expect that.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner for each in level if isinstance(each, dict | list) for inner in _inside(each)
        ]
    if level:
        raise ValueError(_TOO_DEEP)
    return value


def fits(value: Any, annotation: Any, *, bits: int = INTEGER_BITS) -> bool:
    """Say whether a value of JSON is of a type; of a dataclass, with exactly its fields.

    Args:
        value: What was parsed.
        annotation: None, bool, int, float, str, tuples, dicts by strings, dataclasses, literals,
            and unions of these. JSON has lists for tuples.
        bits: Of which size integers may be.

    Example:
        >>> fits([1, "2"], tuple[int, ...]), fits([1, 2], tuple[int, ...]), fits(True, int)
        (False, True, False)
    """
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is not None:
        return _composed_fits(value, origin, inside, bits)
    if is_dataclass(annotation):
        return isinstance(value, dict) and _fields_fit(value, annotation, bits)
    if annotation is int:
        return type(value) is int and value.bit_length() <= bits
    if annotation is float:
        return type(value) is float or fits(value, int, bits=1000)
    return annotation is Any or type(value) is annotation


def _composed_fits(value: Any, origin: Any, inside: tuple[Any, ...], bits: int) -> bool:
    if origin in {Union, UnionType}:
        return any(fits(value, each, bits=bits) for each in inside)
    if origin is Literal:
        return isinstance(value, str) and value in inside
    if origin is dict:
        return isinstance(value, dict) and _items_fit(list(value.values()), inside[1:], bits)
    return isinstance(value, list) and _items_fit(value, inside, bits)


def _items_fit(values: list[Any], inside: tuple[Any, ...], bits: int) -> bool:
    if len(inside) > 1 and inside[1] is not Ellipsis:
        return len(values) == len(inside) and all(
            fits(value, each, bits=bits) for value, each in zip(values, inside, strict=True)
        )
    return all(fits(value, inside[0], bits=bits) for value in values)


def _fields_fit(value: Mapping[str, Any], of: Any, bits: int) -> bool:
    annotations = get_type_hints(of)
    needed = {
        each.name
        for each in fields(of)
        if each.default is MISSING and each.default_factory is MISSING
    }
    return needed <= value.keys() <= annotations.keys() and all(
        fits(value[name], annotations[name], bits=bits) for name in value
    )


def _inside(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")
