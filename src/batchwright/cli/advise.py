"""`batchwright advise`: which techniques help with these data, this machine and this model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from batchwright.cli import options
from batchwright.cli.compare import import_torch
from batchwright.cli.output import check_outputs, deliver, prints_as_messages
from batchwright.cli.progress import live_status, status
from batchwright.errors import LengthsError
from batchwright.report.sections import Report, Section

if TYPE_CHECKING:
    from batchwright.advise import DataProfile, Evidence, Found
    from batchwright.advise.data_profile import Policy
    from batchwright.typing import Field, LengthArray


@click.command("advise")
@click.argument("source", metavar="SOURCE|TASK", required=False)
@options.reading
@click.option("--labels", metavar="COLUMN", help="Column of classes.")
@click.option("--groups", metavar="COLUMN", help="Column of sources, languages or speakers.")
@click.option("--text", metavar="COLUMN", help="Column of texts: finds duplicates, wrong labels.")
@options.number("--max-tokens", help="Budget of a batch.", show_default="suggested")
@options.batch_size
@click.option(
    "--oversize",
    type=click.Choice(("drop", "truncate")),
    help="What to do with samples longer than the budget.",
    show_default="truncate",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    metavar="S",
    help="Time limit of the trials of a TASK.",
    show_default="180, or 5 % of a longer run",
)
@options.count("--updates", help="Updates of each strategy in a trial, instead of --seconds.")
@click.option("--quick", is_flag=True, help="Use the small form of a TASK.")
@options.threads
@click.option(
    "--framework",
    type=click.Choice(("loop", "transformers", "lightning", "keras")),
    default="loop",
    help="Framework of the code to copy.",
)
@click.option("--rules", is_flag=True, help="List the rules and their sources.")
@options.html_output
@options.json_output
def advise(
    source: str | None,
    *,
    reading: options.Reading,
    labels: str | None,
    groups: str | None,
    text: str | None,
    max_tokens: int | None,
    batch_size: int | None,
    oversize: Policy | None,
    seconds: float | None,
    updates: int | None,
    quick: bool,
    threads: int | None,
    framework: str,
    rules: bool,
    html: Path | None,
    as_json: bool,
) -> None:
    """Say which techniques help, which do not, and which cannot be judged.

    SOURCE is a file of lengths, or of columns to measure (--length source,target). With --labels,
    --groups and --text, other columns are examined too; --measure then applies to the text.

    TASK is a Python file that describes a training job (batchwright new-task). Short trials of it
    take turns, for 3 minutes or a twentieth of the run, whichever is longer; the time is printed
    first. With --updates, trials have the same length on slow and fast machines.
    """
    if rules:
        from batchwright.advise import RULES

        texts = {name: inspect.getdoc(rule) or "" for name, rule in RULES.items()}
        listed = [
            {"rule": RULES[name].__name__, "technique": name, "text": text}
            for name, text in texts.items()
        ]
        sections = [
            Section(name, sentences=[" ".join(each.split()) for each in text.split("\n\n")])
            for name, text in texts.items()
        ]
        deliver(Report("", "", listed, [], sections), as_json=as_json)
        return
    if source is None:
        raise click.UsageError("name a SOURCE of lengths, or a TASK; or ask for the --rules.")
    check_outputs({"--html": html}, [source, reading.tokenizer])
    if seconds is not None and updates is not None:
        raise click.UsageError("--seconds and --updates both limit trials: give one.")
    columns = {"labels": labels, "groups": groups, "samples": text}
    price, spent = None, 0.0
    if source.endswith(".py"):
        if reading != options.Reading() or any(columns.values()):
            raise click.UsageError(
                "--length, --measure, --tokenizer, --empty, --no-cache, --labels, --groups and "
                "--text are for a SOURCE. A TASK has its own: Task(labels=…, groups=…, features=…)."
            )
        if oversize is not None:
            raise click.UsageError(
                "--oversize is for a SOURCE. The samples of a TASK must fit its max_tokens: "
                "truncate or leave out longer ones in the task."
            )
        import_torch(threads)
        here = Path.cwd()
        with prints_as_messages():
            tried = _of_task(source, max_tokens, batch_size, seconds, updates, quick=quick)
        html = None if html is None else here / html  # the task may have changed the folder
        evidence, price, spent = tried.evidence, tried.price, tried.seconds
    else:
        if reading.length is None and (reading.measure, reading.tokenizer) != (None, None):
            reading = replace(reading, length=text)
        from batchwright.advise import profile_data

        how = partial(
            profile_data,
            max_tokens=max_tokens,
            batch_size=batch_size,
            oversize=oversize,
            empty=reading.empty or "error",
            unit=reading.unit,
        )
        evidence = _of_source(source, reading, columns, how)
    from batchwright.advise import advise as ask
    from batchwright.advise import configuration, headline, snippet
    from batchwright.report.advised import Advised, advised_report

    advice = ask(evidence)
    known = {"step_tokens": evidence.step_tokens, "epochs": evidence.epochs}
    code = snippet(advice, evidence.data, framework, **known)
    first = headline(evidence, advice)
    found = Advised(evidence, tuple(advice), configuration(advice), code, first, price, spent)
    deliver(advised_report(found), as_json=as_json, html=html)


def _of_source(
    source: str,
    reading: options.Reading,
    columns: Mapping[str, str | None],
    profile: Callable[[LengthArray], DataProfile],
) -> Evidence:
    from batchwright.advise import Evidence, profile_hardware, profile_samples
    from batchwright.advise.duplicates import check_one_for_each
    from batchwright.sources.columns import column_values

    lengths = reading.columns(source)
    with status("planning"):
        data = profile(lengths)
    # Others are left out: --empty drop.
    is_there = np.asarray(lengths.reshape(len(lengths), -1).all(axis=1))
    with status("timing products"):
        hardware = profile_hardware()
    with live_status() as watch:
        watch("reading columns", 0.0)
        values = {
            name: column_values(source, column, text=name == "samples")
            for name, column in columns.items()
            if column is not None
        }
        for name, column in values.items():
            check_one_for_each(f"rows of {columns[name]!r}", column, len(lengths))
        kept = is_there & _with_values(source, columns, values, is_there, reading.empty)
        values = {
            name: column[kept] if isinstance(column, np.ndarray) else column.filter(kept)
            for name, column in values.items()
        }
        samples = profile_samples(
            lengths[kept], **values, features=values.get("samples"), watch=watch
        )
    return Evidence(data, hardware, **samples)


def _with_values(
    source: str,
    columns: Mapping[str, str | None],
    values: Mapping[str, Field],
    is_there: np.ndarray,
    empty: str | None,
) -> np.ndarray:
    """Say which rows have a label, a group and a text, if these columns were given.

    Raises:
        LengthsError: If some have none, and `empty` does not allow that.
    """
    from batchwright.sources.columns import without_value
    from batchwright.sources.read import counted_rows

    size = len(is_there)
    kept = np.ones(size, dtype=np.bool_)
    for name, column in values.items():
        is_text = name == "samples"
        found = without_value(column, blank=not is_text)
        kept &= ~found
        if is_text:
            found &= is_there  # others were named when lengths were read
        if found.any():
            of = f" of {columns[name]!r}"
            said = counted_rows(int(found.sum()), size, int(found.argmax()), of, "missing")
            if empty is None or (empty == "one" and not is_text):
                raise LengthsError(
                    f"{source}: {said}: --empty drop leaves them out of the figures on samples"
                )
            click.echo(f"{source}: {said}: left out of the figures on samples", err=True)
    if not kept.any():
        raise LengthsError(f"{source}: no row has {' and '.join(map(_named, values))}.")
    return kept


def _named(values: str) -> str:
    return "texts" if values == "samples" else values


def _of_task(
    path: str,
    max_tokens: int | None,
    batch_size: int | None,
    seconds: float | None,
    updates: int | None,
    *,
    quick: bool,
) -> Found:
    from batchwright.advise import examine_task
    from batchwright.compare import load_task
    from batchwright.compare.task_file import errors_of_task

    with status("reading the task"):
        task = load_task(path, quick=quick)
    if batch_size is not None:
        task = task.with_batch_size(batch_size)
    if max_tokens is not None:
        task = replace(task, max_tokens=max_tokens)

    with errors_of_task(path), live_status() as watch:
        return examine_task(
            task,
            seconds=seconds,
            updates=updates,
            announce=lambda price: click.echo(str(price), err=True),
            watch=watch,
        )
