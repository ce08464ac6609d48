"""Parts that several pages have: plots of lengths, waste and shapes, and the mixing dial."""

from collections.abc import Mapping, Sequence
from math import sqrt

from batchwright.report.page import Section
from batchwright.report.plots import bars, dial_points, dots, steps
from batchwright.report.rows import dial_cells
from batchwright.stats.dial import DialPosition
from batchwright.stats.lengths import Histogram
from batchwright.stats.shapes import ShapeStats

DOTS = "A dot is larger where more batches have about that shape."

_FEW_SHAPES = 3
"""Fewer shapes are shown by a table alone."""

_LITTLE_WASTE = 0.001


def length_plots(histogram: Histogram, *, unit: str) -> list[str]:
    """Draw lengths, unless all are equal."""
    if histogram.edges[-1] - histogram.edges[0] == 1:
        return []
    return [steps("Lengths", histogram.edges, histogram.counts, across=unit)]


def waste_plots(shares: Mapping[str, float], *, what: str = "padding") -> list[str]:
    """Draw the share that each way to make batches wastes, unless none wastes anything."""
    if max(shares.values(), default=0.0) < _LITTLE_WASTE:
        return []
    return [bars("Waste", shares, across=what)]


def dial_section(positions: Sequence[DialPosition], *, note: str) -> Section:
    """Show the positions of the mixing dial; `note` describes the updates."""
    return Section(
        "Mixing dial",
        head=("mixing", "padding", "dispersion", "batches"),
        rows=[dial_cells(each) for each in positions],
        plots=[dial_points(positions)],
        note=f"{note} Dispersion: 1 is a plain shuffle, less is more even.",
    )


def shape_plots(
    plans: Mapping[str, ShapeStats], *, unit: str = "tokens", before: str = ""
) -> list[str]:
    """Draw rows against length: the more batches, the larger the dot.

    Args:
        plans: Title → its shapes. Equal ones are drawn once, few ones not at all.
        unit: What lengths count.
        before: Words before each title.
    """
    alike: list[tuple[ShapeStats, list[str]]] = []
    for title, shapes in plans.items():
        known = next((titles for each, titles in alike if each == shapes), None)
        if known is not None:
            known.append(title)
        elif shapes.distinct >= _FEW_SHAPES:
            alike.append((shapes, [title]))
    return [_dots(shapes, before + _together(titles), unit) for shapes, titles in alike]


def _dots(shapes: ShapeStats, title: str, unit: str) -> str:
    grid = shapes.grid
    points = [
        (_middle(grid.lengths, across), _middle(grid.rows, up), count)
        for across, up, count in grid.cells
    ]
    up = "samples" if shapes.kind == "packed" else "rows"
    return dots(title, points, across=f"{unit} of a row", up=up)


def _middle(edges: Sequence[int], place: int) -> float:
    """Return the middle of a bin on a logarithmic axis."""
    return sqrt(edges[place] * (edges[place + 1] - 1))


def _together(titles: Sequence[str]) -> str:
    first, *others = titles
    if len(others) < 2:
        return ", ".join(titles)
    return f"{first} and {len(others)} others"
