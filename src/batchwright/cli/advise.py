"""`batchwright advise`: what pays on these data, this machine and this model."""

from __future__ import annotations

import inspect
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchwright._format import all_printable, printable_lines
from batchwright.cli.compare import import_torch, threads_option
from batchwright.cli.failures import StrictCommand
from batchwright.cli.output import (
    check_outputs,
    html_option,
    json_option,
    print_json,
    print_on,
    report_console,
    write_page,
)
from batchwright.cli.samples import SampleColumns, profiles_of_source, sample_options
from batchwright.cli.source import Reading, lengths_of_columns, reading_options
from batchwright.cli.turns import live_status, status
from batchwright.cli.values import count, duration, size

if TYPE_CHECKING:
    from batchwright.advise import Evidence
    from batchwright.report.advised import Advised, SpentPrice
    from batchwright.typing import LengthArray


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
        evidence, price = _of_task(source, max_tokens, seconds, updates, quick=quick)
    else:
        lengths, _ = lengths_of_columns(reading, source)
        evidence, price = _of_lengths(lengths, max_tokens), None
        evidence = replace(evidence, **profiles_of_source(source, columns, lengths))
    _show(_advised(evidence, price, framework), html, as_json=as_json)


def _of_lengths(lengths: LengthArray, max_tokens: int | None) -> Evidence:
    from batchwright.advise import Evidence, profile_data, profile_hardware

    with status("planning"):
        data = profile_data(lengths, max_tokens=max_tokens)
    with status("timing products"):
        hardware = profile_hardware()
    return Evidence(data, hardware)


def _of_task(
    path: str, max_tokens: int | None, seconds: float | None, updates: int | None, *, quick: bool
) -> tuple[Evidence, SpentPrice]:
    from batchwright.advise import Price, examine_task
    from batchwright.compare import load_task
    from batchwright.compare.task_file import errors_of_task
    from batchwright.report.advised import SpentPrice

    with status("reading the task"):
        task = load_task(path, quick=quick)
    if max_tokens is not None:
        task = replace(task, max_tokens=max_tokens)

    def tell(price: Price) -> None:
        click.echo(str(price), err=True)

    with errors_of_task(path), live_status() as watch:
        found = examine_task(task, seconds=seconds, updates=updates, tell=tell, watch=watch)
    return found.evidence, SpentPrice(**vars(found.price), seconds_spent=found.seconds)


def _advised(evidence: Evidence, price: SpentPrice | None, framework: str) -> Advised:
    from batchwright.advise import advise as ask
    from batchwright.advise import configuration, snippet
    from batchwright.report.advised import Advised

    advice = ask(evidence)
    return Advised(
        data=evidence.data,
        hardware=evidence.hardware,
        model=evidence.model,
        trials=tuple(evidence.trials.values()),
        learning=dict(evidence.learning),
        price=price,
        strategy=configuration(advice),
        advice=tuple(advice),
        snippet=snippet(advice, evidence.data, framework),
        labels=evidence.labels,
        duplicates=evidence.duplicates,
        groups=evidence.groups,
    )


def _show(found: Advised, html: Path | None, *, as_json: bool) -> None:
    if html is not None:
        from batchwright.report.advised_page import advised_page

        write_page(html, advised_page(found))
    if as_json:
        print_json(found.as_json())
        return
    from batchwright.report.advised import advice_report

    print_on(report_console(sys.stdout), advice_report(all_printable(found)))
    pasted = printable_lines(found.snippet)
    click.echo(f"\nTo paste; what only you know is in capitals:\n\n{pasted}", nl=False)


def _list_rules(*, as_json: bool) -> None:
    from batchwright.advise import RULES

    listed = [{"rule": rule.__name__, "text": inspect.getdoc(rule)} for rule in RULES]
    if as_json:
        print_json(listed)
        return
    click.echo("\n\n".join(f"{each['rule']}\n{each['text']}" for each in listed))
