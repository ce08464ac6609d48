"""How far apart `batchwright compare` finds a strategy and its own twin.

\b
python -m benchmarks.null_comparison             ten minutes; writes results/null_comparison.json
python -m benchmarks.null_comparison --quick     one run instead of ten, writes nothing

Each run is `batchwright compare TASK --quick --null` over three seeds: two processes, new ones for
each seed, train the same batches in turns. The ratio of their speeds has to be within 2 % of 1.
Equal processes differ a little by where their memory happens to lie: seeds average over that.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from batchwright.cli.compare import TEMPLATE
from benchmarks import machine
from benchmarks.reporting import output_path, progress_bar, write_result

WITHIN = 0.02

Run = dict[str, Any]
"""Figures of a comparison."""


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--runs", type=click.IntRange(min=1), show_default="10, or 1 with --quick")
@click.option("--quick", is_flag=True, help="One run.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Of a run.")
@click.option(
    "--task",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=TEMPLATE,
    show_default="of new-task",
)
@click.option("--strategy", default="planned", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path))
def main(
    *,
    runs: int | None,
    quick: bool,
    seeds: int,
    task: Path,
    strategy: str,
    threads: int,
    output: Path | None,
) -> None:
    """Run the comparison several times, and show the ratios."""
    number = runs or (1 if quick else 10)
    found: list[Run] = []
    with progress_bar() as bar:
        shown = bar.add_task("twins", total=number)
        for place in range(number):
            own = range(place * seeds, (place + 1) * seeds)
            found.append(twins(task, strategy, seeds=own, threads=threads))
            bar.advance(shown)
            bar.refresh()
    for each in found:
        click.echo(
            f"{each['ratio']:.4f}  seeds: {', '.join(f'{one:.3f}' for one in each['ratios'])}"
        )
    near = [abs(each["ratio"] - 1) <= WITHIN for each in found]
    click.echo(f"within {WITHIN:.0%} of 1: {sum(near)} of {number}")
    path = output_path("null_comparison", output, quick=quick)
    if path is not None:
        command = f"python -m benchmarks.null_comparison --runs {number}{' --quick' * quick}"
        facts = {
            "strategy": strategy,
            "seeds": seeds,
            "threads": threads,
            "within": WITHIN,
            "near": sum(near),
        }
        write_result(path, command, facts | {"task": task.name, "runs": found})


def twins(task: Path, strategy: str, *, seeds: range, threads: int) -> Run:
    """Compare a strategy with its own twin on the small form of a task."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "batchwright", "compare", str(task.resolve())),
            *("--quick", "--null", "--json", "--strategies", strategy, "--threads", str(threads)),
            *(
                "--seeds",
                str(len(seeds)),
                "--seed",
                str(seeds[0]),
                "--output",
                f"{folder}/result.json",
            ),
        ]
        sources = os.pathsep.join([str(machine.REPOSITORY / "src"), str(machine.REPOSITORY)])
        done = subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": sources},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    first, twin, *_ = json.loads(done.stdout)["summary"]
    return {
        "ratio": twin["speed"]["mean"],
        "ratios": twin["speed"]["values"],
        "tokens_per_second": first["tokens_per_second"],
        "tokens_per_second_of_twin": twin["tokens_per_second"],
        "seconds": first["seconds"],
        "updates": first["updates"],
    }


if __name__ == "__main__":
    main()
