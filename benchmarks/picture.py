"""Draw the pictures of README and docs: of the translation application, and of the pipeline.

python -m benchmarks.picture            write them
python -m benchmarks.picture --check    check that the files are up to date; exit code 1 if not
"""

import json
import sys
from collections.abc import Mapping
from io import StringIO
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from benchmarks import machine
from benchmarks.reporting import RESULTS

RESULT = RESULTS / "applications" / "translation.json"
IMAGES = machine.REPOSITORY / "docs" / "images"
PICTURE = IMAGES / "translation.svg"
PIPELINE = IMAGES / "pipeline.svg"

GREY = "#808080"
"""Legible on white and on black."""

BLUE = "#2f81f7"

STRATEGIES = {
    "plain": ("plain batches", GREY),
    "grouped": ("grouped by length, as trainers do", "#d97706"),
    "planned": ("planned", BLUE),
    "planned+auto": ("planned, measured precision", "#16a34a"),
}
"""What is drawn: its title, and its colour."""

PARTS = (
    ("lengths", "one number\nper sample"),
    ("index", "samples sorted\nby length"),
    ("Order", "which samples,\nin what sequence"),
    ("Batching", "what shares\na batch"),
    ("Plan", "the batches\nof an epoch"),
    ("shard", "the batches\nof one rank"),
    ("loader", "your trainer's"),
    ("update", "exact gradient,\nmixed precision"),
)
"""What a batch passes through: the name of each part, and what it decides."""

Facts = Mapping[str, Any]


def picture(facts: Facts) -> str:
    """Draw the validation loss against seconds of training: the mean of the seeds, and their range.

    Args:
        facts: The result of `batchwright compare examples/applications/translation.py`.

    Returns:
        SVG without a background, for light pages and dark ones.
    """
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name, (title, colour) in STRATEGIES.items():
        arms = [arm for run in facts["runs"] for arm in run if arm["name"] == name]
        seen = [[each for each in arm["evaluations"] if each["tokens"]] for arm in arms]
        shortest = min(map(len, seen))
        metric, seconds = (
            np.array([[each[key] for each in arm[:shortest]] for arm in seen])
            for key in ("metric", "seconds")
        )
        across = seconds.mean(0)
        axes.plot(across, metric.mean(0), color=colour, linewidth=1.6, label=title)
        axes.fill_between(across, metric.min(0), metric.max(0), color=colour, alpha=0.2, lw=0)
    axes.set_title(
        f"Translation, mean and range of {len(facts['runs'])} seeds", color=GREY, fontsize=11
    )
    machine_used = f"{facts['threads']} thread of {facts['machine']['cpu']}"
    axes.set_xlabel(f"seconds of training, {machine_used}", color=GREY)
    axes.set_ylabel(facts["metric"], color=GREY)
    axes.legend(frameon=False, labelcolor=GREY, fontsize=9)
    axes.tick_params(color=GREY, labelcolor=GREY, labelsize=9)
    axes.grid(visible=True, color=GREY, alpha=0.2, linewidth=0.5)
    for spine in axes.spines.values():
        spine.set_color(GREY)
    return _svg(figure)


def pipeline() -> str:
    """Draw the parts that a batch passes through, from lengths to an update, as SVG."""
    figure = Figure(figsize=(7.2, 2.7))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 4), ylim=(0, 1.5))
    axes.set_axis_off()
    places = [(column, 0.78) for column in range(4)] + [(3 - k, 0.03) for k in range(4)]
    for (name, text), (left, low) in zip(PARTS, places, strict=True):
        box = FancyBboxPatch((left + 0.1, low + 0.04), 0.8, 0.58, boxstyle="round,pad=0.02")
        box.set(facecolor="none", edgecolor=BLUE if name == "Plan" else GREY, linewidth=1.4)
        axes.add_patch(box)
        centered = {"ha": "center", "va": "center"}
        axes.text(left + 0.5, low + 0.47, name, color=BLUE, fontsize=13, **centered)
        axes.text(left + 0.5, low + 0.22, text, color=GREY, fontsize=10, **centered)
    forth = [((k + 0.92, 1.11), (k + 1.08, 1.11)) for k in range(3)]
    down = ((3.5, 0.8), (3.5, 0.68))
    back = [((3.08 - k, 0.36), (2.92 - k, 0.36)) for k in range(3)]
    for start, end in [*forth, down, *back]:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": GREY, "lw": 1.4})
    return _svg(figure)


def _svg(figure: Figure) -> str:
    """Return the figure as SVG, the same on every machine: text stays text, without a date."""
    written = StringIO()
    with style.context(["default", {"svg.fonttype": "none", "svg.hashsalt": "batchwright"}]):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return written.getvalue()


def main(arguments: list[str]) -> int:
    """Write the pictures, or check the files."""
    drawn = {PICTURE: picture(json.loads(RESULT.read_text(encoding="utf-8"))), PIPELINE: pipeline()}
    if "--check" in arguments:
        return int(
            any(not path.is_file() or path.read_text("utf-8") != svg for path, svg in drawn.items())
        )
    IMAGES.mkdir(parents=True, exist_ok=True)
    for path, svg in drawn.items():
        path.write_text(svg, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
