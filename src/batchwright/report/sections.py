"""A report is a head and sections; `page` renders it as HTML, `text.print_report` as text."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from math import sqrt
from pathlib import Path

from batchwright._format import all_printable, capital, number, percent
from batchwright.errors import MissingExtraError
from batchwright.report.plots import DIAL, Dot, Tail, dial_points, dots, steps
from batchwright.stats.dial import DialPosition
from batchwright.stats.lengths import Histogram
from batchwright.stats.shapes import ShapeStats

Plot = Callable[[], str]
"""Draws an SVG."""

DOTS = "A dot is larger where more batches have about that shape."

_FEW_SHAPES = 3  # fewer are shown by a table alone


@dataclass(frozen=True)
class Card:
    """A piece of advice: its verdict, the technique, and the reason; or what was found."""

    verdict: str  # "use", "do not use", "cannot tell"; of what was found "error", "warning", "info"
    technique: str  # or what was found
    text: str  # two lines at most, without the full stop that a page adds
    more: Sequence[str] = ()  # sentences that are folded on a page, and not printed
    details: Mapping[str, str] = field(default_factory=dict)  # label → sentence
    code: Sequence[str] = ()  # lines to copy, of pages only


@dataclass(frozen=True)
class Bar:
    """A bar of a picture; its parts are in any unit, the same for all bars."""

    name: str
    figure: str  # what it shows, in words
    real: float  # length of the filled part
    waste: float = 0.0  # length of the hatched part after it
    is_quiet: bool = False  # whether it is grey: what others are compared with


@dataclass(frozen=True)
class Picture:
    """Bars below each other, in one scale."""

    bars: Sequence[Bar]
    real: str = ""  # what the filled parts are; "": no legend
    waste: str = ""  # what the hatched parts are
    title: str = ""  # what their lengths are

    @property
    def longest(self) -> float:
        """The length of the longest bar."""
        return max((bar.real + bar.waste for bar in self.bars), default=0.0) or 1.0


@dataclass(frozen=True)
class Section:
    """A part of a report; what is empty is left out, and so is one without content."""

    title: str = ""
    sentences: Sequence[str] = ()
    cards: Sequence[Card] = ()
    rows: Sequence[Mapping[str, str]] = ()  # a table: heading → cell, the same headings in each row
    bars: Sequence[float] = ()  # the share of each row, from 0 to 1
    picture: Picture | None = None
    histogram: Histogram | None = None  # not drawn where all lengths are equal
    tail: Tail | None = None  # of the histogram
    unit: str = "tokens"  # of the histogram
    plots: Sequence[Plot] = ()  # of pages only
    code: Sequence[str] = ()  # lines to copy
    note: str = ""  # in small print
    is_folded: bool = False  # whether a page shows it only when asked

    @property
    def has_content(self) -> bool:
        """Whether there is more than a title and a note."""
        parts = (self.sentences, self.cards, self.rows, self.picture, self.plots, self.code)
        return any(parts) or self.histogram is not None


@dataclass(frozen=True)
class Head:
    """What is said first on a page, and last in a terminal."""

    text: str  # what to do, and what it is worth
    lead: str = ""  # on a page, before it
    detail: str = ""  # what that rests on, in a sentence or two
    verdict: str = ""  # as of a card: its colour
    picture: Picture | None = None
    code: Sequence[str] = ()  # lines to copy
    code_title: str = "Code to copy"
    code_note: str = ""  # below the code
    then: str = ""  # what to do next
    more: str = ""  # in a terminal: where to find the rest


@dataclass(frozen=True)
class Report:
    """What a command shows."""

    title: str
    about: str  # below the title
    facts: object  # what `--json` prints
    sections: Sequence[Section]  # of the page
    printed: Sequence[Section]  # in a terminal
    head: Head | None = None


def import_page_packages() -> None:
    """Import what pages need; raise `MissingExtraError` where that is not installed."""
    try:
        import jinja2  # noqa: F401 -- whether it is installed
        import matplotlib as mpl  # noqa: F401 -- whether it is installed
    except ImportError as error:
        raise MissingExtraError(
            f"A page (--html) needs the package {error.name}, which is not installed. "
            "Run: pip install 'batchwright[report]'."
        ) from error


def page(report: Report) -> str:
    """Write a report as a page that loads nothing, and is legible on a phone and in the dark.

    Guarantees that text is escaped and `printable`, and that the facts are in the page, as JSON in
    the element ``#facts``.

    Raises:
        MissingExtraError: Without jinja2 or matplotlib.

    Example:
        >>> section = Section(sentences=["a < b"])
        >>> "<p>a &lt; b</p>" in page(Report("Title", "", {}, [section], []))
        True
    """
    import_page_packages()
    from jinja2 import Environment, StrictUndefined

    template = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    for made in (_unbroken, _parted, capital):
        environment.filters[made.__name__.removeprefix("_")] = made
    return environment.from_string(template).render(
        title=all_printable(report.title),
        about=all_printable(report.about),
        head=all_printable(report.head),
        sections=all_printable([each for each in report.sections if each.has_content]),
        # Inside of a script only its end tag has to be escaped.
        facts=json.dumps(report.facts, allow_nan=False).replace("<", "\\u003c"),
        steps=steps,
    )


def _unbroken(text: str) -> str:
    """Keep numbers and their signs on one line."""
    return re.sub(r"(?<=\d) (?=[%×])", "\u00a0", text)


def _parted(text: str) -> tuple[str, str]:
    """Part a headline into what is largest, up to the first colon or sentence, and the rest."""
    found = re.match(r"(.{8,60}?[:.]) (.+)", _unbroken(text))
    return (found[1], found[2]) if found else (_unbroken(text), "")


def dial_section(positions: Sequence[DialPosition], *, note: str) -> Section:
    """Show the positions of the mixing dial; `note` describes the updates."""
    none = "No position can be planned: there are too few samples for such updates."
    rows = [
        {
            "mixing": str(each.mixing),
            "padding": percent(1 - each.efficiency),
            "length mix": f"{each.dispersion:.2f}",
            "variety": "" if each.variety is None else f"{each.variety:.2f}",
            "batches": number(each.num_batches),
        }
        for each in positions
    ]
    return Section(
        DIAL,
        sentences=[] if positions else [none],
        rows=rows,
        bars=[each.efficiency for each in positions],
        plots=[partial(dial_points, DIAL, positions)] if positions else [],
        note=(
            f"{note} Length mix of updates: 1 is a plain shuffle, less is more even. Variety: the "
            "samples that share a batch with a sample over 8 epochs, relative to a plain shuffle."
        ),
    )


def shape_plots(plans: Mapping[str, ShapeStats], *, unit: str = "tokens") -> list[Plot]:
    """Draw rows against length on the same axes; equal shapes once, few ones not at all."""
    alike: dict[ShapeStats, list[str]] = {}
    for title, shapes in plans.items():
        if shapes.distinct >= _FEW_SHAPES:
            alike.setdefault(shapes, []).append(title)
    of_shapes = {shapes: _dots(shapes) for shapes in alike}
    plots: list[Plot] = []
    for shapes, titles in alike.items():
        title = titles[0] if len(titles) == 1 else f"{titles[0]} and {len(titles) - 1} more"
        what = "samples" if shapes.kind == "packed" else "rows"
        beside = [
            dot
            for other, several in of_shapes.items()
            if other.kind == shapes.kind and other is not shapes
            for dot in several
        ]
        across = f"{unit} of a row"
        plots.append(partial(dots, title, of_shapes[shapes], across=across, up=what, beside=beside))
    return plots


def _dots(shapes: ShapeStats) -> list[Dot]:
    """Return the middle of each bin of shapes, and its batches."""
    across, up = (
        [sqrt(low * (high - 1)) for low, high in pairwise(edges)]
        for edges in (shapes.grid.lengths, shapes.grid.rows)
    )
    return [(across[x], up[y], count) for x, y, count in shapes.grid.cells]
