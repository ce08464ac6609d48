"""Hugging Face Trainer with its grouping by length, beside planned batches: end to end.

\b
python -m benchmarks.trainer                     half an hour; writes results/trainer.json
python -m benchmarks.trainer --quick             a fifth of the samples, one seed, writes nothing
python -m benchmarks.trainer --job "two columns" only one of the jobs

The same model, data, tokens per update, learning rate and precision (fp32), on one core. Arms are
processes that take turns, a twentieth of the run at a time; seconds are of the processor. Trainer
runs at its pinned version in an environment under build/peers, made when it is first needed.
"""

import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import click

from benchmarks import machine
from benchmarks.peers.environments import NotInstalledError, python_of
from benchmarks.reporting import (
    output_path,
    progress_bar,
    table_console,
    warn_if_disturbed,
    write_result,
)
from benchmarks.trainer.figures import figures, table
from benchmarks.trainer.race import EVALUATIONS, ArmError, Row, race
from benchmarks.trainer.setting import Setting

SETTINGS = (
    Setting("one column", max_tokens=512, step_tokens=4_096, num_samples=8_000, warm_up=20),
    Setting("two columns", max_tokens=1_024, step_tokens=4_096, num_samples=20_000, warm_up=20),
)


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="A fifth of the samples, one seed.")
@click.option(
    "--job",
    "jobs",
    type=click.Choice([setting.job for setting in SETTINGS]),
    multiple=True,
    help="Only this job.",
)
@click.option("--seeds", default=3, show_default=True, help="Runs of each job.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
def main(*, quick: bool, jobs: tuple[str, ...], seeds: int, output: Path | None) -> None:
    """Run all races, print a table of each job, write the result."""
    settings = [setting for setting in SETTINGS if not jobs or setting.job in jobs]
    if quick:
        settings = [replace(each, num_samples=each.num_samples // 5) for each in settings]
        seeds = 1
    try:
        python = python_of("torch")
        with machine.one_core() as pinned:
            results = [asdict(each) | figures(raced(each, seeds, python)) for each in settings]
    except (NotInstalledError, ArmError) as error:
        click.echo(f"{error}", err=True)
        sys.exit(2)
    for result in results:
        table_console().print(table(result))
    warn_if_disturbed(arm["at_work"] for result in results for arm in result["arms"])
    target = output_path("trainer", output, quick=quick or bool(jobs))
    if target is not None:
        command = f"python -m benchmarks.trainer --seeds {seeds}"
        write_result(target, command, {"one_core": pinned, "seeds": seeds, "jobs": results})


def raced(setting: Setting, seeds: int, python: Path) -> list[list[Row]]:
    """Run the race of some seeds, with a bar meanwhile."""
    races = []
    with progress_bar() as progress, tempfile.TemporaryDirectory() as folder:
        bar = progress.add_task("", total=seeds * EVALUATIONS)
        for seed in range(seeds):
            progress.update(bar, description=f"{setting.job}, seed {seed}", refresh=True)
            rows = race(
                python,
                replace(setting, seed=seed),
                Path(folder),
                advance=lambda: progress.update(bar, advance=1, refresh=True),
            )
            races.append(rows)
    return races


if __name__ == "__main__":
    main()
