"""The state of a `Precision`, checked key by key before anything of it is taken over."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchwright.errors import PrecisionError
from batchwright.torch.update.policy import MODES

_SCALER = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")


@dataclass(frozen=True)
class PrecisionState:
    """A state with every value of the right kind.

    Attributes:
        mode: The mode in use, ``"custom"``, or None.
        scaler: State of the gradient scaler; None where there was none.
        applied: Updates that moved the parameters.
        skipped: Updates that did not.
        below: Updates in a row with the loss scale below its floor.
        limit_tokens: Size of batch that did not fit; None where all did.
        limit_clean: Updates since then that had room.
    """

    mode: str | None
    scaler: dict[str, Any] | None
    applied: int
    skipped: int
    below: int
    limit_tokens: float | None
    limit_clean: int


def checked_state(state: object) -> PrecisionState:
    """Check what `Precision.state_dict` returned.

    Args:
        state: The state, as it was or after a way through JSON or `torch.save`.

    Returns:
        The same, as plain Python numbers.

    Raises:
        PrecisionError: Naming the first thing that is wrong.
    """
    if not isinstance(state, Mapping):
        raise _wrong(f"it is a {type(state).__name__}, expected a dict")
    names = {"mode", "scaler", "applied", "skipped", "below", "limit"}
    if set(state) != names:
        missing, more = sorted(names - set(state)), sorted(map(str, set(state) - names))
        raise _wrong(f"it lacks {missing} and has {more} besides")
    mode = state["mode"]
    if mode is not None and (not isinstance(mode, str) or mode not in {*MODES, "custom"}):
        raise _wrong(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
    limit = state["limit"]
    if not isinstance(limit, list | tuple) or len(limit) != 2:
        raise _wrong(f"limit is {limit!r}, expected [tokens or None, updates]")
    tokens = None if limit[0] is None else _number("limit", limit[0], above=0.0)
    return PrecisionState(
        mode,
        _scaler(state["scaler"]),
        _count("applied", state["applied"]),
        _count("skipped", state["skipped"]),
        _count("below", state["below"]),
        tokens,
        _count("limit", limit[1]),
    )


def _scaler(state: object) -> dict[str, Any] | None:
    if state is None or state == {}:  # of a scaler that is switched off
        return None
    if not isinstance(state, Mapping) or set(state) != set(_SCALER):
        raise _wrong(f"scaler is {state!r}, expected None or a dict with {', '.join(_SCALER)}")
    return {
        "scale": _number("scale", state["scale"], above=0.0),
        "growth_factor": _number("growth_factor", state["growth_factor"], above=1.0),
        "backoff_factor": _number("backoff_factor", state["backoff_factor"], above=0.0, below=1.0),
        "growth_interval": _count("growth_interval", state["growth_interval"]),
        "_growth_tracker": _count("_growth_tracker", state["_growth_tracker"]),
    }


def _count(name: str, value: object) -> int:
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if not 0 <= number < 2**63:
        raise _wrong(f"{name} is {value!r}, expected a whole number of 0 or more")
    return number


def _number(name: str, value: object, *, above: float, below: float = math.inf) -> float:
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not above < number < below:
        raise _wrong(f"{name} is {value!r}, expected a number above {above:g}, below {below:g}")
    return number


def _wrong(what: str) -> PrecisionError:
    return PrecisionError(
        f"no state of a Precision: {what}. Load what Precision.state_dict() returned."
    )
