"""Blocks of how quickly plans are made, and of the claims."""

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.blocks.markdown import in_seconds, source, table
from benchmarks.reporting import RESULTS

Facts = Mapping[str, Any]


def planning(facts: Facts) -> str:
    """Show what a plan costs beside a plain shuffle."""
    rows = [
        (
            row["case"],
            f"{row['samples']:,}",
            in_seconds(row["seconds_median"]["first plan"]),
            f"{row['ratio']['first plan']['Generator.permutation(n)']['median']:.2f} ×",
            f"{row['ratio']['first plan']['counting argsort']['median']:.1f} ×",
        )
        for row in facts["rows"]
        if row["samples"] >= 1_000_000
    ]
    head = ("", "lengths", "a plan takes", "÷ `Generator.permutation(n)`", "÷ counting argsort")
    whole = json.loads((RESULTS / "hundred_million.json").read_text(encoding="utf-8"))
    large = whole["rows"][0]
    most = max(row["peak_bytes_per_sample"] for row in whole["rows"])
    more = (
        f"10⁸ lengths are planned in memory in {large['seconds']:.0f} s, with at most {most:.0f} "
        "bytes a sample above the input. "
        f"`import batchwright` takes {facts['import']['median']:.2f} × `import numpy`."
    )
    return f"{table(head, rows)}\n\n{more}\n\n{source('planning', facts)}"


def claims(facts: Facts) -> str:
    """Count the verdicts, and name what was missed."""
    verdicts = facts["verdicts"]
    missed = [
        f"{each['subject']}: {each['claim']}"
        for each in facts["claims"]
        if each["verdict"] == "missed"
    ]
    named = f" Missed: {'; '.join(missed)}." if missed else ""
    kept, lost = verdicts.get("kept", 0), verdicts.get("missed", 0)
    return (
        f"`python -m benchmarks.claims` measures what we claim: {kept} hold, {lost} do not."
        f"{named} {source('claims', facts)}"
    )
