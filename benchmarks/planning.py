"""How long planning takes, beside a plain shuffle and a counting sort of as many samples.

\b
python -m benchmarks.planning            10⁴ … 10⁷ lengths, a few minutes
python -m benchmarks.planning --quick    up to 10⁵

One core. Each round times the yardsticks and the planner in turns, and a ratio is taken inside
its round, so the machine's speed, and most of what disturbs it, cancel out. NumPy sorts differently
on different processors, so all is measured twice, in processes of their own: as NumPy chooses, and
with NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL", without its sort for AVX-512.
"""

import functools
import itertools
import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import click
import numpy as np
from rich.table import Table
from rich.text import Text

import batchwright as bw
from batchwright.typing import Batching
from benchmarks import machine
from benchmarks.length_sets import DOCUMENTS, TEXT, LogNormal
from benchmarks.reporting import (
    output_path,
    progress_bar,
    table_console,
    warn_if_disturbed,
    write_result,
)
from benchmarks.timing import (
    COUNTING_ARGSORT,
    PERMUTATION,
    Ratio,
    Task,
    Times,
    import_times,
    in_turns,
    yardsticks,
)

Found = TypeVar("Found")

INDEX = "LengthIndex.build(lengths)"
FIRST = "first epoch"
EPOCH = "planner(epoch)"
WHOLE = "whole epoch"
BATCH = "plan[b]"
BLOCK = "plan[b] in blocks"

SORTS = {"as NumPy chooses": "", "without AVX-512": "X86_V4 AVX512_ICL"}
"""How NumPy sorts → features of the processor that it may not use."""

TOGETHER = 64
BATCHES = 640
REPEATS = {EPOCH: 20, BATCH: BATCHES, BLOCK: BATCHES}
"""What takes microseconds → how often a round does it; times are of one."""

IMPORT_ROUNDS = 15


