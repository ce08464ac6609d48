"""Numbers and texts as people read them; names and messages from outside made safe to print."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
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


def all_printable(value: Any) -> Any:
    r"""Make every text in a value `printable`, in dictionaries, sequences and dataclasses too.

    Example:
        >>> print(all_printable({"name": ["a\x1bb"], "size": 3}))
        {'name': ['a\\x1bb'], 'size': 3}
    """
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {all_printable(key): all_printable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [all_printable(each) for each in value]
    if isinstance(value, tuple):
        return tuple(all_printable(each) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value,
            **{each.name: all_printable(getattr(value, each.name)) for each in fields(value)},
        )
    return value


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


def number(value: float) -> str:
    """Write a number with separators, and only significant digits.

    Example:
        >>> number(1234567), number(357.125), number(4.0), number(0.1234), number(629.4)
        ('1,234,567', '357.1', '4', '0.12', '629.4')
    """
    if value == round(value):
        return f"{round(value):,}"
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def percent(share: float) -> str:
    """Write a share in percent; what is not all is never rounded to 100, nor a little to 0.

    Example:
        >>> percent(0.6523), percent(0.99996), percent(1), percent(0.00002), percent(1e-9)
        ('65.2 %', '99.996 %', '100 %', '0.002 %', '< 0.001 %')
    """
    if share in {0, 1}:
        return f"{share:.0%}".replace("%", " %")
    for digits in (1, 2, 3):
        text = f"{100 * share:.{digits}f}"
        if float(text) not in {0, 100}:
            return f"{text} %"
    return "< 0.001 %" if share < 0.5 else "> 99.999 %"


def short(value: int) -> str:
    """Write a round number in few characters.

    Example:
        >>> short(5), short(2_000), short(10_000_000), short(1_500)
        ('5', '2k', '10M', '1500')
    """
    for size, sign in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size and value % size == 0:
            return f"{value // size}{sign}"
    return str(value)


def duration(seconds: float) -> str:
    """Write a time.

    Example:
        >>> duration(0.0123), duration(0.5), duration(12.3), duration(200)
        ('12 ms', '0.50 s', '12.3 s', '3 min 20 s')
    """
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def plural(count: int, noun: str) -> str:
    """Count things.

    Example:
        >>> plural(1, "rank"), plural(2, "batch"), plural(2, "epoch")
        ('1 rank', '2 batches', '2 epochs')
    """
    ending = "" if count == 1 else "es" if noun.endswith("tch") else "s"
    return f"{number(count)} {noun}{ending}"


def listed(parts: Sequence[str]) -> str:
    """Join parts of a sentence.

    Example:
        >>> listed(["one"]), listed(["one", "two", "three"])
        ('one', 'one, two and three')
    """
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last


def items_that_are(what: str, count: int, of: int, name: str, first: int) -> str:
    """Count items of an array that are something, and name the first.

    Example:
        >>> items_that_are("missing", 3, 4_000, "labels", 17)
        '3 of 4,000 labels are missing, the first is labels[17]'
        >>> items_that_are("0", 1, 8, "lengths", 2)
        '1 of 8 lengths is 0, lengths[2]'
    """
    if count == 1:
        return f"1 of {of:,} {name} is {what}, {name}[{first}]"
    return f"{count:,} of {of:,} {name} are {what}, the first is {name}[{first}]"


def mebibytes(size: float) -> str:
    """Write bytes in MiB: whole ones, or of less than ten two digits.

    Example:
        >>> mebibytes(300 * 2**20), mebibytes(2**19)
        ('300', '0.5')
    """
    return f"{size / 2**20:,.0f}" if size >= 10 * 2**20 else f"{size / 2**20:.2g}"


def capital(text: str) -> str:
    """Write a sentence's first letter large, but leave names such as bf16 as they are.

    Example:
        >>> capital("no shuffling"), capital("fp32 is slow")
        ('No shuffling', 'fp32 is slow')
    """
    return f"{text[:1].upper()}{text[1:]}" if text.partition(" ")[0].isalpha() else text


def interval(
    mean: float, low: float | None, high: float | None, *, sign: str = "", digits: int = 2
) -> str:
    """Write a figure, and its interval if there is one.

    Example:
        >>> interval(2, 1.5, 2.5), interval(2, None, None)
        ('2.00 (1.50 – 2.50)', '2.00')
    """
    text = f"{mean:{sign}.{digits}f}"
    if low is None or low == high:
        return text
    return f"{text} ({low:{sign}.{digits}f} – {high:{sign}.{digits}f})"
