r"""How fast a corpus is measured shard by shard, beside a plain loop that counts its words.

\b
python -m benchmarks.index_parquet               10⁷ texts, some minutes
python -m benchmarks.index_parquet --quick       a tenth of them, one round, write no result

The texts are paragraphs of docstrings of Python's standard library, repeated and shuffled, in
Parquet files. `index_shards` measures them with two processes, and writes lengths, sorted rows and
histograms. The loop is pyarrow's: it scans the data set with a thread for each core, and adds up
what its kernel counts. Both run on two cores, in turns; both give the same number of words, which
is checked. Files are in the page cache.
"""

import ast
import os
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
from rich.table import Table

from batchwright.sources import index_shards
from batchwright.sources.engines import cores
from benchmarks.reporting import output_path, progress_bar, table_console, write_result
from benchmarks.timing import Ratio

TEXTS = 10_000_000
FILES = 20
CORES = 2
TARGET = 0.8
"""Rows a second of the index, as a share of those of the loop."""


def paragraphs() -> list[str]:
    """Collect the paragraphs of the standard library's docstrings, each once."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                parts = (part.strip() for part in text.split("\n\n"))
                found |= dict.fromkeys(filter(None, parts))
    return list(found)


def write_corpus(folder: Path, size: int) -> int:
    """Write so many texts as Parquet files; return the bytes of text."""
    texts, rng, written = pa.array(paragraphs()), np.random.default_rng(0), 0
    for number, rows in enumerate(np.array_split(np.arange(size), FILES)):
        part = texts.take(pa.array(rng.integers(0, len(texts), rows.size)))
        table = pa.table({"id": pa.array(rows), "text": part})
        pq.write_table(table, folder / f"part-{number:03d}.parquet", row_group_size=1 << 17)
        written += pc.sum(pc.binary_length(part)).as_py()
    return written


def scanned(folder: Path) -> int:
    """Count the words of all texts."""
    words = 0
    for batch in pyarrow.dataset.dataset(folder).to_batches(columns=["text"]):
        counts = pc.list_value_length(pc.utf8_split_whitespace(batch.column("text")))
        words += pc.sum(counts).as_py()
    return words


def indexed(folder: Path, index: Path) -> int:
    """Index all texts; return the number of words."""
    found = index_shards(
        folder, index, column="text", measure="words", workers=CORES, progress=False
    )
    return int(np.dot(*found.histogram()))


def in_turns(
    tasks: dict[str, Callable[[], int]], rounds: int, advance: Callable[[], object]
) -> tuple[dict[str, list[float]], set[int]]:
    """Return the seconds on the clock of each round of each task, and their results."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    results = set()
    for _ in range(rounds):
        for name, task in tasks.items():
            start = time.perf_counter()
            results.add(task())
            seconds[name].append(time.perf_counter() - start)
            advance()
    return seconds, results


def measured(size: int, rounds: int) -> dict[str, Any]:
    """Write the corpus, time both, and sum up."""
    with tempfile.TemporaryDirectory() as name, progress_bar() as bar:
        folder, index = Path(name, "corpus"), Path(name, "index")
        folder.mkdir()
        bar.start()
        job = bar.add_task(f"{size:,} texts in {FILES} files", total=2 * rounds + 1)

        def advance() -> None:
            bar.advance(job)
            bar.refresh()

        bar.refresh()
        num_bytes = write_corpus(folder, size)
        words = scanned(folder)  # the files are in the page cache from here on
        advance()

        def anew() -> int:
            shutil.rmtree(index, ignore_errors=True)
            return indexed(folder, index)

        seconds, found = in_turns(
            {"loop": lambda: scanned(folder), "index_shards": anew}, rounds, advance
        )
        if found != {words}:
            message = f"different numbers of words: {found} and {words}"
            raise RuntimeError(message)
        size_of_index = sum(path.stat().st_size for path in index.iterdir())
    return {
        "texts": size,
        "files": FILES,
        "cores": min(CORES, cores()),
        "bytes_of_text": num_bytes,
        "words": words,
        "bytes_of_index": size_of_index,
        "seconds": seconds,
        "rows_per_second": {name: size / float(np.median(each)) for name, each in seconds.items()},
        "ratio": asdict(Ratio.of(seconds["loop"], seconds["index_shards"])),
        "target": TARGET,
    }


def table(result: dict[str, Any]) -> Table:
    """Lay a result out."""
    out = Table(title=f"Words of {result['texts']:,} texts, on {CORES} cores")
    out.add_column("way")
    for heading in ("texts a second", "of the loop's"):
        out.add_column(heading, justify="right")
    ratio = result["ratio"]
    shown = f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"
    for name, speed in result["rows_per_second"].items():
        out.add_row(name, f"{speed:,.0f}", shown if name == "index_shards" else "")
    return out


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Fewer texts, one round, write no result.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
def main(*, quick: bool, output: Path | None) -> None:
    """Time both ways, print a table, write the result."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    pa.set_cpu_count(CORES)
    result = measured(TEXTS // 10 if quick else TEXTS, rounds=1 if quick else 3)
    table_console().print(table(result))
    target = output_path("index_parquet", output, quick=quick)
    if target is not None:
        command = "python -m benchmarks.index_parquet" + " --quick" * quick
        write_result(target, command, {"pyarrow": pa.__version__, **result})


if __name__ == "__main__":
    main()
