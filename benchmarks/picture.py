"""Draw README's picture from the committed result of the translation application.

python -m benchmarks.picture            write it
python -m benchmarks.picture --check    say whether it is the one of the result; exit code 1 if not
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from batchwright.report.plots import Curve, curves
from benchmarks import machine
from benchmarks.reporting import RESULTS

RESULT = RESULTS / "applications" / "translation.json"
PICTURE = machine.REPOSITORY / "docs" / "images" / "translation.svg"

STRATEGIES = {
    "plain": "plain batches",
    "grouped": "grouped by length, as trainers do",
    "planned": "planned",
    "planned+auto": "planned, measured precision",
}
"""What is drawn, and what it is called."""

Facts = Mapping[str, Any]


def picture(facts: Facts) -> str:
    """Draw the validation loss against seconds of training, a line for each seed.

    Args:
        facts: The result of `batchwright compare examples/translation.py`.

    Returns:
        SVG, legible on a light page and on a dark one.
    """
    lines: dict[str, list[Curve]] = {title: [] for title in STRATEGIES.values()}
    for run in facts["runs"]:
        for arm in run:
            if arm["name"] in STRATEGIES:
                seen = [each for each in arm["evaluations"] if each["tokens"]]
                points = [each["seconds"] for each in seen], [each["metric"] for each in seen]
                lines[STRATEGIES[arm["name"]]].append(points)
    return curves(
        lines,
        across=f"seconds of training, {facts['threads']} thread of {facts['machine']['cpu']}",
        up=facts["metric"],
        title=f"Translation, {len(facts['runs'])} seeds: the same model, memory and updates",
    )


def main(arguments: list[str]) -> int:
    drawn = picture(json.loads(RESULT.read_text(encoding="utf-8")))
    if "--check" in arguments:
        return int(not PICTURE.is_file() or PICTURE.read_text(encoding="utf-8") != drawn)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
