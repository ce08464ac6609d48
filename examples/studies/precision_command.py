"""The command that the examples of mixed precision share: options, progress, results as JSON."""

import json
import os
import runpy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import click
import torch
from precision_parity import Experiment, Run, train
from precision_report import evidence_table, results_table, sentences, summarize
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from batchwright.errors import BatchwrightError

REPOSITORY = Path(__file__).resolve().parents[2]


class MakeExperiment(Protocol):
    """Makes what is trained; a short version if `quick`, from data chosen by the seed."""

    def __call__(self, *, quick: bool, seed: int) -> Experiment: ...


def command(make: MakeExperiment, name: str, text: str | None) -> None:
    """Run an example as a command; `text` is its help."""

    @click.command(name, help="\b\n" + (text or "").replace("\n\n", "\n\n\b\n"))
    @click.option("--quick", is_flag=True, help="A short run of one seed.")
    @click.option("--seeds", type=click.IntRange(1), help="How many.  [default: 3; quick: 1]")
    @click.option("--seed", default=0, show_default=True, help="The first of them.")
    @click.option("--threads", type=click.IntRange(1), help="Default: all cores, at most 8.")
    @click.option(
        "--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Results."
    )
    def main(
        *, quick: bool, seeds: int | None, seed: int, threads: int | None, output: Path | None
    ) -> None:
        threads = threads or min(8, len(os.sched_getaffinity(0)))
        torch.set_num_threads(threads)
        circumstances = facts(threads)
        console = Console()
        try:
            experiment = make(quick=quick, seed=seed)
        except BatchwrightError as error:
            raise click.ClickException(str(error)) from error
        several = range(seed, seed + (seeds or (1 if quick else 3)))
        result = run(experiment, several, console)
        if output is not None:
            form = " --quick" if quick else ""
            called = f"python examples/studies/{name}.py{form} --seeds {len(several)} --seed {seed}"
            whole = {"command": called, **circumstances, **result}
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
            console.print(f"Wrote {output}.")

    main()


def run(experiment: Experiment, seeds: Sequence[int], console: Console) -> dict[str, Any]:
    """Train all seeds in all modes, and report; return everything as JSON takes it."""
    started = perf_counter()
    runs = []
    with bars(console) as progress:
        for seed in seeds:
            tasks = {
                mode: progress.add_task(f"{mode}, seed {seed}", total=None, figures="")
                for mode in experiment.modes
            }
            runs.append(train(experiment, seed, shower(progress, tasks)))
    results = summarize(experiment, runs)
    said = sentences(experiment, results)
    for each in results:
        if each.evidence:
            console.print(evidence_table(each.evidence[0], str(each.trained_in[0])))
            reasons = each.evidence[0].ruled_out
            console.print(*(f"{mode}: {reason}" for mode, reason in reasons.items()), "", sep="\n")
    seconds = perf_counter() - started
    console.print(results_table(results), "", *said, f"All in all {seconds:.0f} s.", sep="\n")
    model = runs[0][0].model
    return {
        "seeds": list(seeds),
        "num_samples": len(experiment.job.samples),
        "num_updates": runs[0][0].num_updates,
        "epochs": experiment.epochs,
        "parameters": sum(each.numel() for each in model.parameters()),
        "baseline": experiment.baseline,
        "results": [asdict(each) for each in results],
        "said": said,
        "seconds": seconds,
    }


def bars(console: Console) -> Progress:
    """Make bars that are drawn only between turns: drawing costs no mode any time."""
    return Progress(
        TextColumn("{task.description:14}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[figures]}"),
        console=console,
        auto_refresh=False,
    )


def shower(progress: Progress, tasks: Mapping[str, Any]) -> Callable[[Run], None]:
    """Make what shows a run's progress."""

    def show(run: Run) -> None:
        progress.update(
            tasks[run.asked],
            total=run.num_updates,
            completed=len(run.seconds),
            figures=f"validation loss {run.losses[-1]:.3f}",
            refresh=True,
        )

    return show


def facts(threads: int) -> dict[str, Any]:
    """Describe the machine and the circumstances, as every result of this repository does."""
    machine = runpy.run_path(str(REPOSITORY / "benchmarks" / "machine.py"))
    software = {"torch": torch.__version__, "threads": threads}
    return {**machine["circumstances"](), "machine": {**machine["facts"](), **software}}
