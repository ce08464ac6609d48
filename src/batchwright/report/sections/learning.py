"""What strategies learn, and when."""

from collections.abc import Mapping
from typing import Any

from batchwright.report.compared import DENSE
from batchwright.report.page import Section
from batchwright.report.plots import Curve, curves


def learning_curves(result: Mapping[str, Any]) -> Section:
    """Draw the metric against time and against tokens, a line for each run.

    Args:
        result: What ``compare --json`` prints.
    """
    metric = result["metric"]
    return Section(
        plots=[
            curves(
                _lines(result, "seconds"), across="seconds of training", up=metric, title="By time"
            ),
            curves(_lines(result, "tokens"), across="real tokens", up=metric, title="By tokens"),
        ],
        note="A line for each run. Intervals are of 95 %, over seeds, paired.",
    )


def _lines(result: Mapping[str, Any], what: str) -> dict[str, list[Curve]]:
    """Return name → (place, metric) of each run."""
    runs = result["runs"] or [result["unfinished"]]
    found: dict[str, list[Curve]] = {each["name"]: [] for each in runs[0] if each["name"] != DENSE}
    for run in runs:
        for each in run:
            if each["name"] in found:
                seen = [one for one in each["evaluations"] if one["metric"] is not None]
                points = [one[what] for one in seen], [one["metric"] for one in seen]
                found[each["name"]].append(points)
    return found
