"""Short trials: what they showed, and what they took."""

from collections.abc import Mapping
from typing import Any

from batchwright.report.compared import interval
from batchwright.report.figures import percent
from batchwright.report.page import Section

Facts = Mapping[str, Any]


def price_sentences(price: Facts | None) -> list[str]:
    """Say what trials took of what they might have taken; nothing where there were none."""
    if price is None:
        return []
    said = f"Trials took {price['seconds_spent']:.0f} s"
    if price["seconds"] is not None:
        said += f" of the {price['seconds']:.0f} s that they might"
    run = f"about {price['run_seconds']:.0f}" if price["run_seconds"] >= 10 else "less than 10"
    return [f"{said}; a run in plain batches takes {run} s here."]


def trial_sections(result: Facts) -> list[Section]:
    """Show trials of speed and of what is learnt.

    Args:
        result: What ``advise --json`` prints.

    Returns:
        No section where there were none.
    """
    if not result["trials"]:
        return []
    speed = Section(
        "Trials of speed",
        sentences=price_sentences(result["price"]),
        head=("strategy", "precision", "updates", "tokens/s", "over the first"),
        rows=[
            (
                each["name"],
                each["precision"],
                str(each["updates"]),
                f"{each['tokens_per_second']:,.0f}",
                interval({**each["speed"], "mean": each["speed"]["ratio"]}),
            )
            for each in result["trials"]
        ],
        note="(low – high): 95 % interval over updates, which take turns.",
    )
    if not result["learning"]:
        return [speed]
    learning = Section(
        "Trials of what is learnt",
        head=("strategy", "runs", "of a whole run", "sooner", "along the way", "gain in the end"),
        rows=[
            (
                each["name"],
                str(each["runs"]),
                percent(each["share"]),
                interval({**each["sooner"], "mean": each["sooner"]["ratio"]}),
                f"{each['least']:.2f} – {each['most']:.2f}",
                f"{each['gain']:+.4f}",
            )
            for each in result["learning"].values()
        ],
        note="How many times sooner each was where the first one was, and how much better its "
        "metric was after as many tokens. (low – high): 95 % interval over runs.",
    )
    return [speed, learning]
