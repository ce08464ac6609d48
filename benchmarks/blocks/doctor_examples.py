"""A block of what the doctor says of scripts that are written as the libraries' examples are."""

from collections.abc import Mapping
from typing import Any

from benchmarks.blocks.markdown import source, table
from benchmarks.doctor_examples.checked import CHECKED

Facts = Mapping[str, Any]


def doctor_examples(facts: Facts) -> str:
    """Show every finding in every script, and how it was checked by hand."""
    rows = []
    for row in facts["rows"]:
        script = f"**{row['script']}** ({row['library']}): {row['about']}"
        for each in row["findings"] or [None]:
            if each is None:
                rows.append((script, "nothing found", ""))
                continue
            found = f"{each['level']}: **{each['name']}**. {each['figure']}"
            rows.append((script, found, CHECKED.get((row["script"], each["name"]), "not checked")))
            script = ""
    shown = table(("script", "what the doctor says", "checked by hand"), rows, aligned="---")
    return f"{shown}\n\n{source('doctor_examples', facts)}"
