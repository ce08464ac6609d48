"""Draw README's picture from the committed result of the translation application.

python -m benchmarks.picture            write it
python -m benchmarks.picture --check    say whether it is the one of the result; exit code 1 if not
"""

import json
import sys
from collections.abc import Mapping
from io import StringIO
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure

from benchmarks import machine
from benchmarks.reporting import RESULTS

RESULT = RESULTS / "applications" / "translation.json"
PICTURE = machine.REPOSITORY / "docs" / "images" / "translation.svg"

# Legible on white and on black alike, as is nothing darker or lighter.
GREY = "#808080"

STRATEGIES = {
    "plain": ("plain batches", GREY),
    "grouped": ("grouped by length, as trainers do", "#d97706"),
    "planned": ("planned", "#2f81f7"),
    "planned+auto": ("planned, measured precision", "#16a34a"),
}
"""What is drawn: its title, and its colour."""

Facts = Mapping[str, Any]


def picture(facts: Facts) -> str:
    """Draw the validation loss against seconds of training, a line for each seed.

    Args:
        facts: The result of `batchwright compare examples/applications/translation.py`.

    Returns:
        SVG without a ground of its own, for light pages and dark ones.
    """
    written = StringIO()
    # Whatever the user has set. Text stays text; nothing is drawn by lot or by the clock.
    with style.context(["default", {"svg.fonttype": "none", "svg.hashsalt": "batchwright"}]):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for name, (title, colour) in STRATEGIES.items():
            arms = [arm for run in facts["runs"] for arm in run if arm["name"] == name]
            for place, arm in enumerate(arms):
                seen = [each for each in arm["evaluations"] if each["tokens"]]
                axes.plot(
                    [each["seconds"] for each in seen],
                    [each["metric"] for each in seen],
                    color=colour,
                    linewidth=1.6,
                    label=None if place else title,
                )
        axes.set_title(
            f"Translation, {len(facts['runs'])} seeds: the same model, memory and updates",
            color=GREY,
            fontsize=11,
        )
        machine_used = f"{facts['threads']} thread of {facts['machine']['cpu']}"
        axes.set_xlabel(f"seconds of training, {machine_used}", color=GREY)
        axes.set_ylabel(facts["metric"], color=GREY)
        axes.legend(frameon=False, labelcolor=GREY, fontsize=9)
        axes.tick_params(color=GREY, labelcolor=GREY, labelsize=9)
        axes.grid(visible=True, color=GREY, alpha=0.2, linewidth=0.5)
        for spine in axes.spines.values():
            spine.set_color(GREY)
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return written.getvalue()


def main(arguments: list[str]) -> int:
    drawn = picture(json.loads(RESULT.read_text(encoding="utf-8")))
    if "--check" in arguments:
        return int(not PICTURE.is_file() or PICTURE.read_text(encoding="utf-8") != drawn)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
