"""States that load exactly as they were saved, or are refused.

A state is a flat mapping that JSON can keep. It carries a format version and a checksum of all the
rest: a key that is missing, one too many, or a value that was edited is an error. Nothing is filled
in.
"""

import hashlib
import json
import operator
from collections.abc import Iterable, Mapping
from typing import Any

from batchwright.errors import PlanMismatchError

CHECKSUM = "checksum"


def sealed(fields: Mapping[str, Any], *, version: int) -> dict[str, Any]:
    """Add the format version and a checksum to what a state says.

    Args:
        fields: Name → value: plain values, lists and mappings of them.
        version: The format.

    Returns:
        The state, all of plain values: integers of NumPy become Python's.

    Example:
        >>> sorted(sealed({"epoch": 3}, version=1))
        ['checksum', 'epoch', 'version']
    """
    plain: dict[str, Any] = _plain({"version": version, **fields})
    return {**plain, CHECKSUM: _checksum(plain)}


def opened(
    state: Mapping[str, Any], names: Iterable[str], *, owner: str, version: int, how: str
) -> dict[str, Any]:
    """Check a state, and return what it says.

    Args:
        state: What `sealed` returned, perhaps by way of JSON or pickle.
        names: The keys it must have, besides those of `sealed`.
        owner: What it is a state of, for messages.
        version: The format that is read.
        how: What returns such a state, for messages.

    Returns:
        Name → value, all of plain values.

    Raises:
        PlanMismatchError: If it is no such state, of another format, or was changed after it was
            saved.
    """
    if not isinstance(state, Mapping):
        raise PlanMismatchError(
            f"not a state of {owner}: got {type(state).__name__}. Load what {how} returned."
        )
    given, expected = set(state), {*names, "version", CHECKSUM}
    if "version" in given and given & expected != expected and state["version"] != version:
        _refuse_version(state["version"], version)
    if given != expected:
        missing, unknown = sorted(expected - given), sorted(map(str, given - expected))
        parts = [
            f"{what} {each}" for what, each in (("without", missing), ("with", unknown)) if each
        ]
        raise PlanMismatchError(
            f"not a state of {owner}: it is {' and '.join(parts)}. Load what {how} returned."
        )
    if state["version"] != version:
        _refuse_version(state["version"], version)
    try:
        plain: dict[str, Any] = _plain({name: state[name] for name in state if name != CHECKSUM})
        same = state[CHECKSUM] == _checksum(plain)
    except (TypeError, ValueError, OverflowError, RecursionError):
        same = False
    if same is not True:
        raise PlanMismatchError(
            f"the state of {owner} was changed after it was saved: its checksum does not fit. Load "
            f"what {how} returned."
        )
    del plain["version"]
    return plain


def _refuse_version(given: object, version: int) -> None:
    raise PlanMismatchError(
        f"the state has format {given!r}, this version reads {version}. Resume with the version of "
        "batchwright that saved it."
    )


def _plain(value: Any) -> Any:
    """Make plain values of what JSON would refuse: whole numbers of NumPy and torch, tuples."""
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return operator.index(value)


def _checksum(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
