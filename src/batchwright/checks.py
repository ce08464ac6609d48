"""Settings of batchings, checked when they are made."""

import operator
from typing import Any

from batchwright.errors import BudgetError


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
        if value is None:
            continue
        try:
            good = operator.index(value) >= 1
        except TypeError:
            good = False
        if not good:
            raise BudgetError(f"{owner}({name}={value!r}): expected an integer of at least 1.")


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
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise BudgetError(f"{owner}({name}={value!r}): expected one of {listed}.")
