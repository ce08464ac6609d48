"""Text from outside, made safe to show: names of files and columns, values, messages."""

from collections.abc import Mapping
from typing import Any


def printable(text: str) -> str:
    r"""Escape characters that are invisible or would steer a terminal.

    Example:
        >>> print(printable("a\x1b[2Jb\nc\u202e"))
        a\x1b[2Jb\nc\u202e
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def all_printable(facts: Any) -> Any:
    r"""Make every text in nested dictionaries and lists `printable`.

    Example:
        >>> print(all_printable({"name": ["a\x1bb"], "size": 3}))
        {'name': ['a\\x1bb'], 'size': 3}
    """
    if isinstance(facts, str):
        return printable(facts)
    if isinstance(facts, Mapping):
        return {all_printable(key): all_printable(each) for key, each in facts.items()}
    if isinstance(facts, list | tuple):
        return [all_printable(each) for each in facts]
    return facts


def printable_lines(text: str) -> str:
    """Make each line of a text `printable`, and keep the line breaks."""
    return "\n".join(printable(line) for line in text.split("\n"))


def one_line(value: object, limit: int | None = None) -> str:
    r"""Show a value or an error's message on one `printable` line of at most `limit` characters.

    Example:
        >>> print(one_line("no such file:\n  a\x1bb"), one_line("abcdef", 4))
        no such file: a\x1bb abc…
    """
    # An error without a message is shown by its type.
    said = str(value) or (type(value).__name__ if isinstance(value, BaseException) else "")
    text = printable(" ".join(said.split()))
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"
