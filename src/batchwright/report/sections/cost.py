"""What each update costs, and which rank waits for which."""

from collections.abc import Mapping
from typing import Any

from batchwright.report.figures import number, percent, plural
from batchwright.report.page import Section
from batchwright.report.plots import band

Facts = Mapping[str, Any]


def cost_plot(costs: Facts, *, unit: str, title: str = "Cost per step") -> str:
    """Draw what steps cost over an epoch, as SVG: the mean, between the least and the most.

    Args:
        costs: What `step_costs` returns.
        unit: What lengths count.
        title: Of the plot.
    """
    curve = costs["curve"]
    return band(
        curve["step"],
        curve["mean"],
        curve["least"],
        curve["most"],
        across="step",
        up=f"padded {unit} a rank",
        title=title,
    )


def cost_section(costs: Facts, *, unit: str) -> Section:
    """Show what steps cost each rank, and what waiting for the slowest takes.

    Args:
        costs: What `step_costs` returns.
        unit: What lengths count.
    """
    row = [number(costs[name]) for name in ("least", "mean", "most")]
    head = ["least", "mean", "most"]
    if costs["world_size"] > 1:
        head += ["slowest rank over mean", "waiting"]
        row += [f"{costs['slowest_over_mean']:.3f}", percent(costs["waiting"])]
    steps, ranks = plural(costs["num_steps"], "step"), plural(costs["world_size"], "rank")
    slots = plural(costs["accumulate"], "batch")
    note = f"Padded {unit} of a rank in a step: {steps} of {ranks}, {slots} each."
    if costs["world_size"] > 1:
        note += " Waiting: for the slowest rank, if time follows padded tokens."
    if costs["num_steps"] > 1:
        note += " The line is the mean, the band goes from the least to the most"
        note += " of ranks." if costs["steps_a_point"] == 1 else " of ranks and steps."
    return Section(
        "Cost per rank and step",
        head=head,
        rows=[row],
        plots=[cost_plot(costs, unit=unit)] if costs["num_steps"] > 1 else [],
        note=note,
    )


def rank_section(costs: Facts, *, unit: str) -> Section | None:
    """Show what an epoch costs each rank. None: there is one, or they are too many to list."""
    if costs["per_rank"] is None or costs["world_size"] == 1:
        return None
    return Section(
        head=("rank", f"padded {unit} of the epoch"),
        rows=[(str(rank), number(total)) for rank, total in enumerate(costs["per_rank"])],
    )
