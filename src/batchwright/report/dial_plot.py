"""A plot of the mixing dial: what each position costs in padding, beside how it mixes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from batchwright._files import write_bytes
from batchwright.dial import DialPosition
from batchwright.errors import MissingExtraError, PlotError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "png", "pdf")

# Whatever the user has set. Text stays text, with a $ in it too; nothing is drawn by lot.
DRAWN_AS_IT_IS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "batchwright",
    "text.parse_math": False,
    "text.usetex": False,
}

_INCHES = (7.0, 4.2)
_DOTS_PER_INCH = 150

# Legible on white and on black alike, as is nothing darker or lighter.
GREY = "#777777"
_COLOUR = "#2f81f7"

_LEAST = 1e-3
"""What is less dispersed than this is drawn here: a logarithm of 0 there is none."""

_FONT_POINTS = 10
_WIDEST_CHARACTER = 0.65
_MARKER_POINTS = 3.5
_GAP_POINTS = 7
_LINE_POINTS = 14
_POINTS_PER_INCH = 72


def plot_dial(dial: Sequence[DialPosition], path: str | PathLike[str]) -> None:
    """Draw the positions of the mixing dial into a file: efficiency against dispersion.

    Guarantees one labelled point for each position (those that fall together share one), a
    transparent background and greys that can be read on a light page and on a dark one, text as
    text in an SVG, and the same bytes for the same dial, whatever has been set in matplotlib: its
    settings are put aside while the file is drawn, and its windows are not touched. What stood in
    the file stays if drawing fails.

    Args:
        dial: What `mixing_dial` returns.
        path: The file, ``.svg``, ``.png`` or ``.pdf``; replaced if it exists.

    Raises:
        MissingExtraError: Without matplotlib.
        PlotError: If the file's name says another format, the dial has no positions, or the file
            cannot be written.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import batchwright as bw
        >>> lengths = np.random.default_rng(0).integers(1, 60, 400)
        >>> dial = bw.mixing_dial(lengths, bw.TokenBudget(200), accumulate=8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plot_dial(dial, f"{folder}/dial.svg")
        ...     "stratified" in Path(folder, "dial.svg").read_text(encoding="utf-8")
        True
    """
    kind = plot_format(path)
    try:
        from matplotlib import style
    except ImportError as error:
        raise MissingExtraError(
            "A plot needs the package matplotlib, which is not installed. "
            "Run: pip install 'batchwright[plots]'."
        ) from error
    if not dial:
        raise PlotError(
            "plot_dial of no positions: expected what mixing_dial returns, at least one. "
            "Smaller batches or more samples make positions that can be planned."
        )
    drawn = BytesIO()
    with style.context(["default", DRAWN_AS_IT_IS]):
        figure = dial_figure(dial)
        when = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
        figure.savefig(drawn, format=kind, transparent=True, metadata=when)
    write_bytes(path, drawn.getvalue(), PlotError)


def plot_format(path: str | PathLike[str]) -> str:
    """Tell the format from a file's name.

    Raises:
        PlotError: If it is none that can be drawn.

    Example:
        >>> plot_format("figures/dial.SVG")
        'svg'
    """
    kind = Path(path).suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise PlotError(
            f"plot into {str(path)!r}: expected a name that ends in .svg, .png or .pdf, which "
            "says how to draw it."
        )
    return kind


def dial_figure(dial: Sequence[DialPosition], *, inches: tuple[float, float] = _INCHES) -> Figure:
    """Draw the positions of the dial, at least one, as a figure of matplotlib."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

    figure = Figure(figsize=inches, dpi=_DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    points = _points(dial)
    axes.set_xscale("log")
    axes.set_xlim(*_limits([x for x, _, _ in points]))
    bottom, top = _heights([y for _, y, _ in points])
    axes.set_ylim(bottom, top)
    axes.axvline(1.0, color=GREY, linestyle=":", linewidth=1.0)
    axes.plot(
        [x for x, _, _ in points],
        [y for _, y, _ in points],
        linestyle="none",
        marker="o",
        markersize=2 * _MARKER_POINTS,
        color=_COLOUR,
    )
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    # Nothing is more than all of it, though a point at 100 % wants some room above.
    axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick <= 1 + 1e-9])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("dispersion of updates\n(1: a plain shuffle; less is more even)", color=GREY)
    axes.set_ylabel("efficiency (real ÷ padded tokens)", color=GREY)
    axes.set_title("Mixing dial", color=GREY)
    axes.tick_params(which="both", color=GREY, labelcolor=GREY)
    axes.grid(visible=True, color=GREY, alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(GREY)
    figure.draw_without_rendering()  # settles where things are, for labels to keep apart
    _label(axes, points)
    return figure


def _points(dial: Sequence[DialPosition]) -> list[tuple[float, float, str]]:
    """Return dispersion, efficiency and label of each point, those that fall together as one."""
    labels: dict[tuple[float, float], list[str]] = {}
    for each in dial:
        place = (max(each.dispersion, _LEAST), each.efficiency)
        labels.setdefault(place, []).append(str(each.mixing))
    return [(x, y, ", ".join(names)) for (x, y), names in labels.items()]


def _limits(dispersions: Sequence[float]) -> tuple[float, float]:
    """Leave room for labels on the right, and keep a plain shuffle in sight."""
    low, high = min(*dispersions, 1.0), max(*dispersions, 1.0)
    return low / 2, high * 2 * (high / low) ** 0.25


def _heights(efficiencies: Sequence[float]) -> tuple[float, float]:
    low, high = min(efficiencies), max(efficiencies)
    margin = max(0.12 * (high - low), 0.01)
    return low - margin, high + margin


def _label(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write each label beside its point, lower where another is in the way."""
    for (x, y, text), lowered in zip(points, _lowered(axes, points), strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(_GAP_POINTS, -lowered),
            textcoords="offset points",
            verticalalignment="center",
            fontsize=_FONT_POINTS,
            color=GREY,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5} if lowered else None,
        )


def _lowered(axes: Axes, points: Sequence[tuple[float, float, str]]) -> Iterator[float]:
    """Yield how far each label must go down, in points, to touch no other and no marker."""
    scale = _POINTS_PER_INCH / axes.figure.dpi
    places = [scale * axes.transData.transform((x, y)) for x, y, _ in points]
    taken = [(x - _MARKER_POINTS, x + _MARKER_POINTS, y) for x, y in places]
    for (x, y), (_, _, text) in zip(places, points, strict=True):
        left = x + _GAP_POINTS
        right = left + _WIDEST_CHARACTER * _FONT_POINTS * len(text)
        lowered = 0.0
        while any(
            abs(y - lowered - other) < _LINE_POINTS and left <= end and begin <= right
            for begin, end, other in taken
        ):
            lowered += _LINE_POINTS / 2
        taken.append((left, right, y - lowered))
        yield lowered
