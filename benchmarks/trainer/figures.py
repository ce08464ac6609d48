"""What races show: the planned arm beside the others, seed by seed."""

from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.trainer.race import ARMS, Row, seconds_to

PLANNED = ARMS.index("planned")


def figures(races: list[list[Row]]) -> dict[str, Any]:
    """Sum races up.

    Args:
        races: For each seed, a row of each arm.

    Returns:
        ``arms``: for each arm the mean figures, and those of the planned arm over its own, seed by
        seed: ``speed`` (real tokens a second), ``memory`` (peak while training), ``time`` (seconds
        to its final validation loss; None where that was never reached). ``races``: the rows.
    """
    arms = []
    for place, arm in enumerate(ARMS):
        rows = [race[place] for race in races]
        summary = {"arm": arm, "at_work": min(row["at_work"] for row in rows)}
        for name in ("tokens_per_second", "padding", "worst_batch", "peak_bytes", "loss"):
            values = [row[name] for row in rows]
            summary[name] = None if None in values else float(np.mean(values))
        summary["updates"] = rows[0]["updates"]
        summary["accumulate"] = rows[0]["accumulate"]
        summary["planned_over_it"] = {
            "speed": [_over(race, place, "tokens_per_second") for race in races],
            "memory": [_over(race, place, "peak_bytes") for race in races],
            "time": [_time(race, place) for race in races],
        }
        arms.append(summary)
    return {"arms": arms, "races": races}


def _over(race: list[Row], place: int, name: str) -> float:
    return race[PLANNED][name] / race[place][name]


def _time(race: list[Row], place: int) -> float | None:
    target = race[place]["loss"]
    reached = None if target is None else seconds_to(race[PLANNED]["evaluations"], target)
    return None if reached is None else reached / race[place]["seconds"]


def table(result: dict[str, Any]) -> Table:
    """Show a job: each arm, and the planned one over it."""
    setting = f"{result['max_tokens']:,} tokens a batch, {result['step_tokens']:,} an update"
    shown = Table(
        title=f"{result['job']}: {setting}",
        caption="the last three columns: planned over that arm, mean of seeds (lowest to highest)",
    )
    shown.add_column("")
    headings = ("tokens/s", "padding", "worst batch", "peak MB", "loss", "speed", "memory", "time")
    for heading in headings:
        shown.add_column(heading, justify="right")
    for arm in result["arms"]:
        over = arm["planned_over_it"]
        shown.add_row(
            arm["arm"],
            f"{arm['tokens_per_second']:,.0f}",
            f"{arm['padding']:.1%}",
            f"{arm['worst_batch']:.2f} ×",
            f"{arm['peak_bytes'] / 1e6:,.0f}",
            "" if arm["loss"] is None else f"{arm['loss']:.3f}",
            *("" if arm["arm"] == "planned" else _spread(over[name]) for name in headings[-3:]),
        )
    return shown


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    missing = f", {len(values) - len(known)} never" if len(known) < len(values) else ""
    if len(known) == 1:
        return f"{known[0]:.2f}{missing}"
    return f"{np.mean(known):.2f} ({min(known):.2f}–{max(known):.2f}){missing}"
