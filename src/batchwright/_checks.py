"""Checks of settings: each returns Python's own value, or raises an error that names it."""

import inspect
import math
import numbers
import operator
from collections.abc import Callable
from typing import Any

from batchwright.errors import BatchwrightError, BudgetError, PlanError

MOST_EPOCHS = 2**32
"""Draws until then can be counted in 64 bits."""

_EXACT = 2**53  # integers up to here are floats, too
_MOST = 2**63 - 1  # what an array of 64-bit integers holds


def epoch_number(epoch: object) -> int:
    """Return the epoch that `set_epoch` was given as Python's own integer.

    Example:
        >>> epoch_number(3)
        3
    """
    return whole_number("set_epoch", "epoch", epoch, least=0, most=MOST_EPOCHS, error=PlanError)


def whole_number(
    owner: str | None,
    name: str,
    value: object,
    *,
    least: int = 1,
    most: int = _MOST,
    error: type[BatchwrightError] = BudgetError,
) -> int:
    """Return a setting as Python's own integer.

    Example:
        >>> whole_number("Packing", "capacity", 0)
        Traceback (most recent call last):
        batchwright.errors.BudgetError: Packing(capacity=0): expected an integer of at least 1.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]  # others raise
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        given = f"{name}={value!r}" if owner is None else f"{owner}({name}={value!r})"
        above = "" if number is None or number <= most else f", at most {most}"
        raise error(f"{given}: expected an integer of at least {least}{above}.")
    return number


def keep_whole(
    instance: object, *names: str, optional: tuple[str, ...] = (), **limits: Any
) -> None:
    """Check integers of a frozen dataclass by `whole_number`; those in `optional` may be None."""
    for name in (*names, *optional):
        value = getattr(instance, name)
        if value is not None or name not in optional:
            number = whole_number(type(instance).__name__, name, value, **limits)
            object.__setattr__(instance, name, number)


def real_number(
    owner: str,
    name: str,
    value: object,
    *,
    accepts: Callable[[float], bool],
    expected: str,
    error: type[BatchwrightError] = BudgetError,
) -> int | float:
    """Return a setting as Python's own number, if `accepts` does; NaN is never accepted.

    Example:
        >>> real_number("LossTable", "smoothing", 2, accepts=lambda s: 0 <= s < 1,
        ...             expected="a share below 1")
        Traceback (most recent call last):
        batchwright.errors.BudgetError: LossTable(smoothing=2): expected a share below 1.
    """
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            number: int | float = float(value)
        except OverflowError:
            number = math.nan
        if isinstance(value, numbers.Integral) and abs(number) <= _EXACT:
            number = int(value)
        if not math.isnan(number) and accepts(number):
            return number
    raise error(f"{owner}({name}={value!r:.60}): expected {expected}.")


def budgets(owner: str, name: str, value: object) -> int | tuple[int, ...]:
    """Return a budget, or one for each of several columns, as Python's own integers."""
    if not isinstance(value, list | tuple):
        return whole_number(owner, name, value)
    if not value:
        raise BudgetError(f"{owner}({name}={value!r}): expected one budget for each column.")
    return tuple(whole_number(owner, name, each) for each in value)


def check_positive(owner: str, **settings: object) -> None:
    """Raise BudgetError unless every setting is an integer of at least 1, or None.

    Example:
        >>> check_positive("Packing", capacity=0)
        Traceback (most recent call last):
        batchwright.errors.BudgetError: Packing(capacity=0): expected an integer of at least 1.
    """
    for name, value in settings.items():
        if value is not None:
            whole_number(owner, name, value)


def check_choice(
    owner: str,
    name: str,
    value: object,
    choices: tuple[str, ...],
    error: type[BatchwrightError] = BudgetError,
) -> None:
    """Raise `error` unless a setting is one of a few words."""
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise error(f"{owner}({name}={value!r}): expected one of {listed}.")


def check_flag(instance: object, name: str, *, error: type[BatchwrightError] = BudgetError) -> None:
    """Raise `error` unless a setting is True or False."""
    value = getattr(instance, name)
    if type(value).__name__ not in {"bool", "bool_"}:
        raise error(f"{type(instance).__name__}({name}={value!r:.60}): expected True or False.")


def keep_number(
    instance: object,
    name: str,
    accepts: Callable[[float], bool],
    expected: str,
    *,
    error: type[BatchwrightError] = BudgetError,
) -> None:
    """Check a number of a frozen dataclass by `real_number`."""
    owner, value = type(instance).__name__, getattr(instance, name)
    number = real_number(owner, name, value, accepts=accepts, expected=expected, error=error)
    object.__setattr__(instance, name, number)


def takes(function: Callable[..., Any], *args: object, **options: object) -> bool:
    """Return whether a function can be called with such arguments, as far as is known."""
    try:
        inspect.signature(function).bind(*args, **options)
    except TypeError:
        return False
    except ValueError:  # built in: it says nothing
        return True
    return True
