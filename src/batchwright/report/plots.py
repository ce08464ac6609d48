"""Plots for pages: SVG that is legible on a light page and on a dark one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np

from batchwright.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Legible on white and on black alike, as is nothing darker or lighter.
GREY = "#808080"
COLOURS = ("#808080", "#d97706", "#2f81f7", "#16a34a", "#c026d3", "#dc2626", "#0891b2", "#a16207")

_INCHES = (7.2, 3.6)

Curve = tuple[Sequence[float], Sequence[float]]
"""Places and heights."""


def curves(lines: Mapping[str, Sequence[Curve]], *, across: str, up: str, title: str) -> str:
    """Draw lines, all of one name in one colour.

    Args:
        lines: Name → its lines.
        across: What places are.
        up: What heights are.
        title: Of the plot.

    Returns:
        SVG.

    Raises:
        MissingExtraError: Without matplotlib.
    """

    def draw(axes: Axes) -> None:
        for (name, several), colour in zip(lines.items(), _colours(len(lines)), strict=True):
            for place, (xs, ys) in enumerate(several):
                label = name if place == 0 else None
                axes.plot(xs, ys, color=colour, linewidth=1.6, alpha=0.9, label=label)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.set_xlabel(across, color=GREY)
        axes.set_ylabel(up, color=GREY)
        axes.legend(frameon=False, labelcolor=GREY, fontsize=9)

    return _drawn(draw, title)


def bars(values: Mapping[str, float], *, across: str, title: str) -> str:
    """Draw a horizontal bar for each name, its value beside it; values are shares.

    Raises:
        MissingExtraError: Without matplotlib.
    """

    def draw(axes: Axes) -> None:
        names = list(values)[::-1]
        drawn = axes.barh(names, [values[name] for name in names], color=COLOURS[2], height=0.6)
        axes.bar_label(drawn, [f" {values[name]:.1%}" for name in names], color=GREY, fontsize=9)
        axes.set_xlim(0, max(1e-3, *values.values()) * 1.15)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_xlabel(across, color=GREY)

    return _drawn(draw, title)


def steps(edges: Sequence[float], counts: Sequence[float], *, across: str, title: str) -> str:
    """Draw a histogram on a logarithmic axis.

    Raises:
        MissingExtraError: Without matplotlib.
    """

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import NullFormatter

        # Bins of whole numbers are not equally wide: what counts is samples per step of the axis.
        heights = np.asarray(counts) / np.diff(np.log(edges))
        axes.stairs(heights, edges, fill=True, color=COLOURS[2], alpha=0.8)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks([])
        axes.set_xlabel(across, color=GREY)
        axes.set_ylabel("samples", color=GREY)

    return _drawn(draw, title)


def _colours(number: int) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(number)]


def _drawn(draw: Callable[[Axes], None], title: str) -> str:
    try:
        from matplotlib import style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "A page needs the package matplotlib, which is not installed. "
            "Run: pip install 'batchwright[report]'."
        ) from error
    text = StringIO()
    # Whatever the user has set. Text stays text; nothing is drawn by lot or by the clock.
    with style.context(["default", {"svg.fonttype": "none", "svg.hashsalt": "batchwright"}]):
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set_title(title, color=GREY, fontsize=11)
        axes.tick_params(which="both", color=GREY, labelcolor=GREY, labelsize=9)
        axes.grid(visible=True, color=GREY, alpha=0.2, linewidth=0.5)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_color(GREY)
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _inline(text.getvalue(), title)


def _inline(svg: str, title: str) -> str:
    """Take what a page needs of an SVG file: no prologue, names of its own, a label."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    prefix = re.sub(r"\W+", "-", title.lower())
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'(xlink:href="|url\()#', rf"\1#{prefix}-", body)
    label = title.replace('"', "'")
    return body.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
