"""The command that the examples of curricula share: options, progress, results as JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import click
import numpy as np
import torch
from curriculum_report import Result, accuracy_table, summarize
from curriculum_training import Arm, Job, Run, train
from precision_command import facts
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn

from batchwright.errors import BatchwrightError


@dataclass(frozen=True, eq=False)
class Trial:
    """One seed: what is trained, in which arms, and what was found out before.

    Args:
        job: What is trained.
        arms: How.
        known: Figures about the data of this seed.
        clean: bool[n], which labels are right. None: nothing is known to be wrong.
    """

    job: Job
    arms: Sequence[Arm]
    known: Mapping[str, float] = field(default_factory=dict)
    clean: np.ndarray | None = None


@dataclass(frozen=True)
class Experiment:
    """What is repeated over seeds, and how it is reported.

    Args:
        title: Of its table.
        trial: Makes what belongs to a seed.
        controls: Arms that all others are compared with.
        settings: What figures depend on.
        table: Shows what else is worth showing than accuracy.
        sentences: Says what figures say, also where they do not flatter.
    """

    title: str
    trial: Callable[[int], Trial]
    controls: Sequence[str]
    settings: Mapping[str, Any]
    table: Callable[[dict[str, Result]], RenderableType]
    sentences: Callable[[dict[str, Result], list[Mapping[str, float]]], list[str]]


class MakeExperiments(Protocol):
    """Makes what is to be done; a short version if `quick`."""

    def __call__(self, *, quick: bool, **chosen: Any) -> Sequence[Experiment]: ...


def command(
    make: MakeExperiments,
    name: str,
    text: str | None,
    *options: Callable[[Any], Any],
    seed: int = 0,
) -> None:
    """Run an example as a command.

    Args:
        make: Of what it does; gets `quick` and the further options.
        name: Of the example's file.
        text: Its help.
        options: Further options, of click.
        seed: The first seed, unless another is given.
    """

    def main(
        *,
        quick: bool,
        seeds: int | None,
        seed: int,
        threads: int | None,
        output: Path | None,
        **chosen: Any,
    ) -> None:
        threads = threads or 1  # models are so small that a second one would only wait
        torch.set_num_threads(threads)
        circumstances = facts(threads)
        console = Console()
        several = range(seed, seed + (seeds or (2 if quick else 10)))
        started = perf_counter()
        try:
            experiments = make(quick=quick, **chosen)
            results = [run(each, several, console) for each in experiments]
        except BatchwrightError as error:
            raise click.ClickException(str(error)) from error
        seconds = perf_counter() - started
        console.print(f"All in all {seconds:.0f} s.")
        if output is not None:
            form = " --quick" if quick else ""
            further = "".join(
                f" --{key} {value:g}" for key, values in chosen.items() for value in values
            )
            called = f"python examples/studies/{name}.py{form}{further}"
            called += f" --seeds {len(several)} --seed {seed}"
            whole = {
                "command": called,
                **circumstances,
                "seeds": list(several),
                "experiments": results,
                "seconds": seconds,
            }
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
            console.print(f"Wrote {output}.")

    path = click.Path(dir_okay=False, path_type=Path)
    shared = (
        click.option("--quick", is_flag=True, help="A short run of two seeds."),
        click.option("--seeds", type=click.IntRange(1), help="How many.  [default: 10; quick: 2]"),
        click.option("--seed", default=seed, show_default=True, help="The first of them."),
        click.option("--threads", type=click.IntRange(1), help="Of torch.  [default: 1]"),
        click.option("--json", "output", type=path, help="Results."),
    )
    for option in reversed((*shared, *options)):
        main = option(main)
    click.command(name, help="\b\n" + (text or "").replace("\n\n", "\n\n\b\n"))(main)()


def run(experiment: Experiment, seeds: Sequence[int], console: Console) -> dict[str, Any]:
    """Train all seeds in all arms, and report; return everything as JSON takes it."""
    trials = []
    runs = []
    with bars(console) as progress:
        task = progress.add_task(experiment.title, total=len(seeds), figures="")
        for done, seed in enumerate(seeds):
            trial = experiment.trial(seed)
            total = sum(arm.num_updates for arm in trial.arms)
            trials.append(trial)
            runs.append(train(trial.job, trial.arms, shower(progress, task, done, total)))
    clean = [trial.clean for trial in trials if trial.clean is not None]
    results = summarize(runs, experiment.controls, clean or None)
    known = [trial.known for trial in trials]
    said = experiment.sentences(results, known)
    table = accuracy_table(results, experiment.controls, experiment.title)
    for part in (table, experiment.table(results), *said):
        console.print("", part, sep="\n", highlight=False)
    console.print()
    return {
        "title": experiment.title,
        "settings": dict(experiment.settings),
        "known": [dict(each) for each in known],
        "results": [asdict(each) for each in results.values()],
        "said": said,
    }


def bars(console: Console) -> Progress:
    """Make bars that are drawn only between turns: drawing costs no arm any time."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[figures]}"),
        console=console,
        auto_refresh=False,
    )


def shower(progress: Progress, task: Any, done: int, total: int) -> Callable[[Run], None]:
    """Make what shows how far a seed's runs are."""
    taken: dict[str, int] = {}

    def show(run: Run) -> None:
        taken[run.arm.name] = run.num_updates
        completed = done + sum(taken.values()) / total
        progress.update(task, completed=completed, figures=f"seed {done + 1}", refresh=True)

    return show
