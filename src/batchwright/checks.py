"""Settings of the planning part, checked at the door."""

import inspect
import operator
from collections.abc import Callable
from typing import Any

from batchwright.errors import BatchwrightError, BudgetError

_MOST = 2**63 - 1  # what an array of 64-bit integers holds


def whole_number(
    owner: str | None,
    name: str,
    value: Any,
    *,
    least: int = 1,
    most: int = _MOST,
    error: type[BatchwrightError] = BudgetError,
) -> int:
    """Return a setting as Python's own integer: NumPy's are welcome, but JSON does not know them.

    Args:
        owner: The class or function that has the setting, for the message. None: the message goes
            without.
        name: Its name.
        value: Its value.
        least: The least it may be.
        most: The most it may be.
        error: What to raise.

    Raises:
        BatchwrightError: Of class `error`, if it is no integer, or out of range.

    Example:
        >>> whole_number("Packing", "capacity", 0)
        Traceback (most recent call last):
        batchwright.errors.BudgetError: Packing(capacity=0): expected an integer of at least 1.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        given = f"{name}={value!r}" if owner is None else f"{owner}({name}={value!r})"
        above = "" if number is None or number <= most else f", at most {most}"
        raise error(f"{given}: expected an integer of at least {least}{above}.")
    return number


def keep_whole(instance: Any, *names: str, optional: tuple[str, ...] = (), **limits: Any) -> None:
    """Put Python's own integers in the place of settings of a frozen dataclass.

    Args:
        instance: What has the settings.
        *names: Those that have to be there.
        optional: Those that may also be None.
        **limits: As `whole_number` takes them.

    Raises:
        BatchwrightError: Naming the first that is no integer, or out of range.
    """
    for name in (*names, *optional):
        value = getattr(instance, name)
        if value is not None or name not in optional:
            number = whole_number(type(instance).__name__, name, value, **limits)
            object.__setattr__(instance, name, number)


def check_positive(owner: str, **settings: Any) -> None:
    """Raise unless every setting is an integer of at least 1, or None.

    Args:
        owner: The class that has the settings, for the message.
        **settings: Name and value.

    Raises:
        BudgetError: Naming the first that is not.

    Example:
        >>> check_positive("Packing", capacity=0)
        Traceback (most recent call last):
        batchwright.errors.BudgetError: Packing(capacity=0): expected an integer of at least 1.
    """
    for name, value in settings.items():
        if value is not None:
            whole_number(owner, name, value)


def check_choice(owner: str, name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise unless a setting is one of a few words.

    Args:
        owner: The class that has the setting, for the message.
        name: Its name.
        value: Its value.
        choices: What it may be.

    Raises:
        BudgetError: Listing the choices.
    """
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise BudgetError(f"{owner}({name}={value!r}): expected one of {listed}.")


def takes(function: Callable[..., Any], *args: Any, **options: Any) -> bool:
    """Say whether a function can be called with such arguments, as far as its signature says."""
    try:
        inspect.signature(function).bind(*args, **options)
    except TypeError:
        return False
    except ValueError:  # built in: it says nothing
        return True
    return True