@dataclass(frozen=True)
class Case:
    """What is planned: a batching, over which lengths, for how many ranks."""

    name: str
    batching: Batching
    lengths: LogNormal = TEXT
    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    world_size: int = 1
    accumulate: int = 1

    def tasks(self, size: int) -> dict[str, Task]:
        """Return what is timed for a number of samples; a new epoch every round."""
        lengths = self.lengths.draw(size)
        world = {"world_size": self.world_size, "accumulate": self.accumulate}
        planner = bw.Planner(lengths, batching=self.batching, **world)
        plan = planner(0)
        together = min(TOGETHER, len(plan))
        first = np.random.default_rng(0).integers(0, len(plan) - together + 1, BATCHES).tolist()

        def epochs(turn: int) -> None:
            for number in range(REPEATS[EPOCH]):
                planner(REPEATS[EPOCH] * turn + number)

        def batches(_: int) -> None:
            for number in first:
                plan[number]

        def blocks(_: int) -> None:
            for number in first[: BATCHES // TOGETHER]:
                _ = plan[number : number + together].indices

        return {
            **yardsticks(lengths),
            INDEX: lambda _: bw.LengthIndex.build(lengths),
            # Everything from checking the lengths to the arrays of the first epoch ...
            FIRST: lambda turn: bw.Planner(lengths, batching=self.batching, **world)(turn).indices,
            # ... and what each further epoch costs: its plan, and all batches of it.
            EPOCH: epochs,
            WHOLE: lambda turn: planner(turn).indices,
            BATCH: batches,
            BLOCK: blocks,
        }


CASES = (
    Case("TokenBudget(16,384)", bw.TokenBudget(16_384)),
    Case("TokenBudget(16,384), 8 ranks × 4", bw.TokenBudget(16_384), world_size=8, accumulate=4),
    Case("Packing(8,192)", bw.Packing(8_192)),
    Case(
        "Packing(131,072) of documents",
        bw.Packing(131_072, oversize="truncate"),
        lengths=DOCUMENTS,
        sizes=(10_000, 100_000, 1_000_000),
    ),
    Case(
        "Packing(131,072) of documents, split",
        bw.Packing(131_072, oversize="split"),
        lengths=DOCUMENTS,
        sizes=(10_000, 100_000, 1_000_000),
    ),
)


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Leave out sizes above 10⁵, write no result.")
@click.option("--rounds", type=int, help="Take at most so many rounds; writes no result.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
def main(*, quick: bool, rounds: int | None, output: Path | None) -> None:
    """Time all cases, print a table, write the result."""
    largest = 100_000 if quick else max(size for case in CASES for size in case.sizes)
    with machine.one_core() as pinned:
        sorts = {
            name: in_own_process(measured, largest, rounds, NPY_DISABLE_CPU_FEATURES=features)
            for name, features in SORTS.items()
        }
        imports = timed_imports(min(rounds or IMPORT_ROUNDS, IMPORT_ROUNDS))
    for name, rows in sorts.items():
        table_console().print(table(rows, name))
    click.echo(f"import batchwright: {imports} times as long as import numpy")
    warn_if_disturbed(row["at_work"] for rows in sorts.values() for row in rows)
    target = output_path("planning", output, quick=quick or rounds is not None)
    if target is not None:
        options = ["--quick"] * quick + ([f"--rounds {rounds}"] if rounds else [])
        result = {
            "one_core": pinned,
            "disabled": SORTS,
            "sorts": sorts,
            "import": asdict(imports),
        }
        write_result(target, " ".join(["python -m benchmarks.planning", *options]), result)


def in_own_process(call: Callable[..., Found], *arguments: object, **variables: str) -> Found:
    """Call a function in a fresh process, under some environment variables."""
    before = {name: os.environ.get(name, "") for name in variables}
    try:
        _set(variables)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context) as pool:
            return pool.submit(call, *arguments).result()
    finally:
        _set(before)


def _set(variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value:
            os.environ[name] = value


def measured(largest: int, most_rounds: int | None = None) -> list[dict[str, object]]:
    """Time each case at each size up to the largest; one row each."""
    work = [(case, size) for case in CASES for size in case.sizes if size <= largest]
    rows = []
    with progress_bar() as progress:
        # As many tasks as there are rounds, one that does not count included.
        total = sum((rounds_for(size, most_rounds) + 1) * size for _, size in work)
        bar = progress.add_task("", total=total)
        for case, size in work:
            progress.update(bar, description=f"{case.name}, {size:,} samples")
            tasks = case.tasks(size)
            share = size / len(tasks)
            step = functools.partial(progress.update, bar, advance=share, refresh=True)
            times = in_turns(tasks, rounds=rounds_for(size, most_rounds), advance=step)
            rows.append(row(case, size, times))
    return rows


def rounds_for(size: int, most: int | None = None) -> int:
    """Choose how many rounds to take: more where one is short."""
    return min(21 if most is None else most, max(7, 20_000_000 // size))


def row(case: Case, size: int, times: Times) -> dict[str, object]:
    """Sum up one case at one size, as it is written and printed."""
    return {
        "case": case.name,
        "samples": size,
        "rounds": len(times.seconds[FIRST]),
        "at_work": round(times.at_work or 0.0, 3),
        "seconds_median": {
            name: times.median(name) / REPEATS.get(name, 1) for name in times.seconds
        },
        "ratio": {
            name: {
                yard: asdict(times.ratio(name, yard)) for yard in (PERMUTATION, COUNTING_ARGSORT)
            }
            for name in (INDEX, FIRST, WHOLE)
        },
    }


def table(rows: list[dict], sort: str) -> Table:
    """Lay rows out, those of one case together."""
    out = Table(
        title=f"Planning, one core, sorting {sort}",
        caption="× : times as long as Generator.permutation(n) in the same round, median. "
        "A whole epoch and the first one are all batches, as arrays.",
    )
    out.add_column("case", no_wrap=True)
    for heading in (
        "whole epoch ×",
        "index ×",
        "first epoch",
        EPOCH,
        BATCH,
        f"in blocks of {TOGETHER}",
    ):
        out.add_column(Text(heading), justify="right")
    for case, group in itertools.groupby(rows, key=lambda each: each["case"]):
        out.add_section()
        out.add_row(Text(case, style="bold"))
        for each in group:
            seconds, ratio = each["seconds_median"], each["ratio"]
            out.add_row(
                f"  {each['samples']:,}",
                f"{ratio[WHOLE][PERMUTATION]['median']:.2f}",
                f"{ratio[INDEX][PERMUTATION]['median']:.2f}",
                f"{seconds[FIRST] * 1e3:,.1f} ms",
                f"{seconds[EPOCH] * 1e3:.3f} ms",
                f"{seconds[BATCH] * 1e6:.1f} µs",
                f"{seconds[BLOCK] * 1e6:.1f} µs",
            )
    return out


def timed_imports(rounds: int) -> Ratio:
    """Compare the import of batchwright with that of NumPy, which it needs."""
    with progress_bar() as progress:
        bar = progress.add_task("imports", total=2 * (rounds + 1))
        step = functools.partial(progress.update, bar, advance=1, refresh=True)
        times = import_times(("numpy", "batchwright"), rounds=rounds, advance=step)
    return times.ratio("batchwright", "numpy")


if __name__ == "__main__":
    main()
