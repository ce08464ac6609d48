"""`use_plan` beside Trainer's own grouping by length and its plain shuffle: time and loss.

\b
python -m benchmarks.group_by_length             10 minutes; writes results/group_by_length.json
python -m benchmarks.group_by_length --quick     few samples, one seed, writes nothing

Two jobs: a language model of the functions of Python's library, and the classification of WordNet's
glosses, which apt-get fetches. For a seed all arms have the same first weights, and all have the
same learning rate and tokens per update on average; `use_plan(trainer)` derives its budget from the
batch size. Arms are processes on one core that take turns, a twentieth of the run at a time;
seconds are of the processor.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

from benchmarks import machine
from benchmarks.group_by_length.data import NoPackageError, write_data
from benchmarks.group_by_length.setting import Setting
from benchmarks.reporting import (
    output_path,
    progress_bar,
    table_console,
    warn_if_disturbed,
    write_result,
)
from benchmarks.trainer.race import EVALUATIONS, ArmError, ArmProcess, go_on, seconds_to

WORKER = Path(__file__).with_name("worker.py")

ARMS = ("plain", "group_by_length", "use_plan")

SETTINGS = (
    Setting("functions", 1_200, 1_024, epochs=2, batch_size=8, accumulate=2, learning_rate=4e-3),
    Setting("glosses", 8_000, 2_048, epochs=2, batch_size=32, accumulate=1, learning_rate=1e-3),
)

Row = dict[str, Any]


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="A tenth of the samples, one seed.")
@click.option("--seeds", default=3, show_default=True, help="Runs of each job.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
def main(*, quick: bool, seeds: int, output: Path | None) -> None:
    """Run all races, print a table of each job, write the result."""
    settings = list(SETTINGS)
    if quick:
        settings = [replace(each, num_samples=each.num_samples // 10) for each in settings]
        seeds = 1
    try:
        with machine.one_core() as pinned:
            jobs = [asdict(each) | figures(raced(each, seeds)) for each in settings]
    except (ArmError, NoPackageError) as error:
        click.echo(f"{error}", err=True)
        sys.exit(2)
    for job in jobs:
        table_console().print(table(job))
    warn_if_disturbed(row["at_work"] for job in jobs for race in job["races"] for row in race)
    target = output_path("group_by_length", output, quick=quick)
    if target is not None:
        command = f"python -m benchmarks.group_by_length --seeds {seeds}"
        write_result(target, command, {"one_core": pinned, "seeds": seeds, "jobs": jobs})


def raced(setting: Setting, seeds: int) -> list[list[Row]]:
    """Run a job's race for each seed, with a bar meanwhile."""
    races = []
    with progress_bar() as progress, tempfile.TemporaryDirectory() as folder:
        data = write_data(setting, Path(folder))
        bar = progress.add_task("", total=seeds * EVALUATIONS)
        for seed in range(seeds):
            progress.update(bar, description=f"{setting.data}, seed {seed}", refresh=True)
            races.append(
                race(
                    replace(setting, seed=seed),
                    data,
                    advance=lambda: progress.update(bar, advance=1, refresh=True),
                )
            )
    return races


def race(setting: Setting, data: Path, *, advance: Callable[[], object]) -> list[Row]:
    """Train all arms for as many epochs, taking turns; then let slower learners go on.

    Returns:
        For each arm its figures at the end of the epochs, and the seconds to the loss that the
        plain arm has there.
    """
    python, given = Path(sys.executable), asdict(setting) | {"data_file": str(data)}
    arms = [ArmProcess(python, arm, given, data.with_name(arm), WORKER) for arm in ARMS]
    try:
        facts = [arm.ready() for arm in arms]
        totals = [int(each["updates"]) for each in facts]
        for turn in range(EVALUATIONS):
            for arm, total in zip(arms, totals, strict=True):
                edges = np.linspace(0, total, EVALUATIONS + 1).round().astype(int)
                arm.train(int(edges[turn + 1] - edges[turn]))
                arm.evaluate()
            advance()
        rows = [_row(arm, int(each["accumulate"])) for arm, each in zip(arms, facts, strict=True)]
        target = rows[0]["loss"]
        for arm, total, row in zip(arms, totals, rows, strict=True):
            go_on(arm, target, total)
            row["evaluations"] = arm.evaluations
            # The plain arm is there at its end, whatever it came across before.
            at_end = row is rows[0]
            row["seconds_to_loss"] = (
                row["seconds"] if at_end else seconds_to(arm.evaluations, target)
            )
        return rows
    finally:
        for arm in arms:
            arm.end()


