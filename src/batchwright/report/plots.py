"""Plots: SVG for pages, and files of the mixing dial; legible on light pages and on dark ones."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from hashlib import sha256
from html import escape
from io import BytesIO
from itertools import cycle
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import numpy as np

from batchwright._files import write_bytes
from batchwright._format import one_line, printable
from batchwright.errors import MissingExtraError, SourceError
from batchwright.stats.dial import DialPosition
from batchwright.stats.shapes import CostCurve

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from batchwright.typing import FloatArray

P = ParamSpec("P")

# Colours that a page replaces by its own, which differ on light and dark.
DARK, RED, PAGE = "#1b1f24", "#cf222e", "#fefefe"
_OF_PAGE = {DARK: "var(--text)", RED: "var(--waste)", PAGE: "var(--page)"}

# What is grey takes the page's own colour of quiet text; the others are seen on light and dark.
GREY, BLUE = "#777777", "#2f81f7"
DIAL = "Trade-off of padding and mix"
COLOURS = (GREY, "#d97706", BLUE, "#16a34a", "#c026d3", "#dc2626", "#0891b2", "#a16207")

# Whatever the user has set. Text stays text, with a $ in it too; the bytes are reproducible.
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "batchwright",
    "text.parse_math": False,
    "text.usetex": False,
    "font.size": 10,
    "savefig.dpi": 150,
}

# As wide as a phone, so that letters there are hardly smaller than on a large screen.
_WIDTH, _HEIGHT = 4.6, 3.0
_LEGEND_LINE = 0.21
_WIDEST_LABEL = 60
_HALF_LABEL = 24  # of two names side by side
FAR = 2.0  # times the 99.9th percentile, from which the longest samples are marked
_ROOM = 0.14  # of the height of a plot, for a line of text
_LARGEST_DOT, _SMALLEST_DOT = 260.0, 6.0
_LEAST_DISPERSION = 1e-3  # smaller ones are drawn here, as 0 has no logarithm

Curve = tuple[Sequence[float], Sequence[float]]
"""Places and heights."""

Dot = tuple[float, float, int]
"""A place, and what is counted there."""


@dataclass(frozen=True)
class Tail:
    """The end of a histogram that is marked: the few samples that are much longer than others."""

    start: float  # longer samples belong to it
    label: str


def plot_dial(dial: Sequence[DialPosition], path: str | PathLike[str]) -> None:
    """Draw the positions of the mixing dial into a file: efficiency against dispersion.

    Guarantees a plot that is legible on light and dark pages, and the same bytes for the same
    dial, whatever has been set in matplotlib. If drawing fails, the file stays as it was.

    Args:
        dial: What `mixing_dial` returns.
        path: The file, ``.svg``, ``.png`` or ``.pdf``; replaced if it exists.

    Raises:
        MissingExtraError: Without matplotlib.
        SourceError: Another suffix, a dial without positions, or a file that cannot be written.

    Example:
        >>> import tempfile
        >>> dial = [DialPosition("stratified", 8, 90, 0.99, 0.2)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plot_dial(dial, f"{folder}/dial.svg")
        ...     "stratified" in Path(folder, "dial.svg").read_text(encoding="utf-8")
        True
    """
    kind = plot_format(path)
    if not dial:
        raise SourceError("plot_dial of no positions: expected at least one. Plan smaller batches.")
    drawn = _rendered(partial(dial_figure, dial), kind, extra="plots")
    write_bytes(path, drawn, SourceError)


def plot_format(path: str | PathLike[str]) -> str:
    """Return the format that a file's name asks for.

    Raises:
        SourceError: If it is not svg, png or pdf.

    Example:
        >>> plot_format("figures/dial.SVG")
        'svg'
    """
    kind = Path(path).suffix.removeprefix(".").lower()
    if kind not in {"svg", "png", "pdf"}:
        raise SourceError(
            f"plot into {str(path)!r}: expected a name that ends in .svg, .png or .pdf."
        )
    return kind


def dial_figure(dial: Sequence[DialPosition]) -> Figure:
    """Draw the positions of the dial, at least one, as a figure of matplotlib."""
    return _figure(DIAL, lambda axes: _draw_dial(axes, dial), (7.0, 4.2))


def _rendered(make: Callable[[], Figure], kind: str, *, extra: str) -> bytes:
    """Draw a figure with the default settings of matplotlib, and return the file's content."""
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


def _figure(title: str, draw: Callable[[Axes], object], inches: tuple[float, float]) -> Figure:
    """Draw on axes whose title, grid and ticks are grey."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    axes.set_title(one_line(title, _WIDEST_LABEL), color=GREY, fontsize=11)
    axes.tick_params(which="both", color=GREY, labelcolor=GREY)
    axes.grid(visible=True, color=GREY, alpha=0.2, linewidth=0.5)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(GREY)
    if axes.get_xscale() == "linear":
        axes.locator_params(axis="x", nbins=5)
    return figure


def _plot(draw: Callable[Concatenate[Axes, P], str]) -> Callable[Concatenate[str, P], str]:
    """Make a function that draws on axes, and says what, one of a title that returns SVG."""

    @wraps(draw)
    def plot(title: str, /, *args: P.args, **kwargs: P.kwargs) -> str:
        said: list[str] = []

        def make() -> Figure:
            return _figure(
                title, lambda axes: said.append(draw(axes, *args, **kwargs)), (_WIDTH, _HEIGHT)
            )

        svg = _rendered(make, "svg", extra="report").decode()
        return _inline(svg, title, f"{title}: {said[0]}")

    return plot


@_plot
def curves(axes: Axes, lines: Mapping[str, Sequence[Curve]], across: str, up: str) -> str:
    """Draw lines, all of one name in one colour."""
    named: dict[str, Artist] = {}
    for colour, (name, several) in zip(cycle(COLOURS), lines.items(), strict=False):
        for xs, ys in several:
            (line,) = axes.plot(xs, ys, color=colour, linewidth=1.8, alpha=0.9)
            named.setdefault(name, line)
    places = [x for several in lines.values() for xs, _ in several for x in xs]
    axes.locator_params(axis="x", integer=all(isinstance(x, int) for x in places))
    _name_axes(axes, across, up)
    _add_legend(axes, named)
    return f"{up} against {across}, of {', '.join(named)}"


@dataclass(frozen=True)
class Saved:
    """The time that a strategy saves, drawn at the height of the target."""

    target: float
    target_name: str
    is_low: bool  # whether lower is better
    start: float | None = None  # when the strategy arrives. None: nothing is saved
    stop: float = 0.0  # when the baseline does
    text: str = ""


@_plot
def runs(
    axes: Axes,
    lines: Mapping[str, Sequence[Curve]],
    across: str,
    up: str,
    *,
    skipped: int = 0,
    saved: Saved | None = None,
    best: str = "",
) -> str:
    """Draw the mean of the runs of each name, and a band from the least to the most of them.

    The first `skipped` heights may lie outside, so that later differences are seen. The best has
    the colour of its bar.
    """
    named: dict[str, Artist] = {}
    shown: list[float] = [] if saved is None else [saved.target]
    colours = cycle(each for each in COLOURS if not best or each != BLUE)
    for name, several in lines.items():
        colour, width = (BLUE, 2.6) if name == best else (next(colours), 1.8)
        shortest = min(len(xs) for xs, _ in several)
        xs, ys = (np.array([each[way][:shortest] for each in several]) for way in (0, 1))
        if not shortest:
            continue
        middle, low, high = xs.mean(axis=0), ys.min(axis=0), ys.max(axis=0)
        axes.fill_between(middle, low, high, color=colour, alpha=0.22, linewidth=0)
        (named[name],) = axes.plot(middle, ys.mean(axis=0), color=colour, linewidth=width)
        shown += [*low[skipped:].tolist(), *high[skipped:].tolist()]
    if shown:
        margin = 0.06 * (max(shown) - min(shown)) or 1.0
        axes.set_ylim(min(shown) - margin, max(shown) + margin)
    _name_axes(axes, across, up)
    if saved is not None:
        _draw_saved(axes, saved)
    _add_legend(axes, named)
    said = f"{up} against {across}, of {', '.join(named)}"
    return said if saved is None or not saved.text else f"{said}; {saved.text}"


def _draw_saved(axes: Axes, saved: Saved) -> None:
    """Mark the target, and the time that is saved until it is reached, on the better side."""
    axes.axhline(saved.target, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
    low, high = axes.get_ylim()
    room = _ROOM * (high - low)
    if saved.is_low:
        axes.set_ylim(min(low, saved.target - room), high)
    else:
        axes.set_ylim(low, max(high, saved.target + room))
    text, place = saved.target_name, axes.get_xlim()[1]
    style: dict[str, Any] = {"color": GREY, "ha": "right"}
    if saved.start is not None:
        ends = (saved.start, saved.target), (saved.stop, saved.target)
        arrow = {"arrowstyle": "<|-|>", "color": DARK, "linewidth": 2.0, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", *ends, arrowprops=arrow)
        text, place = saved.text, (saved.start + saved.stop) / 2
        style = {"color": DARK, "weight": "bold", "ha": "center"}
    axes.annotate(
        one_line(text, _WIDEST_LABEL),
        (place, saved.target),
        xytext=(0, -6 if saved.is_low else 6),
        textcoords="offset points",
        va="top" if saved.is_low else "bottom",
        bbox={"facecolor": PAGE, "edgecolor": "none", "pad": 1.0},
        **style,
    )


def _add_legend(axes: Axes, named: Mapping[str, Artist]) -> None:
    """Write names below the plot. As labels, those that begin with _ would be left out."""
    figure = axes.get_figure(root=True)
    assert figure is not None  # noqa: S101 -- axes are in a figure
    columns = 2 if all(len(name) <= _HALF_LABEL for name in named) else 1
    figure.set_size_inches(_WIDTH, _HEIGHT + _LEGEND_LINE * -(-len(named) // columns))
    places_of = [f"line {place}" for place in range(len(named))]
    legend = figure.legend(
        list(named.values()),
        places_of,
        loc="outside lower left",
        frameon=False,
        labelcolor=GREY,
        ncols=columns,
    )
    for text, name in zip(legend.get_texts(), named, strict=True):
        text.set_text(one_line(name, _WIDEST_LABEL))


@_plot
def steps(
    axes: Axes,
    edges: Sequence[float],
    counts: Sequence[float],
    *,
    across: str,
    tail: Tail | None = None,
) -> str:
    """Draw a histogram on a logarithmic axis; the bars of a tail are too low, so it has dots."""
    # Bins of whole numbers are not equally wide: what counts is samples per step of the axis.
    heights = np.asarray(counts) / np.diff(np.log(edges))
    axes.stairs(heights, edges, fill=True, color=BLUE, alpha=0.8)
    axes.set_xscale("log")
    if tail is not None:
        lower, upper = np.asarray(edges[:-1], dtype=float), np.asarray(edges[1:], dtype=float) - 1
        is_long = (upper > tail.start) & (np.asarray(counts) > 0)
        places = np.maximum(np.sqrt(lower * upper), tail.start)[is_long]
        top = float(heights.max())
        axes.axvspan(tail.start, edges[-1], 0, 0.86, color=RED, alpha=0.12, linewidth=0)
        axes.axvline(tail.start, 0, 0.86, color=RED, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.plot(places, np.full(places.size, 0.025 * top), "o", color=RED, markersize=4)
        label = one_line(tail.label, _WIDEST_LABEL)
        axes.text(edges[-1], 1.09 * top, label, color=RED, ha="right", va="bottom")
        axes.set_ylim(0, 1.22 * top)
    _name_axes(axes, across, "samples")
    axes.set_yticks([])
    said = f"samples of {edges[0]:,} to {edges[-1] - 1:,} {across}"
    return said if tail is None else f"{said}; {tail.label}"


@_plot
def dots(
    axes: Axes,
    points: Sequence[Dot],
    *,
    across: str,
    up: str,
    beside: Sequence[Dot] = (),
) -> str:
    """Draw a dot for each place, its area as what is counted there, on logarithmic axes.

    The axes have room for the dots of plots `beside` it, so that they can be compared.
    """
    xs, ys, counts = (np.array(each, dtype=float) for each in zip(*points, strict=True))
    sizes = np.maximum(counts / counts.max() * _LARGEST_DOT, _SMALLEST_DOT)
    axes.scatter(xs, ys, s=sizes, color=BLUE, alpha=0.75, linewidths=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    every = np.array([*points, *beside], dtype=float)
    axes.set_xlim(*_with_room(every[:, 0]))
    axes.set_ylim(*_with_room(every[:, 1]))
    _name_axes(axes, across, up)
    return f"{up} against {across}"


@_plot
def band(axes: Axes, costs: CostCurve, *, up: str) -> str:
    """Draw the mean cost of steps between the least and the most."""
    axes.fill_between(costs.step, costs.least, costs.most, color=BLUE, alpha=0.3, linewidth=0)
    axes.plot(costs.step, costs.mean, color=BLUE, linewidth=1.4)
    axes.set_ylim(0, max(costs.most) * 1.1)
    _name_axes(axes, "step", up)
    return f"{up} in each step, from {min(costs.least):,} to {max(costs.most):,}"


def _draw_dial(axes: Axes, dial: Sequence[DialPosition]) -> str:
    """Draw a point for each position of the dial; labels are on the right, from top to bottom."""
    from matplotlib.ticker import PercentFormatter

    labels: dict[tuple[float, float], list[str]] = {}
    for each in dial:
        place = (each.efficiency, max(each.dispersion, _LEAST_DISPERSION))
        labels.setdefault(place, []).append(str(each.mixing))
    ys, xs = (np.array(values) for values in zip(*labels, strict=True))
    margin = max(0.12 * np.ptp(ys), 0.01)
    axes.set_xscale("log")
    axes.set_xlim(*_with_room(np.append(xs, 1.0)))  # a plain shuffle stays in sight
    axes.set_ylim(ys.min() - margin, min(ys.max() + margin, 1.0))
    axes.axvline(1.0, color=GREY, linestyle=":", linewidth=1.0)
    axes.plot(xs, ys, linestyle="none", marker="o", color=BLUE, clip_on=False)
    for rank, (y, x) in enumerate(sorted(labels, reverse=True)):
        axes.annotate(
            ",\n".join(labels[y, x]),
            (x, y),
            xytext=(1.05, 1 - (rank + 0.5) / len(labels)),
            textcoords="axes fraction",
            verticalalignment="center",
            color=GREY,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5},
        )
    shuffle = "length mix of updates (1: plain shuffle)"
    _name_axes(axes, shuffle, "efficiency (real ÷ padded)")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return (
        f"efficiency against length mix, of mixing {', '.join(str(each.mixing) for each in dial)}"
    )


dial_points = _plot(_draw_dial)


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
    axes.set_xlabel(one_line(across, _WIDEST_LABEL), color=GREY)
    axes.set_ylabel(one_line(up, _WIDEST_LABEL), color=GREY)


def _with_room(values: FloatArray) -> tuple[float, float]:
    """Return limits of a logarithmic axis, wide enough for a round number to lie in them."""
    low, high = values.min() / 1.5, values.max() * 1.5
    more = max(1.0, 12.0 * low / high) ** 0.5
    return float(low / more), float(high * more)


def _inline(svg: str, title: str, said: str) -> str:
    """Make an SVG file a part of a page: no prologue, unique names, a label, the page's colours."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    words = re.sub(r"[^a-z0-9]+", "-", title.lower())[:_WIDEST_LABEL]
    prefix = f"{words}-{sha256(title.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"

    def renamed(tag: re.Match[str]) -> str:  # texts between tags stay
        named = re.sub(r'\bid="', f'id="{prefix}-', tag[0])
        named = re.sub(r'(xlink:href="|url\()#', rf"\1#{prefix}-", named)
        for colour, of_page in {GREY: "var(--quiet)", **_OF_PAGE}.items():
            named = named.replace(colour, of_page)
        return named

    body = re.sub(r"<[^>]*>", renamed, body)
    label = escape(printable(said), quote=True)
    return body.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
