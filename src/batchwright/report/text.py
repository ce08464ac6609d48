"""Reports in a terminal."""

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from batchwright._format import all_printable, printable, short
from batchwright.report.sections import Card, Picture, Report, Section
from batchwright.stats.lengths import Histogram
from batchwright.typing import FloatArray

_RISING = " ▁▂▃▄▅▆▇█"  # cells from empty to full, filled from below
_FILLING = " ▏▎▍▌▋▊▉█"  # filled from the left
_REST = "░"  # the part of a bar that is not filled

_ASCII = str.maketrans(
    {
        **dict.fromkeys("▁▂▃░", "."),
        **dict.fromkeys("▄▅▆▇▏▎▍▌▋▊▉", ":"),
    }
    | {"█": "#", "×": "x", "–": "-", "÷": "/", "·": "-", "…": "~", "µ": "u", "²": "2"}
)

_CURVE_ROWS = 3
_SHORTEST_BAR = 8
_HEADING = 16  # characters of a line of a heading
_GAP = 2
_VERDICT = 13  # characters of the column of verdicts
_STYLES = {
    "use": "bold green",
    "do not use": "bold red",
    "cannot tell": "bold yellow",
    "error": "bold red",
    "warning": "bold yellow",
    "info": "bold cyan",
}


def encodable(text: str, encoding: str) -> str:
    """Replace what an encoding lacks: what we draw with by ASCII, and other characters by ``?``.

    Example:
        >>> encodable("██▌░ 2 × naïve", "ascii"), encodable("2 × naïve", "latin-1")
        ('##:. 2 x na?ve', '2 × naïve')
    """
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text


def bar(share: float, width: int) -> tuple[str, str]:
    """Draw a share as a bar of `width` characters: the filled part, and the rest.

    Only a share of 1 fills all of it, and only a share of 0 nothing.

    Example:
        >>> bar(0.75, 8)
        ('██████', '░░')
    """
    fine = len(_FILLING) - 1
    filled = int(share * width * fine)
    if 0 < share < 1:
        filled = min(max(filled, 1), width * fine - 1)
    whole, part = divmod(filled, fine)
    drawn = _FILLING[-1] * whole + (_FILLING[part] if part else "")
    return drawn, _REST * (width - len(drawn))


def curve(heights: FloatArray, rows: int) -> list[str]:
    """Draw heights from 0 to 1 as columns, in lines from the top; only 0 is left empty.

    Example:
        >>> import numpy as np
        >>> curve(np.array([0.0, 0.5, 1.0]), 2)
        ['  █', ' ██']
    """
    fine = len(_RISING) - 1
    filled = [max(round(height * rows * fine), height > 0) for height in heights.tolist()]
    return [
        "".join(_RISING[min(max(level - row * fine, 0), fine)] for level in filled)
        for row in reversed(range(rows))
    ]


def print_report(console: Console, report: Report) -> None:
    """Print a report, its head last: that is where the eye is when a command ends."""
    head = all_printable(report.head)
    if head is not None:
        console.print(Text(printable(report.about or report.title), "dim", overflow="fold"))
    print_sections(console, report.printed)
    if head is None:
        return
    if head.code:
        console.print()
        for line in head.code:
            console.print(Text(line), soft_wrap=True)
    if head.more:
        console.print()
        console.print(Text(head.more, "dim", overflow="fold"))
    console.print()
    console.print(Text(head.text, _STYLES.get(head.verdict, "bold"), overflow="fold"))
    if head.detail:
        console.print(Text(head.detail, overflow="fold"))
    if head.then:
        console.print(Text(head.then, "dim", overflow="fold"))


def print_sections(console: Console, sections: Sequence[Section]) -> None:
    """Print sections, as wide as the console. Names of files and the like are made `printable`."""
    for section in all_printable([each for each in sections if each.has_content]):
        console.print()
        if section.title:
            console.print(Text(section.title, "bold cyan", overflow="fold"))
        for sentence in section.sentences:
            console.print(Text(sentence, overflow="fold"))
        for card in section.cards:
            console.print(_in_columns(card))
        if section.picture is not None:
            _print_picture(console, section.picture)
        if section.rows:
            console.print(_table(section, console.width))
        if section.histogram is not None and len(section.histogram.counts) > 1:
            for line in curve(section.histogram.heights(console.width), _CURVE_ROWS):
                console.print(Text(line, "cyan"))
            console.print(Text(_axis(section.histogram, console.width), "dim"))
        for line in section.code:
            console.print(Text(line), soft_wrap=True)
        if section.note:
            console.print(Text(section.note, "dim", overflow="fold"))


