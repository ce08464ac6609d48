"""`batchwright index`: measures the shards of a source, and writes a folder of their lengths."""

import time
from typing import cast

import click
import numpy as np

from batchwright._format import duration, number, plural
from batchwright.cli import options
from batchwright.cli.output import deliver
from batchwright.difficulty import compression
from batchwright.report.sections import Report, Section
from batchwright.sources import uris
from batchwright.sources.engines import Engine
from batchwright.sources.indexing import indexed

SCORES = {"compression": compression}
"""Scores of one text alone."""


@click.command("index")
@click.argument("source")
@click.option(
    "-o", "--output", required=True, metavar="DIR", help="Folder of the index: a path or a URI."
)
@click.option("--length", metavar="COLUMN", help="Column that holds the lengths.")
@options.measure
@options.tokenizer
@click.option(
    "--empty",
    type=click.Choice(("one",)),
    help="Count rows that are empty or missing as 1.",
    show_default="an error",
)
@click.option(
    "--score",
    "scores",
    type=click.Choice(tuple(SCORES)),
    multiple=True,
    help="Also store this score of every text.",
)
@options.engine
@options.count("--workers", help="Shards to measure at a time.", show_default="one per core")
@options.json_output
def index(
    source: str,
    *,
    output: str,
    length: str | None,
    measure: str | None,
    tokenizer: str | None,
    empty: str | None,
    scores: tuple[str, ...],
    on: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Measure SOURCE shard by shard, and write an index that planners open.

    SOURCE is a folder of files, a pattern or a URI, as for `plan`. If the command was killed, if
    shards were added or changed, or if other jobs measured some, run it again: it measures only
    what is missing.
    """
    if not source:
        raise click.UsageError("SOURCE is empty; expected a folder of shards, or a pattern.")
    if not output or output.startswith("-"):
        raise click.UsageError(f"--output needs the name of a folder, got {output!r}.")
    if (path := uris.local_path(output)) is not None and path.exists() and not path.is_dir():
        raise click.UsageError(f"--output {output} is a file; expected a folder.")
    start = time.perf_counter()
    how = {
        "column": length,
        "measure": measure,
        "tokenizer": tokenizer,
        "empty": empty,
        "scores": {name: SCORES[name] for name in scores},
    }
    found, kept = indexed(
        source, output, how, on=cast("Engine", on), workers=workers, progress=None
    )
    seconds, name = time.perf_counter() - start, click.format_filename(output)
    values, counts = found.histogram()
    shortest, longest, tokens = int(values[-1]), int(values[0]), int(np.dot(values, counts))
    facts = {
        "source": click.format_filename(source),
        "output": name,
        "on": on,
        "num_samples": found.num_samples,
        "num_shards": found.num_shards,
        "shards_kept_before": kept,
        "shortest": shortest,
        "longest": longest,
        "tokens": tokens,
        "scores": list(scores),
        "fingerprint": found.fingerprint,
        "seconds": seconds,
    }
    unit = measure or "tokens"
    shards = plural(found.num_shards, "shard")
    of = f"{number(shortest)} to {number(longest)} {unit} each, {number(tokens)} together"
    said = [
        f"{plural(found.num_samples, 'sample')} in {shards}, in {duration(seconds)}: {name}",
        of,
    ]
    if kept:
        said.append(f"{number(kept)} of {shards} {'was' if kept == 1 else 'were'} kept from before")
    code = [
        "from batchwright.sources import open_index",
        f"planner = bw.Planner(open_index({str(name)!r}), max_tokens={_budget(longest):_})",
    ]
    sections = [Section(sentences=said), Section(code=code)]
    deliver(Report("", "", facts, [], sections), as_json=as_json)


def _budget(longest: int) -> int:
    """Return a budget that every sample fits."""
    return max(16_384, 1 << (longest - 1).bit_length())
