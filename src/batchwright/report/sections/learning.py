"""What strategies learn, and when."""

from collections.abc import Mapping
from typing import Any

from batchwright.report.compared import DENSE
from batchwright.report.page import Section
from batchwright.report.plots import Curve, curves

_BEGINNING = 2
"""Evaluations that would hide all later differences: of the untrained model, and soon after."""


def learning_curves(result: Mapping[str, Any]) -> Section:
    """Draw the metric against time and against tokens, a line for each run.

    Args:
        result: What ``compare --json`` prints.
    """
    plots = [
        curves(
            _lines(result, what),
            across=across,
            up=result["metric"],
            title=title,
            skipped=_BEGINNING,
        )
        for what, across, title in (
            ("seconds", "seconds of training", "By time"),
            ("tokens", "real tokens", "By tokens"),
        )
    ]
    note = (
        "A line for each run; what models are worth before and early in training may lie outside. "
        "Intervals are of 95 %, over seeds, paired."
    )
    return Section(plots=plots, note=note)


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
