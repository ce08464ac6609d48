"""Plots for pages: SVG that is legible on a light page and on a dark one."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np

from batchwright._format import one_line, percent, printable
from batchwright.dial import DialPosition
from batchwright.errors import MissingExtraError
from batchwright.report.dial_plot import DRAWN_AS_IT_IS, dial_figure
from batchwright.report.dial_plot import GREY as DIAL_GREY

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What is grey takes the page's own colour of quiet text; the others are seen on light and dark.
GREY = "#808080"
COLOURS = ("#808080", "#d97706", "#2f81f7", "#16a34a", "#c026d3", "#dc2626", "#0891b2", "#a16207")

# As wide as a phone is, so that letters there are hardly smaller than on a large screen.
_WIDTH, _HEIGHT = 4.6, 3.0
_LEGEND_LINE = 0.21
_WIDEST_LABEL = 60
_FONT_POINTS = 10
_LARGEST_DOT = 260.0
_SMALLEST_DOT = 6.0
_ROOM = 1.5
_LEAST_DECADE = 12.0

Curve = tuple[Sequence[float], Sequence[float]]
"""Places and heights."""


def curves(
    lines: Mapping[str, Sequence[Curve]], *, across: str, up: str, title: str, skipped: int = 0
) -> str:
    """Draw lines, all of one name in one colour.

    Args:
        lines: Name → its lines.
        across: What places are.
        up: What heights are.
        title: Of the plot.
        skipped: Points of each line, from its first on, that heights need not show.

    Returns:
        SVG.

    Raises:
        MissingExtraError: Without matplotlib.
    """

    def draw(axes: Axes) -> None:
        named: dict[str, Artist] = {}
        for (name, several), colour in zip(lines.items(), _colours(len(lines)), strict=True):
            for place, (xs, ys) in enumerate(several):
                (line,) = axes.plot(xs, ys, color=colour, linewidth=1.6, alpha=0.9)
                if place == 0:
                    named[name] = line
        places = [x for several in lines.values() for xs, _ in several for x in xs]
        axes.locator_params(axis="x", integer=all(isinstance(x, int) for x in places))
        heights = [y for several in lines.values() for _, ys in several for y in ys[skipped:]]
        if skipped and heights:
            low, high = min(heights), max(heights)
            margin = 0.06 * (high - low) or 1.0
            axes.set_ylim(low - margin, high + margin)
        _label(axes, across, up)
        _legend(axes, named)

    return _drawn(draw, title, lines=len(lines))


def bars(values: Mapping[str, float], *, across: str, title: str) -> str:
    """Draw a horizontal bar for each name, its value beside it; values are shares.

    Raises:
        MissingExtraError: Without matplotlib.
    """

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import PercentFormatter

        names = list(values)[::-1]
        places = range(len(names))
        drawn = axes.barh(places, [values[name] for name in names], color=COLOURS[2], height=0.6)
        axes.set_yticks(places, [_label_of(name) for name in names])
        axes.bar_label(
            drawn,
            [percent(values[name]) for name in names],
            padding=4,
            color=GREY,
            fontsize=_FONT_POINTS,
        )
        axes.set_xlim(0, max(1e-3, *values.values()) * 1.25)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(_label_of(across), color=GREY)

    return _drawn(draw, title, height=1.2 + 0.3 * len(values))


def steps(edges: Sequence[float], counts: Sequence[float], *, across: str, title: str) -> str:
    """Draw a histogram on a logarithmic axis.

    Raises:
        MissingExtraError: Without matplotlib.
    """

    def draw(axes: Axes) -> None:
        # Bins of whole numbers are not equally wide: what counts is samples per step of the axis.
        heights = np.asarray(counts) / np.diff(np.log(edges))
        axes.stairs(heights, edges, fill=True, color=COLOURS[2], alpha=0.8)
        axes.set_xscale("log")
        _label(axes, across, "samples")
        axes.set_yticks([])

    return _drawn(draw, title)


def dots(points: Sequence[tuple[float, float, int]], *, across: str, up: str, title: str) -> str:
    """Draw a dot for each place, its area as what is counted there, on logarithmic axes.

    Args:
        points: Place across, place up, and a count.
        across: What places across are.
        up: What places up are.
        title: Of the plot.

    Raises:
        MissingExtraError: Without matplotlib.
    """

    def draw(axes: Axes) -> None:
        xs, ys, counts = (np.array(each, dtype=float) for each in zip(*points, strict=True))
        sizes = np.maximum(counts / counts.max() * _LARGEST_DOT, _SMALLEST_DOT)
        axes.scatter(xs, ys, s=sizes, color=COLOURS[2], alpha=0.75, linewidths=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(*_with_room(xs))
        axes.set_ylim(*_with_room(ys))
        _label(axes, across, up)

    return _drawn(draw, title)


def band(
    xs: Sequence[float],
    middle: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    *,
    across: str,
    up: str,
    title: str,
) -> str:
    """Draw a line between a least and a most.

    Raises:
        MissingExtraError: Without matplotlib.
    """

    def draw(axes: Axes) -> None:
        axes.fill_between(xs, low, high, color=COLOURS[2], alpha=0.3, linewidth=0)
        axes.plot(xs, middle, color=COLOURS[2], linewidth=1.4)
        axes.set_ylim(0, max(high) * 1.1)
        _label(axes, across, up)

    return _drawn(draw, title)


def dial_points(positions: Sequence[DialPosition]) -> str:
    """Draw the mixing dial: padding against dispersion, a labelled point for each position.

    Args:
        positions: At least one.

    Raises:
        MissingExtraError: Without matplotlib.
    """
    return _written(lambda: dial_figure(positions, inches=(_WIDTH, _HEIGHT + 0.4)), "Mixing dial")


def _label_of(name: object) -> str:
    return one_line(name, _WIDEST_LABEL)


def _legend(axes: Axes, named: Mapping[str, Artist]) -> None:
    """List names below the plot. Given as labels, those that begin with _ would be left out."""
    figure = axes.get_figure()
    assert figure is not None  # noqa: S101 -- axes are in a figure
    drawn = figure.legend(
        list(named.values()),
        [f"line {place}" for place in range(len(named))],
        loc="outside lower left",
        frameon=False,
        labelcolor=GREY,
        fontsize=_FONT_POINTS,
    )
    for text, name in zip(drawn.get_texts(), named, strict=True):
        text.set_text(_label_of(name))


def _label(axes: Axes, across: str, up: str) -> None:
    """Name the axes; numbers with separators, on logarithmic ones only those that are round."""
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


def _with_room(values: np.ndarray) -> tuple[float, float]:
    """Return limits of a logarithmic axis, never so narrow that no round number lies in them."""
    low, high = values.min() / _ROOM, values.max() * _ROOM
    more = max(1.0, _LEAST_DECADE / (high / low)) ** 0.5
    return float(low / more), float(high * more)


def _colours(number: int) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(number)]


def _drawn(
    draw: Callable[[Axes], None], title: str, *, height: float = _HEIGHT, lines: int = 0
) -> str:
    def make() -> Figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(_WIDTH, height + lines * _LEGEND_LINE), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set_title(_label_of(title), color=GREY, fontsize=_FONT_POINTS + 1)
        axes.tick_params(which="both", color=GREY, labelcolor=GREY, labelsize=_FONT_POINTS)
        if axes.get_xscale() == "linear":
            axes.locator_params(axis="x", nbins=5)
        axes.grid(visible=True, color=GREY, alpha=0.2, linewidth=0.5)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_color(GREY)
        return figure

    return _written(make, title)


def _written(make: Callable[[], Figure], title: str) -> str:
    try:
        from matplotlib import style
    except ImportError as error:
        raise MissingExtraError(
            "A page needs the package matplotlib, which is not installed. "
            "Run: pip install 'batchwright[report]'."
        ) from error
    text = StringIO()
    with style.context(["default", DRAWN_AS_IT_IS]), warnings.catch_warnings():
        # Letters that the font of matplotlib lacks are the browser's to draw; a plot that is too
        # narrow for long names is drawn all the same.
        warnings.simplefilter("ignore", UserWarning)
        make().savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _inline(text.getvalue(), title)


def _inline(svg: str, title: str) -> str:
    """Take what a page needs of an SVG file: no prologue, names of its own, a label."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    words = re.sub(r"[^a-z0-9]+", "-", title.lower())[:_WIDEST_LABEL]
    prefix = f"{words}-{sha256(title.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    body = re.sub(r"<[^>]*>", lambda tag: _renamed(tag[0], prefix), body)
    label = escape(printable(title), quote=True)
    return body.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _renamed(tag: str, prefix: str) -> str:
    """Give a tag names of its own, and its greys the page's. Text between tags stays."""
    tag = re.sub(r'\bid="', f'id="{prefix}-', tag)
    tag = re.sub(r'(xlink:href="|url\()#', rf"\1#{prefix}-", tag)
    for grey in (GREY, DIAL_GREY):
        tag = tag.replace(grey, "var(--quiet)")
    return tag
