"""One self-contained HTML page: sections of sentences, tables, plots and code."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from batchwright._format import all_printable, printable, printable_lines
from batchwright.errors import MissingExtraError

TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True)
class Card:
    """A piece of advice.

    Attributes:
        verdict: ``"use"``, ``"do not use"`` or ``"cannot tell"``.
        technique: Of what.
        text: Why, and what to do.
    """

    verdict: str
    technique: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of a page; what is empty is left out.

    Attributes:
        title: Its heading.
        sentences: As a list.
        cards: Pieces of advice.
        head: Headings of a table.
        rows: Its cells, as text.
        plots: SVG.
        code: To paste.
        note: In small print.
        is_wrapped: The last column of the table is a text, which may take several lines.
    """

    title: str = ""
    sentences: Sequence[str] = ()
    cards: Sequence[Card] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    plots: Sequence[str] = ()
    code: str = ""
    note: str = ""
    is_wrapped: bool = False


def page(
    title: str, sections: Sequence[Section], facts: Mapping[str, Any], *, about: str = ""
) -> str:
    """Write a page that asks no network for anything, and reads well on a phone and in the dark.

    Guarantees that text is escaped, that what would not be seen in it is written out (see
    `batchwright._format.printable`), and that `facts` are in the page, as JSON in the element
    ``#facts``.

    Args:
        title: Of the page.
        sections: In sequence.
        facts: What `--json` prints.
        about: Below the title.

    Returns:
        HTML.

    Raises:
        MissingExtraError: Without jinja2.

    Example:
        >>> "<li>a &lt; b</li>" in page("Title", [Section(sentences=["a < b"])], {})
        True
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise MissingExtraError(
            "A page needs the package jinja2, which is not installed. "
            "Run: pip install 'batchwright[report]'."
        ) from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    # Inside of a script only its end has to be kept from being read as such.
    embedded = json.dumps(facts, allow_nan=False).replace("<", "\\u003c")
    return template.render(
        title=printable(title),
        about=printable(about),
        facts=Markup(embedded),  # noqa: S704 -- JSON without any <
        sections=[
            {**_shown(section), "plots": [Markup(plot) for plot in section.plots]}  # noqa: S704
            for section in sections
        ],
    )


def _shown(section: Section) -> dict[str, Any]:
    """Return what a section holds, as it is shown."""
    held: dict[str, Any] = all_printable(asdict(section))
    return held | {"code": printable_lines(section.code)}