def _row(arm: ArmProcess, accumulate: int) -> Row:
    clock = arm.clock
    return {
        "arm": arm.arm,
        "accumulate": accumulate,
        "updates": clock["updates"],
        "tokens": clock["tokens"],
        "seconds": clock["seconds"],
        "at_work": min(1.0, clock["seconds"] / clock["wall"]),
        "tokens_per_second": clock["tokens"] / clock["seconds"],
        "padding": 1 - clock["tokens"] / clock["padded_tokens"],
        "worst_batch": clock["worst_batch"],
        "peak_bytes": clock["growth"],
        "loss": arm.evaluations[-1]["loss"],
    }


def figures(races: list[list[Row]]) -> dict[str, Any]:
    """Sum races up.

    Returns:
        ``arms``: for each arm its padding and its figures over the plain arm's, seed by seed:
        ``speed`` (real tokens a second), ``memory`` (what the process peaked at above its start),
        ``worst_batch`` (padded tokens), ``time`` (seconds to the plain arm's final loss; None:
        never) and ``loss`` (final held-out loss, the difference). ``races``: the rows.
    """
    arms = []
    for place, arm in enumerate(ARMS):
        rows, plain = [race[place] for race in races], [race[0] for race in races]
        pairs = list(zip(rows, plain, strict=True))
        ratios = {"speed": "tokens_per_second", "memory": "peak_bytes", "worst_batch": None}
        over: dict[str, Any] = {
            short: [row[name or short] / base[name or short] for row, base in pairs]
            for short, name in ratios.items()
        }
        over["time"] = [
            None if row["seconds_to_loss"] is None else row["seconds_to_loss"] / base["seconds"]
            for row, base in pairs
        ]
        over["loss"] = [row["loss"] - base["loss"] for row, base in pairs]
        found = {name: float(np.mean([row[name] for row in rows])) for name in ("padding", "loss")}
        arms.append({"arm": arm, "accumulate": rows[0]["accumulate"], **found, "over_plain": over})
    return {"arms": arms, "races": races}


def table(job: dict[str, Any]) -> Table:
    """Show a job: each arm, and its figures over the plain one's."""
    shown = Table(
        title=f"{job['data']}: {job['batch_size']} samples × {job['accumulate']}",
        caption="over the plain arm: mean of seeds (lowest to highest)",
    )
    shown.add_column("")
    columns = ("padding", "loss", "accumulate", "speed", "time", "loss", "memory", "worst batch")
    for heading in columns:
        shown.add_column(heading, justify="right")
    for arm in job["arms"]:
        over = arm["over_plain"]
        names = ("speed", "time", "loss", "memory", "worst_batch")
        shown.add_row(
            arm["arm"],
            f"{arm['padding']:.1%}",
            f"{arm['loss']:.3f}",
            str(arm["accumulate"]),
            *(_spread(over[name], digits=3 if name == "loss" else 2) for name in names),
        )
    return shown


def _spread(values: list[float | None], *, digits: int) -> str:
    known = [value for value in values if value is not None]
    never = f", {len(values) - len(known)} never" if len(known) < len(values) else ""
    if not known:
        return "never"
    low, high = min(known), max(known)
    return f"{np.mean(known):.{digits}f} ({low:.{digits}f} to {high:.{digits}f}){never}"


if __name__ == "__main__":
    main()
