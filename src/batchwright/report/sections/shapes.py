"""What shapes batches have."""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

from batchwright.report.figures import number, percent
from batchwright.report.page import Section
from batchwright.report.plots import dots

Facts = Mapping[str, Any]


DOTS = "A dot is larger where more batches have about that shape."

WORTH_DRAWING = 3
"""Fewer shapes are told by a table."""


def shape_plots(plans: Mapping[str, Facts], *, unit: str = "tokens", before: str = "") -> list[str]:
    """Draw rows against length, as SVG: the more batches, the larger the dot.

    Args:
        plans: Title → what `shape_facts` returns. Those that are the same are drawn once, under
            the titles of all; those of less than `WORTH_DRAWING` shapes not at all.
        unit: What lengths count.
        before: Words before each title.
    """
    alike: list[tuple[Facts, list[str]]] = []
    for title, shapes in plans.items():
        known = next((titles for each, titles in alike if each == shapes), None)
        if known is not None:
            known.append(title)
        elif shapes["distinct"] >= WORTH_DRAWING:
            alike.append((shapes, [title]))
    return [_drawn(shapes, before + _together(titles), unit) for shapes, titles in alike]


def _drawn(shapes: Facts, title: str, unit: str) -> str:
    grid = shapes["grid"]
    points = [
        (_middle(grid["lengths"], across), _middle(grid["rows"], up), count)
        for across, up, count in grid["cells"]
    ]
    up = "samples" if shapes["kind"] == "packed" else "rows"
    return dots(points, across=f"{unit} of a row", up=up, title=title)


def _together(titles: Sequence[str]) -> str:
    first, *others = titles
    if len(others) < 2:
        return ", ".join(titles)
    return f"{first} and {len(others)} others"


def shape_rows(shapes: Facts) -> list[tuple[str, ...]]:
    """Write the commonest shapes, a row of a table each."""
    return [
        (
            _shape(each, shapes["kind"]),
            number(each["batches"]),
            percent(each["share"]),
            number(each["samples"]),
            percent(each["padding"]),
        )
        for each in shapes["commonest"]
    ]


def shape_section(shapes: Facts, *, unit: str) -> Section:
    """Show the shapes of a plan's batches.

    Args:
        shapes: What `shape_facts` returns.
        unit: What lengths count.
    """
    kind = "row" if shapes["kind"] == "packed" else "batch"
    shown, rest = len(shapes["commonest"]), shapes["distinct"] - len(shapes["commonest"])
    note = f"{number(shapes['distinct'])} distinct shapes of a {kind}"
    if rest:
        note += f", the {number(shown)} commonest are listed"
    plots = shape_plots({"Batch shapes": shapes}, unit=unit)
    name = "row length" if shapes["kind"] == "packed" else "rows × length"
    return Section(
        "Batch shapes",
        head=(name, "batches", "of all", "samples", "padding"),
        rows=shape_rows(shapes),
        plots=plots,
        note=f"{note}. {DOTS}" if plots else f"{note}.",
    )


def _middle(edges: Sequence[int], place: int) -> float:
    """Return the middle of a bin on a logarithmic axis."""
    return sqrt(edges[place] * (edges[place + 1] - 1))


def _shape(each: Facts, kind: str) -> str:
    columns = each["length"] if isinstance(each["length"], list) else [each["length"]]
    length = " + ".join(map(number, columns))
    return length if kind == "packed" else f"{number(each['rows'])} × {length}"
