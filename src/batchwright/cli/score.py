"""`batchwright score`: from a source of samples to a difficulty for each."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import click
import numpy as np

from batchwright._array_file import write_npy
from batchwright._format import duration, number, one_line
from batchwright.cli import options
from batchwright.cli.output import check_outputs, print_json
from batchwright.difficulty import compression, percentiles, rarity, word_counts
from batchwright.difficulty.arrays import as_array
from batchwright.difficulty.scoring import (
    MANIFEST,
    SHARD_SIZE,
    SHARDS,
    Column,
    ShardFolder,
    as_batch,
    score_shards,
)
from batchwright.errors import LengthsError
from batchwright.sources.measures import Measure, measure_of, measured
from batchwright.sources.progress import progress_bar


@dataclass(frozen=True)
class Scored:
    """What was scored; the fields are the ``--json`` keys."""

    source: str
    by: str
    output: str
    percentiles: bool
    within: str | None
    num_samples: int
    min: float
    median: float
    max: float
    shards: int
    shards_kept_before: int
    seconds: float


@click.command("score")
@click.argument("source")
@click.option(
    "--by",
    required=True,
    type=click.Choice(("length", "rarity", "compression")),
    help="The measure: longer, of rarer words, or less compressible is harder.",
)
@click.option("-o", "--output", required=True, metavar="FILE", help="Save the scores, as .npy.")
@click.option("--column", metavar="NAME", help="Column to score.", show_default="found by name")
@options.measure
@options.tokenizer
@click.option("--mean", is_flag=True, help="Rarity of a word, not of all words together.")
@click.option("--percentiles", "ranked", is_flag=True, help="Save percentile ranks, 0 to 1.")
@click.option(
    "--within", metavar="COLUMN", help="Rank each sample among those with its value of COLUMN."
)
@click.option("--folder", metavar="DIR", help="Keep finished shards there, to resume from.")
@options.number(
    "--shard-size",
    default=SHARD_SIZE,
    help="Samples scored at a time.",
)
@options.json_output
def score(
    source: str,
    *,
    by: str,
    output: str,
    column: str | None,
    measure: str | None,
    tokenizer: str | None,
    mean: bool,
    ranked: bool,
    within: str | None,
    folder: str | None,
    shard_size: int,
    as_json: bool,
) -> None:
    """Score the difficulty of each sample in SOURCE.

    SOURCE holds texts, or for lengths also numbers or lists: .jsonl, .csv, .parquet, .arrow, or
    .txt with a text a line. The scores are float64, in the order of its rows; higher is harder.
    """
    if not source:
        raise click.UsageError("SOURCE is empty; expected a file of samples.")
    for option, given, takes in (
        ("--measure", measure, "length"),
        ("--tokenizer", tokenizer, "length"),
        ("--mean", mean, "rarity"),
    ):
        if given and by != takes:
            raise click.UsageError(f"{option} goes with --by {takes}, not with --by {by}.")
    kept_files = [] if folder is None else [Path(folder, MANIFEST), *Path(folder).glob(SHARDS)]
    check_outputs({"--output": output}, [source, tokenizer, *kept_files])
    start = time.perf_counter()
    how = measure_of(measure, tokenizer)
    data = Column(source, column, measure=how.name if by == "length" else "characters")
    kept = None
    if folder is not None:
        facts = {"by": by, "data": data.identity(), "shard_size": shard_size, "measure": how.name}
        facts |= {"mean": mean, "tokenizer": how.key}
        kept = ShardFolder(folder, facts)
    before = 0 if folder is None else len([*Path(folder).glob(SHARDS)])
    metric = _metric(by, data, how, shard_size, mean=mean)
    with progress_bar(f"Scoring {Path(source).name}") as advance:
        scores = score_shards(data.shards(shard_size), metric, kept, advance)
    if ranked or within is not None:
        groups = None if within is None else _groups(source, within, shard_size, scores.size)
        scores = percentiles(scores, groups=groups)
    write_npy(output, scores, LengthsError)
    done = Scored(
        source=click.format_filename(source),
        by=by,
        output=click.format_filename(output),
        percentiles=ranked or within is not None,
        within=within,
        num_samples=scores.size,
        min=float(scores.min()),
        median=float(np.median(scores)),
        max=float(scores.max()),
        shards=-(-scores.size // shard_size),
        shards_kept_before=before,
        seconds=time.perf_counter() - start,
    )
    if as_json:
        print_json(asdict(done))
    else:
        _print(done)


def _metric(
    by: str, data: Column, how: Measure, shard_size: int, *, mean: bool
) -> Callable[[Any], np.ndarray]:
    """Return what scores the pieces of a shard."""
    if by == "length":
        return lambda pieces: _lengths(pieces, how)
    if by == "compression":
        return lambda pieces: compression(_texts(pieces))
    with progress_bar(f"Counting the words of {Path(data.name).name}") as advance:
        counts = word_counts(_counted(data, shard_size, advance))
    return lambda pieces: rarity(_texts(pieces), mean=mean, counts=counts)


def _counted(
    data: Column, shard_size: int, advance: Callable[[float], None]
) -> Iterator[list[str]]:
    for shard in data.shards(shard_size):
        yield _texts(shard.samples)
        advance(shard.fraction)


def _texts(pieces: list[Any]) -> list[str]:
    texts = as_batch(pieces)
    if isinstance(texts, np.ndarray) or not isinstance(texts[0], str):
        place = pieces[0][1]
        raise click.UsageError(
            f"{place.source}: {place.column!r} holds no text; name a column that does."
        )
    return cast("list[str]", texts)


def _lengths(pieces: list[Any], how: Measure) -> np.ndarray:
    return np.concatenate([k for rows, place in pieces for k in measured(rows, how, place)])


def _groups(source: str, within: str, shard_size: int, size: int) -> np.ndarray:
    pieces = [as_batch(shard.samples) for shard in Column(source, within).shards(shard_size)]
    groups = np.concatenate([as_array(piece, f"--within {within}") for piece in pieces])
    if groups.size != size:
        raise click.UsageError(
            f"--within {within}: {groups.size} rows for {size} samples; did the file change?"
        )
    return groups


def _print(done: Scored) -> None:
    kind = "percentile ranks of " if done.percentiles else ""
    low, middle, high = map(number, (done.min, done.median, done.max))
    scored = f"{number(done.num_samples)} samples by {kind}{done.by}"
    lines = [
        f"{scored} in {duration(done.seconds)}: {done.output}",
        f"least {low}, median {middle}, largest {high}",
    ]
    if done.shards_kept_before:
        kept = f"{number(done.shards_kept_before)} of {number(done.shards)}"
        lines.append(f"{kept} shards were kept from before")
    for line in lines:
        click.echo(one_line(line))
