"""Plots for pages: SVG that is legible on a light page and on a dark one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from hashlib import sha256
from html import escape
from typing import TYPE_CHECKING, Concatenate, ParamSpec

import numpy as np

from batchwright._format import one_line, percent, printable
from batchwright.report.dial_plot import (
    BLUE,
    FONT_POINTS,
    GREY,
    dial_figure,
    drawn_in_grey,
    rendered,
)
from batchwright.stats.dial import DialPosition

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from batchwright.typing import FloatArray

P = ParamSpec("P")

# What is grey takes the page's own colour of quiet text; the others are seen on light and dark.
COLOURS = (GREY, "#d97706", BLUE, "#16a34a", "#c026d3", "#dc2626", "#0891b2", "#a16207")

# As wide as a phone, so that letters there are hardly smaller than on a large screen.
_WIDTH, _HEIGHT = 4.6, 3.0
_LEGEND_LINE = 0.21
_WIDEST_LABEL = 60
_LARGEST_DOT = 260.0
_SMALLEST_DOT = 6.0
_ROOM = 1.5
_LEAST_DECADE = 12.0

Curve = tuple[Sequence[float], Sequence[float]]
"""Places and heights."""


def _plot(draw: Callable[Concatenate[Axes, P], None]) -> Callable[Concatenate[str, P], str]:
    """Make a function that draws on axes one of a title that returns SVG.

    It raises `MissingExtraError` without matplotlib.
    """

    @wraps(draw)
    def plot(title: str, /, *args: P.args, **kwargs: P.kwargs) -> str:
        def make() -> Figure:
            from matplotlib.figure import Figure

            figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
            axes = figure.add_subplot()
            draw(axes, *args, **kwargs)
            drawn_in_grey(axes, _label_of(title))
            if axes.get_xscale() == "linear":
                axes.locator_params(axis="x", nbins=5)
            return figure

        return _inline(rendered(make, "svg", extra="report").decode(), title)

    return plot


@_plot
def curves(
    axes: Axes, lines: Mapping[str, Sequence[Curve]], *, across: str, up: str, skipped: int = 0
) -> None:
    """Draw lines, all of one name in one colour; the first `skipped` heights may lie outside."""
    named: dict[str, Artist] = {}
    for number, (name, several) in enumerate(lines.items()):
        for xs, ys in several:
            colour = COLOURS[number % len(COLOURS)]
            (line,) = axes.plot(xs, ys, color=colour, linewidth=1.6, alpha=0.9)
            named.setdefault(name, line)
    places = [x for several in lines.values() for xs, _ in several for x in xs]
    axes.locator_params(axis="x", integer=all(isinstance(x, int) for x in places))
    heights = [y for several in lines.values() for _, ys in several for y in ys[skipped:]]
    if skipped and heights:
        low, high = min(heights), max(heights)
        margin = 0.06 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)
    _name_axes(axes, across, up)
    _legend(axes, named)


@_plot
def bars(axes: Axes, values: Mapping[str, float], *, across: str) -> None:
    """Draw a horizontal bar for each share, its value beside it."""
    from matplotlib.ticker import PercentFormatter

    _set_height(axes, 1.2 + 0.3 * len(values))
    names = list(values)[::-1]
    places = range(len(names))
    drawn = axes.barh(places, [values[name] for name in names], color=BLUE, height=0.6)
    axes.set_yticks(places, [_label_of(name) for name in names])
    texts = [percent(values[name]) for name in names]
    axes.bar_label(drawn, texts, padding=4, color=GREY, fontsize=FONT_POINTS)
    axes.set_xlim(0, max(1e-3, *values.values()) * 1.25)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(_label_of(across), color=GREY)


@_plot
def steps(axes: Axes, edges: Sequence[float], counts: Sequence[float], *, across: str) -> None:
    """Draw a histogram on a logarithmic axis."""
    # Bins of whole numbers are not equally wide: what counts is samples per step of the axis.
    heights = np.asarray(counts) / np.diff(np.log(edges))
    axes.stairs(heights, edges, fill=True, color=BLUE, alpha=0.8)
    axes.set_xscale("log")
    _name_axes(axes, across, "samples")
    axes.set_yticks([])


@_plot
def dots(axes: Axes, points: Sequence[tuple[float, float, int]], *, across: str, up: str) -> None:
    """Draw a dot for each place, its area as what is counted there, on logarithmic axes."""
    xs, ys, counts = (np.array(each, dtype=float) for each in zip(*points, strict=True))
    sizes = np.maximum(counts / counts.max() * _LARGEST_DOT, _SMALLEST_DOT)
    axes.scatter(xs, ys, s=sizes, color=BLUE, alpha=0.75, linewidths=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*_with_room(xs))
    axes.set_ylim(*_with_room(ys))
    _name_axes(axes, across, up)


@_plot
def band(
    axes: Axes,
    xs: Sequence[float],
    middle: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    *,
    across: str,
    up: str,
) -> None:
    """Draw a line between a least and a most."""
    axes.fill_between(xs, low, high, color=BLUE, alpha=0.3, linewidth=0)
    axes.plot(xs, middle, color=BLUE, linewidth=1.4)
    axes.set_ylim(0, max(high) * 1.1)
    _name_axes(axes, across, up)


def dial_points(positions: Sequence[DialPosition]) -> str:
    """Draw the positions of the mixing dial, at least one."""
    inches = (_WIDTH, _HEIGHT + 0.4)
    drawn = rendered(lambda: dial_figure(positions, inches=inches), "svg", extra="report")
    return _inline(drawn.decode(), "Mixing dial")


def _set_height(axes: Axes, inches: float) -> None:
    figure = axes.get_figure(root=True)
    assert figure is not None  # noqa: S101 -- axes are in a figure
    figure.set_size_inches(_WIDTH, inches)


def _label_of(name: object) -> str:
    return one_line(name, _WIDEST_LABEL)


def _legend(axes: Axes, named: Mapping[str, Artist]) -> None:
    """List names below the plot. As labels, names that begin with _ would be left out."""
    _set_height(axes, _HEIGHT + _LEGEND_LINE * len(named))
    drawn = axes.figure.legend(
        list(named.values()),
        [f"line {place}" for place in range(len(named))],
        loc="outside lower left",
        frameon=False,
        labelcolor=GREY,
        fontsize=FONT_POINTS,
    )
    for text, name in zip(drawn.get_texts(), named, strict=True):
        text.set_text(_label_of(name))


def _name_axes(axes: Axes, across: str, up: str) -> None:
    """Name the axes; write numbers with separators, on logarithmic axes only round ones."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            low, high = axis.get_view_interval()
            if high / low < 100:
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.set_xlabel(_label_of(across), color=GREY)
    axes.set_ylabel(_label_of(up), color=GREY)


def _with_room(values: FloatArray) -> tuple[float, float]:
    """Return limits of a logarithmic axis, wide enough for a round number to lie in them."""
    low, high = values.min() / _ROOM, values.max() * _ROOM
    more = max(1.0, _LEAST_DECADE / (high / low)) ** 0.5
    return float(low / more), float(high * more)


def _inline(svg: str, title: str) -> str:
    """Make an SVG file a part of a page: no prologue, unique names, a label, the page's grey."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    words = re.sub(r"[^a-z0-9]+", "-", title.lower())[:_WIDEST_LABEL]
    prefix = f"{words}-{sha256(title.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"

    def renamed(tag: re.Match[str]) -> str:  # texts between tags stay
        named = re.sub(r'\bid="', f'id="{prefix}-', tag[0])
        named = re.sub(r'(xlink:href="|url\()#', rf"\1#{prefix}-", named)
        return named.replace(GREY, "var(--quiet)")

    body = re.sub(r"<[^>]*>", renamed, body)
    label = escape(printable(title), quote=True)
    return body.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
