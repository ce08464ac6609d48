"""`batchwright inspect`: facts and figures of a saved plan."""

from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from batchwright.batching import TokenBudget
from batchwright.cli import options
from batchwright.cli.output import check_outputs, deliver
from batchwright.lengths import without_empty
from batchwright.plans import Plan
from batchwright.report import plot_dial, plot_format
from batchwright.report.inspected import PlanView, plan_report
from batchwright.sources.uris import local_path
from batchwright.stats.dial import DialPosition, mixing_dial
from batchwright.stats.plan_facts import PlanFacts, file_facts, inspected_facts
from batchwright.typing import LengthArray

_MOST_DIALLED = 1_000_000
"""With more samples, a page has the dial only with --dial: its eighteen plans take seconds."""


@click.command("inspect")
@click.argument("plan")
@click.argument("source", required=False)
@options.batch_size
@options.reading
@click.option("--dial", is_flag=True, help="Show what each way to mix updates costs.")
@click.option("--plot", metavar="FILE", help="Draw the dial: FILE.svg, FILE.png or FILE.pdf.")
@options.html_output
@options.json_output
def inspect(
    plan: str,
    source: str | None,
    *,
    batch_size: int | None,
    reading: options.Reading,
    dial: bool,
    plot: str | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Show a saved PLAN.

    Without SOURCE, show what is in the file. With the SOURCE that the plan was made for, also show
    what to do first, padding, shapes and costs. --dial adds the mixing dial: for each mixing, the
    padding and how unlike updates are, with this budget and updates of this size; --plot draws
    it. --html writes a page, which has the dial for up to a million samples.
    """
    if source is None and batch_size is not None:
        raise click.UsageError("--batch-size needs lengths to compare batches: name the SOURCE.")
    if source is None and reading != options.Reading():
        raise click.UsageError(
            "--length, --measure, --tokenizer, --empty and --no-cache say how to read SOURCE: name "
            "it."
        )
    if plot is not None:
        if not dial:
            raise click.UsageError("--plot draws the mixing dial: add --dial.")
        plot_format(plot)
    check_outputs({"--plot": plot, "--html": html}, [plan, source, reading.tokenizer])
    is_index = source is not None and reading.index(source) is not None
    loaded = Plan.load(plan, index=local_path(source) if source and is_index else None)
    has_dial = source is not None and _has_dial(loaded)
    if dial and not has_dial:
        raise click.UsageError(
            "--dial needs padded batches within a budget, and at least as many samples as an "
            "update has batches: name the SOURCE of such a plan."
        )
    view = PlanView(PlanFacts(file_facts(loaded)), reading.unit, plan=click.format_filename(plan))
    if source is not None:
        lengths, seconds = reading.lengths(source)
        lengths = np.asarray(without_empty(lengths, "one")[0])  # as the planner counted them
        facts = inspected_facts(loaded, lengths, batch_size=batch_size)
        if dial or (html is not None and has_dial and lengths.size <= _MOST_DIALLED):
            facts = replace(facts, dial=_dial(loaded, lengths))
        view = replace(
            view, facts=facts, source=click.format_filename(source), seconds_reading=seconds
        )
    if plot is not None:
        plot_dial(view.facts.dial or (), plot)
        view = replace(view, more={"plot": click.format_filename(plot)})
    deliver(plan_report(view), as_json=as_json, html=html)


def _has_dial(plan: Plan) -> bool:
    update = plan.origin.world_size * plan.origin.accumulate
    is_padded = plan.layout.kind == "padded" and plan.layout.budget is not None
    return is_padded and update <= plan.indices.size


def _dial(plan: Plan, lengths: LengthArray) -> tuple[DialPosition, ...]:
    """Price the dial for the budget and the updates of a plan."""
    layout, origin = plan.layout, plan.origin
    batching = TokenBudget(
        layout.budget or 1,
        max_samples=layout.max_samples,
        pad_to_multiple_of=layout.multiple,
        oversize="truncate" if layout.max_length else "drop" if plan.dropped else "error",
    )
    return mixing_dial(
        lengths,
        batching,
        world_size=origin.world_size,
        accumulate=origin.accumulate,
        step_tokens=max(1, round(plan.stats(lengths).step_tokens_mean)),
        seed=origin.seed,
    )
