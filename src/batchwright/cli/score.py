"""`batchwright score`: computes the difficulty of each sample of a source."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import numpy as np

from batchwright._array_file import write_npy
from batchwright._format import duration, number
from batchwright.cli import options
from batchwright.cli.output import check_outputs, deliver
from batchwright.difficulty import compression, percentiles, rarity, word_counts
from batchwright.difficulty.scoring import (
    A_FILE,
    MANIFEST,
    SHARD_SIZE,
    SHARDS,
    Column,
    ShardFolder,
    score_files,
    score_shards,
)
from batchwright.errors import LengthsError, SourceError
from batchwright.order.scores import as_array
from batchwright.report.sections import Report, Section
from batchwright.sources.engines import mapped
from batchwright.sources.measures import Measure, measure_of, measured
from batchwright.sources.progress import Advance, progress_bar
from batchwright.sources.scores import as_batch
from batchwright.typing import FloatArray


@click.command("score")
@click.argument("source")
@click.option(
    "--by",
    required=True,
    type=click.Choice(("length", "rarity", "compression")),
    help="Measure of difficulty: longer, with rarer words, or less compressible is harder.",
)
@click.option("-o", "--output", required=True, metavar="FILE", help="Save the scores, as .npy.")
@click.option("--column", metavar="NAME", help="Column to score.", show_default="found by name")
@options.measure
@options.tokenizer
@click.option("--mean", is_flag=True, help="Rarity: the mean over words, not the sum.")
@click.option("--percentiles", "ranked", is_flag=True, help="Save percentile ranks, 0 to 1.")
@click.option(
    "--within", metavar="COLUMN", help="Rank samples among those with the same value of COLUMN."
)
@click.option("--folder", metavar="DIR", help="Keep finished shards in DIR, to resume from.")
@options.number("--shard-size", default=SHARD_SIZE, help="Samples scored at a time.")
@options.engine
@click.option(
    "--empty",
    type=click.Choice(("drop", "one")),
    help="Score missing rows as empty ones, which plans drop or count as 1.",
    show_default="an error",
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
    on: str,
    empty: str | None,
    as_json: bool,
) -> None:
    """Score the difficulty of each sample in SOURCE.

    SOURCE holds texts, or for lengths also numbers or lists: .jsonl, .csv, .parquet, .arrow, or
    .txt with one text per line. The scores are float64, in the order of its rows; higher is harder.
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
    kept, before = None, [] if folder is None else [*Path(folder).glob(SHARDS)]
    in_folder = [] if folder is None else [Path(folder, MANIFEST), *before]
    check_outputs({"--output": output}, [source, tokenizer, *in_folder])
    start = time.perf_counter()
    how = measure_of(measure, tokenizer)
    measured_in = how.name if by == "length" else "characters"
    data = Column(source, column, measure=measured_in, fill=empty is not None)
    if folder is not None:
        size = A_FILE if on == "ray" else shard_size
        facts = {"by": by, "data": data.identity(), "shard_size": size, "measure": how.name}
        facts |= {} if empty is None else {"empty": empty}
        kept = ShardFolder(folder, facts | {"mean": mean, "tokenizer": how.key})
    counts = _word_counts(data, shard_size, on) if by == "rarity" else None
    metric = _metric(by, how, counts, mean=mean, least=1 if empty == "one" else 0)
    with progress_bar(f"Scoring {Path(source).name}") as advance:
        if on == "ray":
            scores = score_files(data, metric, shard_size, kept, advance)
        else:
            scores = score_shards(data.shards(shard_size), metric, kept, advance)
    if ranked or within is not None:
        groups = None if within is None else _groups(source, within, shard_size, scores.size)
        scores = percentiles(scores, groups=groups)
    write_npy(output, scores, LengthsError)
    low, middle, high = float(scores.min()), float(np.median(scores)), float(scores.max())
    name, seconds = click.format_filename(output), time.perf_counter() - start
    shards = len(data.files()) if on == "ray" else -(-scores.size // shard_size)
    done = {
        "source": click.format_filename(source),
        "by": by,
        "output": name,
        "percentiles": ranked or within is not None,
        "within": within,
        "num_samples": scores.size,
        "min": low,
        "median": middle,
        "max": high,
        "shards": shards,
        "shards_kept_before": len(before),
        "seconds": seconds,
    }
    kind = "percentile ranks of " if done["percentiles"] else ""
    said = [
        f"{number(scores.size)} samples by {kind}{by} in {duration(seconds)}: {name}",
        f"least {number(low)}, median {number(middle)}, largest {number(high)}",
    ]
    if before:
        said.append(f"{number(len(before))} of {number(shards)} shards were kept from before")
    deliver(Report("", "", done, [], [Section(sentences=said)]), as_json=as_json)


def _metric(
    by: str, how: Measure, counts: Mapping[str, int] | None, *, mean: bool, least: int
) -> Callable[[list[Any]], FloatArray]:
    """Return what scores the pieces of a shard."""
    if by == "length":
        return lambda pieces: np.concatenate(
            [
                np.where(each == 0, least, each)
                for rows, place in pieces
                for each in measured(rows, how, place)
            ]
        )
    if by == "compression":
        return lambda pieces: compression(_texts(pieces))
    return lambda pieces: rarity(_texts(pieces), mean=mean, counts=counts)


def _word_counts(data: Column, shard_size: int, on: str) -> Mapping[str, int]:
    """Count the words of all rows; on Ray, with one task per file."""
    with progress_bar(f"Counting the words of {Path(data.name).name}") as advance:
        if on == "local":
            return word_counts(_each_texts(data, shard_size, advance))
        counts: Counter[str] = Counter()
        tasks = [(file,) for file in data.files()]
        of_file = partial(_words_of_file, data.of_a_file(), shard_size)
        with closing(mapped(of_file, tasks, on="ray")) as found:
            for done, (_, words) in enumerate(found, 1):
                counts.update(words)
                advance(done / len(tasks))
        return counts


def _words_of_file(opened: Callable[[str], Column], shard_size: int, file: str) -> Counter[str]:
    return word_counts(_each_texts(opened(file), shard_size, lambda _: None))


def _each_texts(data: Column, shard_size: int, advance: Advance) -> Iterator[list[str]]:
    for shard in data.shards(shard_size):
        yield _texts(shard.samples)
        advance(shard.fraction)


def _texts(pieces: list[Any]) -> list[str]:
    texts = as_batch(pieces)
    if isinstance(texts, np.ndarray) or not isinstance(texts[0], str):
        place = pieces[0][1]
        raise SourceError(
            f"{place.source}: {place.column!r} holds no text; name a column that does."
        )
    return cast("list[str]", texts)


def _groups(source: str, within: str, shard_size: int, size: int) -> np.ndarray:
    pieces = [as_batch(shard.samples) for shard in Column(source, within).shards(shard_size)]
    groups = np.concatenate([as_array(piece, f"--within {within}") for piece in pieces])
    if groups.size != size:
        raise click.UsageError(
            f"--within {within}: {groups.size} rows for {size} samples; did the file change?"
        )
    return groups
