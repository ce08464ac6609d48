"""How long planning takes, beside a plain shuffle and a counting sort of as many samples.

\b
python -m benchmarks.planning            10⁴ … 10⁷ lengths, a few minutes
python -m benchmarks.planning --quick    up to 10⁵

One core. Each round times the yardsticks and the planner in turns, and a ratio is taken inside
its round, so the machine's speed, and most of what disturbs it, cancel out.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
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

FIRST = "first plan"
NEXT = "next epoch"

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
        return {
            **yardsticks(lengths),
            # Everything from checking the lengths to the finished plan ...
            FIRST: lambda turn: bw.plan(lengths, batching=self.batching, epoch=turn, **world),
            # ... and what each further epoch costs.
            NEXT: planner,
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
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
def main(*, quick: bool, output: Path | None) -> None:
    """Time all cases, print a table, write the result."""
    largest = 100_000 if quick else max(size for case in CASES for size in case.sizes)
    with machine.one_core() as pinned:
        rows = list(measured(largest))
        imports = timed_imports()
    table_console().print(table(rows))
    click.echo(f"import batchwright: {imports} times as long as import numpy")
    warn_if_disturbed(row["at_work"] for row in rows)
    target = output_path("planning", output, quick=quick)
    if target is not None:
        result = {"one_core": pinned, "rows": rows, "import": asdict(imports)}
        write_result(target, "python -m benchmarks.planning" + " --quick" * quick, result)


def measured(largest: int) -> Iterator[dict[str, object]]:
    """Time each case at each size up to the largest; one row each."""
    work = [(case, size) for case in CASES for size in case.sizes if size <= largest]
    with progress_bar() as progress:
        # As many tasks as there are rounds, one that does not count included.
        total = sum((rounds_for(size) + 1) * size for _, size in work)
        bar = progress.add_task("", total=total)
        for case, size in work:
            progress.update(bar, description=f"{case.name}, {size:,} samples")
            tasks = case.tasks(size)
            share = size / len(tasks)
            step = functools.partial(progress.update, bar, advance=share, refresh=True)
            times = in_turns(tasks, rounds=rounds_for(size), advance=step)
            yield row(case, size, times)


def rounds_for(size: int) -> int:
    """Choose how many rounds to take: more where one is short."""
    return min(21, max(7, 20_000_000 // size))


def row(case: Case, size: int, times: Times) -> dict[str, object]:
    """Sum up one case at one size, as it is written and printed."""
    return {
        "case": case.name,
        "samples": size,
        "rounds": len(times.seconds[FIRST]),
        "at_work": round(times.at_work or 0.0, 3),
        "seconds_median": {name: times.median(name) for name in times.seconds},
        "ratio": {
            name: {
                yard: asdict(times.ratio(name, yard)) for yard in (PERMUTATION, COUNTING_ARGSORT)
            }
            for name in (FIRST, NEXT)
        },
    }


def table(rows: list[dict]) -> Table:
    """Lay rows out, those of one case together."""
    out = Table(
        title="Planning, one core",
        caption="× : times as long as the yardstick in the same round, median (least to most)",
    )
    out.add_column("case")
    for heading in ("plan", "M samples/s", "× permutation", "× counting argsort"):
        out.add_column(heading, justify="right", no_wrap=True)
    out.add_column("next epoch × permutation", justify="right")
    for case, group in itertools.groupby(rows, key=lambda each: each["case"]):
        out.add_section()
        out.add_row(Text(case, style="bold"))
        for each in group:
            seconds = each["seconds_median"][FIRST]
            first, following = each["ratio"][FIRST], each["ratio"][NEXT]
            out.add_row(
                f"  {each['samples']:,} samples",
                f"{seconds * 1e3:,.1f} ms",
                f"{each['samples'] / seconds / 1e6:.1f}",
                str(Ratio(**first[PERMUTATION])),
                str(Ratio(**first[COUNTING_ARGSORT])),
                f"{following[PERMUTATION]['median']:.2f}",
            )
    return out


def timed_imports() -> Ratio:
    """Compare the import of batchwright with that of NumPy, which it needs."""
    with progress_bar() as progress:
        bar = progress.add_task("imports", total=2 * (IMPORT_ROUNDS + 1))
        step = functools.partial(progress.update, bar, advance=1, refresh=True)
        times = import_times(("numpy", "batchwright"), rounds=IMPORT_ROUNDS, advance=step)
    return times.ratio("batchwright", "numpy")


if __name__ == "__main__":
    main()
