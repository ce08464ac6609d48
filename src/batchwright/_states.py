"""Saved states: loaded exactly as they were saved, or refused with one sentence.

A state may have been through JSON, pickle or a checkpoint, and anybody may have edited it.
"""

import hashlib
import json
import operator
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from batchwright._format import one_line
from batchwright.errors import LengthsError, PlanError
from batchwright.typing import State

INTEGER_BITS = 63  # NumPy has to count with them

_CHECKSUM = "checksum"
_DEEPEST = 50
_TOO_DEEP = "nested too deep"


def parsed(text: str | bytes) -> Any:
    """Parse JSON that is nested at most 50 deep and holds no NaN or infinity."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level = [value]
    for _ in range(_DEEPEST):
        parents = [each for each in level if isinstance(each, dict | list)]
        level = [
            child
            for each in parents
            for child in (each.values() if isinstance(each, dict) else each)
        ]
    if level:
        raise ValueError(_TOO_DEEP)
    return value


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def fits(value: object, annotation: Any, *, bits: int = INTEGER_BITS) -> bool:
    """Return whether parsed JSON has a type; for a dataclass, whether it has exactly its fields.

    Example:
        >>> fits([1, "2"], tuple[int, ...]), fits([1, 2], tuple[int, ...]), fits(True, int)
        (False, True, False)
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in {Union, UnionType}:
        return any(fits(value, each, bits=bits) for each in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is not None:
        return _items_fit(value, origin, inner, bits)
    if is_dataclass(annotation):
        return isinstance(value, dict) and _fields_fit(value, annotation, bits)
    if type(value) is int and annotation in {int, float}:
        return value.bit_length() <= (bits if annotation is int else 1000)
    return annotation is Any or type(value) is annotation


def _items_fit(value: object, origin: Any, inner: tuple[Any, ...], bits: int) -> bool:
    if origin is dict:
        items, types = list(value.values()) if isinstance(value, dict) else None, inner[1:]
    else:
        items, types = value if isinstance(value, list) else None, inner
    if items is None:
        return False
    if len(types) == 1 or types[1] is Ellipsis:
        types = types[:1] * len(items)
    return len(items) == len(types) and all(
        fits(each, type_, bits=bits) for each, type_ in zip(items, types, strict=True)
    )


def _fields_fit(value: Mapping[str, object], of: Any, bits: int) -> bool:
    annotations = get_type_hints(of)
    needed = {f.name for f in fields(of) if f.default is f.default_factory is MISSING}
    return needed <= value.keys() <= annotations.keys() and all(
        fits(value[name], annotations[name], bits=bits) for name in value
    )


def built(value: Any, annotation: Any) -> Any:
    """Make dataclasses, tuples and dicts from JSON that fits them.

    Example:
        >>> built([[1, 2], [3, 4]], tuple[tuple[int, int], ...])
        ((1, 2), (3, 4))
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if is_dataclass(annotation) and isinstance(annotation, type):
        hints = get_type_hints(annotation)
        return annotation(**{name: built(each, hints[name]) for name, each in value.items()})
    if origin in {Union, UnionType}:
        return built(value, next((each for each in inner if fits(value, each)), None))
    if origin is tuple:
        types = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(built(each, type_) for each, type_ in zip(value, types, strict=True))
    if origin is dict:
        return {inner[0](key): built(each, inner[1]) for key, each in value.items()}
    return value


# -- States with a checksum -----------------------------------------------------------------------


def sealed(fields: Mapping[str, object], *, version: int) -> State:
    """Return a state of plain values with a format version and a checksum.

    Example:
        >>> sorted(sealed({"epoch": 3}, version=1))
        ['checksum', 'epoch', 'version']
    """
    plain: State = _plain({"version": version, **fields})
    return {**plain, _CHECKSUM: _checksum(plain)}


def opened(
    state: Mapping[str, object], names: Iterable[str], *, owner: str, version: int, how: str
) -> State:
    """Return the fields of a sealed state. No missing field is filled in."""
    load = f"Load what {how} returned."
    if not isinstance(state, Mapping):
        raise PlanError(f"not a state of {owner}: got {type(state).__name__}. {load}")
    given, expected = set(state), {*names, "version", _CHECKSUM}
    if state.get("version", version) != version and (given == expected or not expected <= given):
        raise PlanError(
            f"the state has format {state['version']!r}, this version reads {version}. Resume with "
            "the version of batchwright that saved it."
        )
    if given != expected:
        differ = {"without": sorted(expected - given), "with": sorted(map(str, given - expected))}
        wrong = " and ".join(f"{word} {which}" for word, which in differ.items() if which)
        raise PlanError(f"not a state of {owner}: it is {wrong}. {load}")
    try:
        plain: State = _plain({name: state[name] for name in state if name != _CHECKSUM})
        same = state[_CHECKSUM] == _checksum(plain)
    except (TypeError, ValueError, OverflowError, RecursionError):
        same = False
    if same is not True:
        raise PlanError(
            f"the state of {owner} was changed after it was saved: its checksum does not match. "
            f"{load}"
        )
    del plain["version"]
    return plain


def _plain(value: Any) -> Any:
    """Convert integers of NumPy and torch, and tuples, which JSON would refuse."""
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return operator.index(value)


def _checksum(fields: Mapping[str, object]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# -- States of arrays -----------------------------------------------------------------------------


def check_keys(state: object, names: Collection[str], owner: str) -> None:
    """Raise LengthsError unless a state of `owner` is a mapping of exactly these keys."""
    if not isinstance(state, Mapping):
        _refuse(owner, f"a {type(state).__name__}, expected a dict")
    if missing := [name for name in names if name not in state]:
        _refuse(owner, f"it has no {', '.join(map(repr, missing))}")
    if unknown := [name for name in state if name not in names]:
        _refuse(owner, f"it has {one_line(repr(unknown[0]), 60)}")


def state_array(
    state: Mapping[str, object], name: str, dtype: npt.DTypeLike, size: int, owner: str
) -> npt.NDArray[Any]:
    """Copy one array of a state, which a checkpoint may have made a tensor or a list."""
    wanted = np.dtype(dtype)
    given = _as_array(state[name])
    if given.shape != (size,) or given.dtype.kind not in ("iu" if wanted.kind == "i" else "iuf"):
        shape = f"{given.dtype}{list(given.shape)}"
        _refuse(owner, f"{name!r} is {shape}, expected {wanted}[{size}]", ", for the same data")
    with np.errstate(all="ignore"):
        array = given.astype(wanted)
    exact = (array == given) | ((array != array) & (given != given))  # noqa: PLR0124 -- NaN
    if not exact.all():
        index = int(np.argmin(exact))
        value = one_line(given[index], 60)
        _refuse(owner, f"{name}[{index}] is {value}, which {wanted} cannot represent")
    return array


def state_integer(state: Mapping[str, object], name: str, owner: str) -> int:
    """Read one integer of a state, from 0 to 2⁶³ − 1, or raise LengthsError."""
    value = state[name]
    given = _as_array(value)
    if given.size != 1 or given.dtype.kind not in "iu" or not 0 <= given.item() < 2**63:
        is_plain = value is None or isinstance(value, int | float | str)
        shown = one_line(repr(value), 60) if is_plain else f"a {type(value).__name__}"
        _refuse(owner, f"{name!r} is {shown}, expected an integer of at least 0")
    return int(given.item())


def check_that(holds: npt.ArrayLike, wrong: str, owner: str) -> None:
    """Raise LengthsError unless a condition holds, for one number or for every sample."""
    each = np.asarray(holds)
    if not each.all():
        _refuse(owner, wrong + (f" for sample {int(np.argmin(each))}" if each.ndim else ""))


def _refuse(owner: str, wrong: str, of: str = "") -> NoReturn:
    raise LengthsError(f"not a state of {owner}: {wrong}. Load what state_dict() returned{of}.")


def _as_array(value: object) -> npt.NDArray[Any]:
    """Read anything; what NumPy cannot read becomes an array of objects."""
    tensor = value.detach().cpu() if hasattr(value, "detach") else value
    try:
        return np.asarray(tensor)
    except Exception:  # noqa: BLE001 -- the object is a user's, and may raise anything
        return np.empty((), dtype=object)
