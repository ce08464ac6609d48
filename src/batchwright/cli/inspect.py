"""`batchwright inspect`: what a saved plan is worth."""

import click

from batchwright.cli.output import json_option, show
from batchwright.cli.source import Reading, reading_options
from batchwright.plans import Plan
from batchwright.report import file_facts, plan_facts


@click.command("inspect")
@click.argument("plan")
@click.argument("source", required=False)
@reading_options
@json_option
def inspect(
    plan: str,
    source: str | None,
    *,
    length: str | None,
    measure: str | None,
    tokenizer: str | None,
    no_cache: bool,
    as_json: bool,
) -> None:
    """Show a saved PLAN.

    Without SOURCE, what the file alone knows; with the SOURCE that it was made for, every
    figure that `batchwright plan` shows.
    """
    reading = Reading(length, measure, tokenizer, no_cache)
    if source is None and not reading.is_default:
        message = "--length, --measure, --tokenizer and --no-cache say how to read SOURCE: name it."
        raise click.UsageError(message)
    loaded = Plan.load(plan)
    about = {"plan": click.format_filename(plan), "source": None, "unit": reading.unit}
    if source is None:
        show(about | file_facts(loaded), as_json=as_json)
        return
    about["source"] = click.format_filename(source)
    lengths, seconds = reading.lengths(source)
    facts = plan_facts(loaded, lengths)
    show(about | facts | {"seconds_reading": seconds}, as_json=as_json)
