"""Settings of pacing functions, checked when they are made.

Each check also puts the plain Python value in place of a NumPy number or a list, so that equal
settings are equal values, hash alike and print as they would be typed.
"""

import numbers
import operator
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from batchwright.errors import PlanError


def check_share(pacing: object, *names: str) -> None:
    """Raise unless each setting is a share of the samples, above 0 and at most 1.

    Raises:
        PlanError: Naming the setting, its value and what it should be.

    Example:
        >>> import batchwright.pacing
        >>> batchwright.pacing.linear(start=20)
        Traceback (most recent call last):
        batchwright.errors.PlanError: linear(start=20): expected a share of the samples, above 0
        and at most 1 (a fifth is 0.2).
    """
    expected = "a share of the samples, above 0 and at most 1 (a fifth is 0.2)"
    _check(pacing, names, expected, _number, lambda share: 0 < share <= 1)


def check_reach(pacing: object, *names: str) -> None:
    """Raise unless each setting is a share of the horizon, above 0."""
    expected = "a share of the horizon, a finite number above 0 (half of it is 0.5)"
    _check(pacing, names, expected, _number, lambda share: share > 0)


def check_above(low: float, pacing: object, *names: str) -> None:
    """Raise unless each setting is a finite number above `low`."""
    _check(pacing, names, f"a finite number above {low}", _number, lambda value: value > low)


def check_at_least(low: float, pacing: object, *names: str) -> None:
    """Raise unless each setting is a finite number of at least `low`."""
    expected = f"a finite number of at least {low}"
    _check(pacing, names, expected, _number, lambda value: value >= low)


def check_rate(pacing: object, *names: str) -> None:
    """Raise unless each setting is at least 0 and below 1."""
    expected = "a rate of at least 0 and below 1 (two in five is 0.4)"
    _check(pacing, names, expected, _number, lambda rate: 0 <= rate < 1)


def check_count(pacing: object, *names: str) -> None:
    """Raise unless each setting is an integer of at least 1, and exact as a float."""
    expected = "an integer of at least 1, below 2^53"
    _check(pacing, names, expected, _count, lambda count: 1 <= count < 2**53)


def check_shares(pacing: object, *names: str) -> None:
    """Raise unless each setting is one share of the samples or several."""
    expected = "a sequence of shares, each above 0 and at most 1"
    _check(
        pacing,
        names,
        expected,
        _numbers,
        lambda shares: shares and 0 < min(shares) <= max(shares) <= 1,
    )


def check_moments(pacing: object, *names: str) -> None:
    """Raise unless each setting is a rising sequence of progress, between 0 and 1."""
    expected = "a sequence of progress, each between 0 and 1 and more than the one before"
    _check(
        pacing,
        names,
        expected,
        _numbers,
        lambda moments: (
            all(0 <= moment <= 1 for moment in moments) and all(a < b for a, b in pairwise(moments))
        ),
    )


def _check(
    pacing: object,
    names: tuple[str, ...],
    expected: str,
    plain: Callable[[Any], Any],
    accepts: Callable[[Any], object],
) -> None:
    """Put `plain` of each setting in its place; raise unless that works and is accepted."""
    for name in names:
        given = getattr(pacing, name)
        try:
            value = plain(given)
            good = accepts(value)
        except (TypeError, OverflowError):
            good = False
        if not good:
            owner = type(pacing).__name__
            raise PlanError(f"{owner}({name}={given!r}): expected {expected}.")
        object.__setattr__(pacing, name, value)


def _number(value: Any) -> int | float:
    """Return a finite number as Python's own int or float."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError
    plain = int(value) if isinstance(value, numbers.Integral) else float(value)
    if not abs(plain) <= sys.float_info.max:  # NaN is not
        raise OverflowError
    return plain


def _numbers(values: Any) -> tuple[int | float, ...]:
    """Return finite numbers as a tuple of Python's own."""
    return tuple(_number(value) for value in values)


def _count(value: Any) -> int:
    """Return an integer as Python's own."""
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)