def _in_columns(card: Card) -> Table:
    """Write a card beside its verdict."""
    verdict = Text(f"{card.verdict:{_VERDICT}}", _STYLES[card.verdict])
    said = Text(card.technique, "bold" if card.text else "", overflow="fold")
    if card.text:
        said.append(f": {card.text}", "not bold")
    grid = Table.grid()
    grid.add_column(width=_VERDICT)
    grid.add_column(overflow="fold")
    grid.add_row(verdict, said)
    for label, detail in card.details.items():
        grid.add_row("", Text.assemble((f"{label}: ", "dim"), detail, overflow="fold"))
    return grid


def _print_picture(console: Console, picture: Picture) -> None:
    """Draw bars in one scale, between their names and their figures."""
    rows = [{"name": bar.name, "figure": bar.figure} for bar in picture.bars]
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), show_header=False)
    if picture.title:
        console.print(Text(picture.title, "dim", overflow="fold"))
    room = max(_SHORTEST_BAR, console.width - _widths(rows) - _GAP)
    for each in picture.bars:
        cells = [round(room * part / picture.longest) for part in (each.real, each.waste)]
        real = Text(_FILLING[-1] * max(cells[0], each.real > 0), "" if each.is_quiet else "cyan")
        waste = Text(_REST * min(cells[1], room - len(real)), "red")
        table.add_row(Text(each.name), Text.assemble(real, waste), Text(each.figure))
    console.print(table)


def _table(section: Section, width: int) -> Table:
    rows, bars = section.rows, section.bars
    if len(rows) == 1 and _widths(rows) > width:
        rows = [{"": name, " ": cell} for name, cell in rows[0].items()]
    room = width - _widths(rows) - _GAP
    headings = list(rows[0])
    has_header = any(map(str.strip, headings))
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), show_header=has_header)
    for place, heading in enumerate(headings):
        is_text = place == 0 or (not has_header and place > 1)
        justify: Literal["left", "right"] = "left" if is_text else "right"
        narrow = Text("\n".join(wrap(heading, _HEADING)))
        table.add_column(narrow, justify=justify, overflow="fold")
        if place == 0 and bars and room >= _SHORTEST_BAR:
            table.add_column()
    for row, share in zip(rows, bars or [0.0] * len(rows), strict=True):
        cells = [Text(cell) for cell in row.values()]
        if len(table.columns) > len(cells):
            real, rest = bar(share, room)
            cells.insert(1, Text.assemble((real, "cyan"), (rest, "dim")))
        table.add_row(*cells)
    return table


def _widths(rows: Sequence[Mapping[str, str]]) -> int:
    """Return the characters of a table's columns and of the gaps between them."""
    widest = [
        max(len(cell) for cell in (*wrap(heading, _HEADING), *(row[heading] for row in rows)))
        for heading in rows[0]
    ]
    return sum(widest) + _GAP * (len(widest) - 1)


def _axis(histogram: Histogram, width: int) -> str:
    """Write round lengths below the curve, as many as there is room for."""
    first, last = histogram.edges[0], histogram.edges[-1] - 1
    powers = [10**exponent for exponent in range(len(str(last)))]
    ticks = [factor * power for power in powers for factor in (1, 2, 5)]
    # Powers of ten come first: they are written where there is no room for all.
    line = [" "] * width
    for tick in sorted(ticks, key=lambda tick: not str(tick).startswith("1")):
        if first <= tick <= last:
            label = short(tick)
            place = min(int(histogram.position(tick) * width), width - len(label))
            around = line[max(place - 1, 0) : place + len(label) + 1]
            if set(around) == {" "}:
                line[place : place + len(label)] = label
    return "".join(line)
