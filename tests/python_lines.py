"""Work, counted in lines of Python: a measure of loops that no machine and no neighbour changes."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


def python_lines(function: Callable[[], T]) -> tuple[int, T]:
    """Count the lines of Python that a call runs, each as often as it runs.

    Returns:
        The count, and what the function returned.

    Example:
        >>> python_lines(lambda: sum([1] * 1_000))[0]
        1
        >>> python_lines(lambda: sum([1 for _ in range(1_000)]))[0] > 1_000
        True
    """
    lines = 0

    def count(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        returned = function()
    finally:
        sys.settrace(before)
    return lines, returned
