"""Arrays of a state that may have been through a checkpoint: read key by key, or refused."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from batchwright._format import one_line
from batchwright.errors import ScoresError


def check_keys(state: Any, names: Collection[str], owner: str) -> None:
    """Raise unless a state is a mapping of exactly these keys.

    Args:
        state: What was given.
        names: The keys.
        owner: The class whose state it should be.

    Raises:
        ScoresError: Naming the keys that are missing, or unknown.

    Example:
        >>> check_keys({"losses": [1.0]}, ["losses", "calls"], "LossTable")
        Traceback (most recent call last):
        batchwright.errors.ScoresError: not a state of LossTable: it has no 'calls'. ...
    """
    if not isinstance(state, Mapping):
        wrong = f"a {type(state).__name__}, expected a dict"
    elif missing := [name for name in names if name not in state]:
        wrong = f"it has no {', '.join(map(repr, missing))}"
    elif unknown := [name for name in state if name not in names]:
        wrong = f"it has {one_line(repr(unknown[0]), 60)}"
    else:
        return
    raise ScoresError(f"not a state of {owner}: {wrong}. Load what state_dict() returned.")


def state_array(
    state: Mapping[str, Any], name: str, dtype: npt.DTypeLike, size: int, owner: str
) -> npt.NDArray[Any]:
    """Read one array: of NumPy, a tensor, or a list, as checkpoints make of arrays.

    Args:
        state: The state.
        name: Its key.
        dtype: Of which type its numbers are.
        size: How many.
        owner: The class whose state it is.

    Returns:
        dtype[size], a copy.

    Raises:
        ScoresError: It has another shape, or numbers that the type does not have.

    Example:
        >>> state_array({"recorded": [1, 2]}, "recorded", "int64", 2, "LossTable")
        array([1, 2])
    """
    wanted = np.dtype(dtype)
    given = _as_array(state[name])
    if given.shape != (size,) or given.dtype.kind not in ("iu" if wanted.kind == "i" else "iuf"):
        raise ScoresError(
            f"not a state of {owner}: {name!r} is {given.dtype}{list(given.shape)}, expected "
            f"{wanted}[{size}]. Load what state_dict() returned, of the same data."
        )
    with np.errstate(all="ignore"):
        array = given.astype(wanted)
    exact = (array == given) | ((array != array) & (given != given))  # noqa: PLR0124 -- NaN
    if not exact.all():
        index = int(np.argmin(exact))
        raise ScoresError(
            f"not a state of {owner}: {name}[{index}] is {one_line(given[index], 60)}, which no "
            f"{wanted} is. Load what state_dict() returned."
        )
    return array


def state_integer(state: Mapping[str, Any], name: str, owner: str) -> int:
    """Read one whole number of at least 0.

    Raises:
        ScoresError: It is none, or larger than an int64.
    """
    given = _as_array(state[name])
    if given.size != 1 or given.dtype.kind not in "iu" or not 0 <= given.item() < 2**63:
        value = state[name]
        is_plain = value is None or isinstance(value, int | float | str)
        shown = one_line(repr(value), 60) if is_plain else f"a {type(value).__name__}"
        raise ScoresError(
            f"not a state of {owner}: {name!r} is {shown}, expected a whole number of at least 0. "
            "Load what state_dict() returned."
        )
    return int(given.item())


def check_that(holds: Any, wrong: str, owner: str) -> None:
    """Raise unless a fact holds, of one number or of each.

    Raises:
        ScoresError: Saying what is wrong, and of which sample first.
    """
    each = np.asarray(holds)
    if each.all():
        return
    of = f" of sample {int(np.argmin(each))}" if each.ndim else ""
    raise ScoresError(f"not a state of {owner}: {wrong}{of}. Load what state_dict() returned.")


def _as_array(value: Any) -> npt.NDArray[Any]:
    """Read what NumPy can read; what it cannot is an array of objects."""
    tensor = value.detach().cpu() if hasattr(value, "detach") else value
    try:
        return np.asarray(tensor)
    except Exception:  # noqa: BLE001 -- whatever somebody's object says when it is read
        return np.empty((), dtype=object)
