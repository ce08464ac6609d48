"""What batches waste, beside other ways to make them."""

from collections.abc import Mapping
from typing import Any

from batchwright.report.figures import number, percent, plural
from batchwright.report.page import Section
from batchwright.report.plots import bars


def waste_plot(shares: Mapping[str, float], *, what: str = "padding") -> str:
    """Draw what each way to make batches wastes, as SVG.

    Args:
        shares: Name → the share that is not real.
        what: It is.
    """
    return bars(shares, across=what, title="Waste")


def waste_section(facts: Mapping[str, Any]) -> Section:
    """Show what a plan wastes, beside plain batches in the same memory.

    Args:
        facts: What `inspect --json` prints.
    """
    packed = facts["layout"]["kind"] == "packed" and facts["budget"] is not None
    what = "empty" if packed else "padding"
    shares = {"this plan": facts["waste"]["plan"]}
    rows = [
        ("this plan", percent(shares["this plan"]), number(facts["num_batches"])),
    ]
    notes = []
    plain, budgeted = facts["plain_batches"], facts.get("within_budget")
    if plain is not None:
        shares["plain batches"] = facts["waste"]["plain_batches"]
        rows.append(
            ("plain batches", percent(shares["plain batches"]), number(plain["num_batches"]))
        )
        notes.append(
            f"Plain batches hold {plural(plain['batch_size'], 'random sample')}: the most that "
            "always fit the budget."
        )
    if budgeted is not None:
        shares["within a budget"] = budgeted["padding"]
        rows.append(
            ("within a budget", percent(budgeted["padding"]), number(budgeted["num_batches"]))
        )
        notes.append(
            f"Within a budget: padded batches of at most {number(budgeted['max_tokens'])} "
            f"{facts['unit']}, as large as the largest of this plan."
        )
    return Section(
        "Waste",
        head=("", what, "batches"),
        rows=rows,
        plots=[waste_plot(shares, what=what)],
        note=" ".join(notes),
    )
