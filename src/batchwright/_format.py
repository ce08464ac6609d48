"""How text from outside is shown: names of files and columns, values, messages of libraries."""


def printable(text: str) -> str:
    r"""Write out what would not be seen, or would steer a terminal.

    Example:
        >>> print(printable("a\x1b[2Jb\nc\u202e"))
        a\x1b[2Jb\nc\u202e
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(value: object, limit: int | None = None) -> str:
    r"""Show a value, or an error's message, on one line, as `printable` does.

    Args:
        value: Anything; its `str` is shown, of an error without a message its type.
        limit: The most characters; None: any number.

    Example:
        >>> print(one_line("no such file:\n  a\x1bb"), one_line("abcdef", 4))
        no such file: a\x1bb abc…
    """
    said = str(value) or (type(value).__name__ if isinstance(value, BaseException) else "")
    text = printable(" ".join(said.split()))
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"
