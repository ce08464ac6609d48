"""`batchwright advise`: what pays on these data, this machine and this model."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import click

from batchwright._format import all_printable, printable_lines
from batchwright.cli.compare import import_torch, threads_option
from batchwright.cli.failures import StrictCommand
from batchwright.cli.output import (
    check_outputs,
    html_option,
    json_option,
    print_on,
    report_console,
    write_page,
)
from batchwright.cli.samples import SampleColumns, profiles_of_source, sample_options
from batchwright.cli.source import Reading, lengths_of_columns, reading_options
from batchwright.cli.turns import live_status, status
from batchwright.cli.values import count, duration, size


@click.command("advise", cls=StrictCommand)
@click.argument("source", metavar="SOURCE|TASK", required=False)
@reading_options
@sample_options
@click.option("--max-tokens", type=size, metavar="N", help="Budget of a batch.")
@click.option(
    "--seconds",
    type=duration,
    metavar="S",
    help="What trials on a TASK may take.  [default: 120, or 5 % of a longer run]",
)
@click.option(
    "--updates",
    type=count,
    metavar="N",
    help="What each strategy takes in a trial, in place of --seconds.",
)
@click.option("--quick", is_flag=True, help="The small form of a TASK.")
@threads_option
@click.option(
    "--framework",
    type=click.Choice(("loop", "transformers", "lightning", "keras")),
    default="loop",
    show_default=True,
    help="What the snippet is for.",
)
@click.option("--rules", is_flag=True, help="List the rules and their sources.")
@html_option
@json_option
def advise(
    source: str | None,
    *,
    length: str | None,
    measure: str | None,
    tokenizer: str | None,
    no_cache: bool,
    labels: str | None,
    groups: str | None,
    text: str | None,
    max_tokens: int | None,
    seconds: float | None,
    updates: int | None,
    quick: bool,
    threads: int | None,
    framework: str,
    rules: bool,
    html: Path | None,
    as_json: bool,
) -> None:
    """Say which techniques pay, which do not, and what cannot be told.

    SOURCE is a file of lengths, or of columns to measure (--length source,target): what lengths
    alone can tell, and --labels, --groups and --text what other columns can. With --text, --measure
    is of that column.

    TASK is a Python file that describes a training job (batchwright new-task): short trials of it
    are run in turns, for 2 minutes or a twentieth of the run, whichever is larger; that is said
    before. With --updates they are the same on a slow machine as on a fast one.
    """
    if rules:
        _list_rules(as_json=as_json)
        return
    if source is None:
        raise click.UsageError("name a SOURCE of lengths, or a TASK; or ask for the --rules.")
    check_outputs({"--html": html}, [source, tokenizer])
    if seconds is not None and updates is not None:
        raise click.UsageError("--seconds and --updates both limit trials: give one.")
    columns = SampleColumns(labels, groups, text)
    if length is None and (measure is not None or tokenizer is not None):
        length = text
    reading = Reading(length, measure, tokenizer, no_cache)
    if source.endswith(".py"):
        if not reading.is_default:
            message = "--length, --measure, --tokenizer and --no-cache are of a SOURCE, not a TASK."
            raise click.UsageError(message)
        if columns != SampleColumns(None, None, None):
            message = (
                "--labels, --groups and --text are columns of a SOURCE. A TASK has them itself: "
                "Task(labels=…, groups=…, features=…)."
            )
            raise click.UsageError(message)
        import_torch(threads)
        facts = _of_task(source, max_tokens, seconds, updates, quick=quick)
    else:
        lengths, seconds_reading = lengths_of_columns(reading, source)
        facts = _of_lengths(lengths, max_tokens) | {"seconds_reading": seconds_reading}
        known = profiles_of_source(source, columns, lengths)
        facts["evidence"] = dataclasses.replace(facts["evidence"], **known)
    _show(facts, framework, html, as_json=as_json)


def _of_lengths(lengths: Any, max_tokens: int | None) -> dict[str, Any]:
    from batchwright.advise import Evidence, profile_data, profile_hardware

    with status("planning"):
        data = profile_data(lengths, max_tokens=max_tokens)
    with status("timing products"):
        hardware = profile_hardware()
    return {"evidence": Evidence(data, hardware), "price": None}


def _of_task(
    path: str, max_tokens: int | None, seconds: float | None, updates: int | None, *, quick: bool
) -> dict[str, Any]:
    from batchwright.advise import Price, examine_task
    from batchwright.compare import load_task
    from batchwright.compare.task_file import errors_of_task

    with status("reading the task"):
        task = load_task(path, quick=quick)
    if max_tokens is not None:
        task = dataclasses.replace(task, max_tokens=max_tokens)

    def tell(price: Price) -> None:
        click.echo(price.told(), err=True)

    with errors_of_task(path), live_status() as watch:
        found = examine_task(task, seconds=seconds, updates=updates, tell=tell, watch=watch)
    return {
        "evidence": found.evidence,
        "price": dataclasses.asdict(found.price) | {"seconds_spent": found.seconds},
    }


def _show(facts: dict[str, Any], framework: str, html: Path | None, *, as_json: bool) -> None:
    from batchwright.advise import advise as ask
    from batchwright.advise import configuration, snippet

    evidence = facts["evidence"]
    given = ask(evidence)
    code = snippet(given, evidence.data, framework)
    result = {
        "data": dataclasses.asdict(evidence.data),
        "hardware": None if evidence.hardware is None else dataclasses.asdict(evidence.hardware),
        "model": None if evidence.model is None else dataclasses.asdict(evidence.model),
        "trials": [dataclasses.asdict(each) for each in evidence.trials.values()],
        "learning": {name: dataclasses.asdict(each) for name, each in evidence.learning.items()},
        "price": facts["price"],
        "strategy": configuration(given),
        "advice": [dataclasses.asdict(each) for each in given],
        "snippet": code,
        **{name: _facts_of(evidence, name) for name in ("labels", "duplicates", "groups")},
    }
    if html is not None:
        from batchwright.report.advised_page import advised_page

        write_page(html, advised_page(result))
    if as_json:
        click.echo(json.dumps(result, allow_nan=False))
        return
    from batchwright.report.advised import advice_report

    print_on(report_console(sys.stdout), advice_report(all_printable(result)))
    pasted = printable_lines(code)
    click.echo(f"\nTo paste; what only you know is in capitals:\n\n{pasted}", nl=False)


def _facts_of(evidence: Any, name: str) -> dict[str, Any] | None:
    profile = getattr(evidence, name)
    return None if profile is None else dataclasses.asdict(profile)


def _list_rules(*, as_json: bool) -> None:
    from batchwright.advise import RULES

    listed = [{"rule": rule.__name__, "text": inspect.getdoc(rule)} for rule in RULES]
    if as_json:
        click.echo(json.dumps(listed))
        return
    click.echo("\n\n".join(f"{each['rule']}\n{each['text']}" for each in listed))
