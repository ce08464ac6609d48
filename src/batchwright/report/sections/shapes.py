"""What shapes batches have."""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

from batchwright.report.figures import number, percent
from batchwright.report.page import Section
from batchwright.report.plots import dots

Facts = Mapping[str, Any]


def shape_plot(shapes: Facts, *, title: str, unit: str = "tokens") -> str:
    """Draw rows against length, as SVG: the more batches, the larger the dot.

    Args:
        shapes: What `shape_facts` returns.
        title: Of the plot.
        unit: What lengths count.
    """
    grid = shapes["grid"]
    points = [
        (_middle(grid["lengths"], across), _middle(grid["rows"], up), count)
        for across, up, count in grid["cells"]
    ]
    packed = shapes["kind"] == "packed"
    up = "samples" if packed else "rows"
    return dots(points, across=f"{unit} of a row", up=up, title=title)


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
    name = "row length" if shapes["kind"] == "packed" else "rows × length"
    return Section(
        "Batch shapes",
        head=(name, "batches", "of all", "samples", "padding"),
        rows=shape_rows(shapes),
        plots=[shape_plot(shapes, title="Batch shapes", unit=unit)],
        note=f"{note}. A dot is larger where more batches have about that shape.",
    )


def _middle(edges: Sequence[int], place: int) -> float:
    """Return the middle of a bin on a logarithmic axis."""
    return sqrt(edges[place] * (edges[place + 1] - 1))


def _shape(each: Facts, kind: str) -> str:
    columns = each["length"] if isinstance(each["length"], list) else [each["length"]]
    length = " + ".join(map(number, columns))
    return length if kind == "packed" else f"{number(each['rows'])} × {length}"
