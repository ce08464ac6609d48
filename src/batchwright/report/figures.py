"""Figures as people read them."""

from batchwright._format import one_line as one_line  # noqa: PLC0414 -- also from here


def number(value: float) -> str:
    """Write a number with separators, and no more digits than tell something.

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
        >>> plural(1, "rank"), plural(2, "batch")
        ('1 rank', '2 batches')
    """
    ending = "" if count == 1 else "es" if noun.endswith("ch") else "s"
    return f"{number(count)} {noun}{ending}"


def mebibytes(size: float) -> str:
    """Write bytes in MiB: whole ones, or of less than ten two digits.

    Example:
        >>> mebibytes(300 * 2**20), mebibytes(2**19)
        ('300', '0.5')
    """
    return f"{size / 2**20:,.0f}" if size >= 10 * 2**20 else f"{size / 2**20:.2g}"
