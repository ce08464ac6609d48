"""A plot of the mixing dial: what each position costs in padding, beside how it mixes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from batchwright._files import write_bytes
from batchwright.errors import MissingExtraError, SourceError
from batchwright.stats.dial import DialPosition

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "png", "pdf")

GREY = "#777777"  # legible on white and on black
BLUE = "#2f81f7"
FONT_POINTS = 10

# Whatever the user has set. Text stays text, with a $ in it too; the bytes are reproducible.
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "batchwright",
    "text.parse_math": False,
    "text.usetex": False,
}

_INCHES = (7.0, 4.2)
_DOTS_PER_INCH = 150
_POINTS_PER_INCH = 72

_LEAST = 1e-3
"""Smaller dispersions are drawn here, as 0 has no logarithm."""

_WIDEST_CHARACTER = 0.65
_MARKER_POINTS = 3.5
_GAP_POINTS = 7
_LINE_POINTS = 14


def plot_dial(dial: Sequence[DialPosition], path: str | PathLike[str]) -> None:
    """Draw the positions of the mixing dial into a file: efficiency against dispersion.

    Guarantees a labelled point for each position (equal ones share one), a transparent background
    and greys that are legible on light and dark pages, text as text in an SVG, and the same bytes
    for the same dial, whatever has been set in matplotlib. If drawing fails, the file stays as it
    was.

    Args:
        dial: What `mixing_dial` returns.
        path: The file, ``.svg``, ``.png`` or ``.pdf``; replaced if it exists.

    Raises:
        MissingExtraError: Without matplotlib.
        SourceError: If the file's name has another suffix, the dial has no positions, or the file
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
    if not dial:
        raise SourceError(
            "plot_dial of no positions: expected what mixing_dial returns, at least one. "
            "Smaller batches or more samples make positions that can be planned."
        )
    write_bytes(path, rendered(lambda: dial_figure(dial), kind, extra="plots"), SourceError)


def plot_format(path: str | PathLike[str]) -> str:
    """Return the format that a file's name asks for.

    Raises:
        SourceError: If it is none of `FORMATS`.

    Example:
        >>> plot_format("figures/dial.SVG")
        'svg'
    """
    kind = Path(path).suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise SourceError(
            f"plot into {str(path)!r}: expected a name that ends in .svg, .png or .pdf, which "
            "says how to draw it."
        )
    return kind


def rendered(make: Callable[[], Figure], kind: str, *, extra: str) -> bytes:
    """Draw a figure with the default settings of matplotlib, and return the file's content.

    Raises:
        MissingExtraError: Without matplotlib; it names the extra.
    """
    try:
        from matplotlib import style
    except ImportError as error:
        raise MissingExtraError(
            "A plot needs the package matplotlib, which is not installed. "
            f"Run: pip install 'batchwright[{extra}]'."
        ) from error
    content = BytesIO()
    when = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        # Of letters that the font lacks, which a browser has; of plots too narrow for long names.
        warnings.simplefilter("ignore", UserWarning)
        make().savefig(content, format=kind, transparent=True, metadata=when)
    return content.getvalue()


def drawn_in_grey(axes: Axes, title: str) -> None:
    """Give axes a title, a grid and ticks in grey."""
    axes.set_title(title, color=GREY, fontsize=FONT_POINTS + 1)
    axes.tick_params(which="both", color=GREY, labelcolor=GREY, labelsize=FONT_POINTS)
    axes.grid(visible=True, color=GREY, alpha=0.2, linewidth=0.5)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(GREY)


def dial_figure(dial: Sequence[DialPosition], *, inches: tuple[float, float] = _INCHES) -> Figure:
    """Draw the positions of the dial, at least one, as a figure of matplotlib."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

    figure = Figure(figsize=inches, dpi=_DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    points = _points(dial)
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    low, high = min(*xs, 1.0), max(*xs, 1.0)  # a plain shuffle stays in sight
    margin = max(0.12 * (max(ys) - min(ys)), 0.01)
    axes.set_xscale("log")
    axes.set_xlim(low / 2, high * 2 * (high / low) ** 0.25)  # with room for labels on the right
    axes.set_ylim(min(ys) - margin, max(ys) + margin)
    axes.axvline(1.0, color=GREY, linestyle=":", linewidth=1.0)
    axes.plot(xs, ys, linestyle="none", marker="o", markersize=2 * _MARKER_POINTS, color=BLUE)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    # Efficiency is at most 1, though a point there needs some room above.
    bottom = min(ys) - margin
    axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick <= 1 + 1e-9])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("dispersion of updates\n(1: a plain shuffle; less is more even)", color=GREY)
    axes.set_ylabel("efficiency (real ÷ padded tokens)", color=GREY)
    drawn_in_grey(axes, "Mixing dial")
    figure.draw_without_rendering()  # settles where things are, for labels to keep apart
    _label(axes, points)
    return figure


def _points(dial: Sequence[DialPosition]) -> list[tuple[float, float, str]]:
    """Return dispersion, efficiency and label of each point; equal ones share a label."""
    labels: dict[tuple[float, float], list[str]] = {}
    for each in dial:
        place = (max(each.dispersion, _LEAST), each.efficiency)
        labels.setdefault(place, []).append(str(each.mixing))
    return [(x, y, ", ".join(names)) for (x, y), names in labels.items()]


def _label(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write each label beside its point, or lower where another is in the way."""
    for (x, y, text), lowered in zip(points, _lowered(axes, points), strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(_GAP_POINTS, -lowered),
            textcoords="offset points",
            verticalalignment="center",
            fontsize=FONT_POINTS,
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
        right = left + _WIDEST_CHARACTER * FONT_POINTS * len(text)
        lowered = 0.0
        while any(
            abs(y - lowered - other) < _LINE_POINTS and left <= end and begin <= right
            for begin, end, other in taken
        ):
            lowered += _LINE_POINTS / 2
        taken.append((left, right, y - lowered))
        yield lowered
