"""`batchwright inspect`: what a saved plan is worth."""

from dataclasses import replace
from pathlib import Path

import click

from batchwright.batching import TokenBudget
from batchwright.cli.failures import StrictCommand
from batchwright.cli.output import check_outputs, html_option, json_option, show, write_page
from batchwright.cli.source import Reading, reading_options
from batchwright.dial import DialPosition, mixing_dial
from batchwright.plans import Plan
from batchwright.report import plot_dial, plot_format
from batchwright.report.rows import PlanView
from batchwright.stats.plan_facts import PlanFacts, file_facts, inspected_facts
from batchwright.typing import LengthArray

_MOST_DIALLED = 1_000_000
"""Samples for which a page shows the dial unasked: eighteen plans of them take seconds."""


@click.command("inspect", cls=StrictCommand)
@click.argument("plan")
@click.argument("source", required=False)
@reading_options
@click.option("--dial", is_flag=True, help="Show what each way to mix updates costs.")
@click.option("--plot", metavar="FILE", help="Draw the dial: FILE.svg, FILE.png or FILE.pdf.")
@html_option
@json_option
def inspect(
    plan: str,
    source: str | None,
    *,
    length: str | None,
    measure: str | None,
    tokenizer: str | None,
    no_cache: bool,
    dial: bool,
    plot: str | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Show a saved PLAN.

    Without SOURCE, what the file alone knows; with the SOURCE that it was made for, every
    figure that `batchwright plan` shows. With --dial, also the mixing dial: padding beside how
    unlike updates are, for batches of this budget and updates of this size, and for other mixing;
    --plot draws it. --html writes all of it as a page, with the dial of up to a million samples.
    """
    reading = Reading(length, measure, tokenizer, no_cache)
    if source is None and not reading.is_default:
        message = "--length, --measure, --tokenizer and --no-cache say how to read SOURCE: name it."
        raise click.UsageError(message)
    if plot is not None:
        _check_plot(plot, dial=dial)
    check_outputs({"--plot": plot, "--html": html}, [plan, source, tokenizer])
    loaded = Plan.load(plan)
    has_dial = source is not None and loaded.layout.budget is not None
    has_dial = has_dial and loaded.layout.kind == "padded"
    update = loaded.origin.world_size * loaded.origin.accumulate
    has_dial = has_dial and update <= loaded.indices.size
    if dial and not has_dial:
        message = (
            "--dial prices padded batches within a budget, of as many samples as an update has "
            "batches or more: name the SOURCE of such a plan."
        )
        raise click.UsageError(message)
    view = PlanView(PlanFacts(file_facts(loaded)), reading.unit, plan=click.format_filename(plan))
    if source is not None:
        lengths, seconds = reading.lengths(source)
        facts = inspected_facts(loaded, lengths)
        if dial or (html is not None and has_dial and lengths.size <= _MOST_DIALLED):
            facts = replace(facts, dial=_dial(loaded, lengths))
        view = replace(
            view, facts=facts, source=click.format_filename(source), seconds_reading=seconds
        )
    if plot is not None:
        plot_dial(view.facts.dial or (), plot)
        view = replace(view, more={"plot": click.format_filename(plot)})
    if html is not None:
        from batchwright.report.inspected_page import inspected_page

        write_page(html, inspected_page(view))
    show(view, as_json=as_json)


def _check_plot(plot: str, *, dial: bool) -> None:
    """Refuse before anything is planned what could not be drawn afterwards."""
    if not dial:
        raise click.UsageError("--plot draws the mixing dial: add --dial.")
    plot_format(plot)


def _dial(plan: Plan, lengths: LengthArray) -> tuple[DialPosition, ...]:
    """Price the dial for the budget and the updates of a plan."""
    layout, origin = plan.layout, plan.origin
    batching = TokenBudget(
        layout.budget or 1,
        max_samples=layout.max_samples,
        pad_to_multiple_of=layout.multiple,
        oversize="error" if layout.max_length is None else "truncate",
    )
    return mixing_dial(
        lengths,
        batching if not plan.dropped else replace(batching, oversize="drop"),
        world_size=origin.world_size,
        accumulate=origin.accumulate,
        seed=origin.seed,
    )
