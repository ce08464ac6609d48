"""Train a small GPT on Python's own library with plain, length-grouped and planned batches,
and the planned ones also in the precision that is the quickest here.

    python examples/demo.py                    under three minutes on two cores
    python examples/demo.py --quick            half a minute, too short to learn much
    python examples/demo.py --json FILE        also write all figures, and the machine's facts

The arms take turns, update by update, each with a model of its own, and each is charged only its
own seconds: whatever else the machine does hits all alike.
"""

import json
import os
import runpy
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter

# A thread that has to wait lets others have its core: read when torch is first loaded. Where
# something else keeps a core busy, threads that spin instead make training ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import click
import numpy as np
import torch
from demo_arms import Arm, Updates, into_updates, length_grouped, plain, reached, windows
from demo_report import MEASURED, dial_table, results_table, sentences, speeds, times
from language_model import Job, prepare
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

import batchwright as bw
from batchwright.torch import Precision

ROUNDING = 16
"""What rows of the arm in the measured precision are padded to a multiple of."""

DENSE_EVERY = 3
"""The dense limit only has to show its speed: it takes part in every third turn."""

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Settings:
    """What all arms share.

    Args:
        max_tokens: Memory budget of a batch, padding included.
        step_tokens: Real tokens of an update, about.
        num_samples: Functions to train on, once each.
        num_validation: Functions to validate on.
        vocabulary: Tokens of the vocabulary.
        context: The longest sample, tokens.
        num_evaluations: During the run, at equal tokens.
        longer: Arms that end above plain's final loss may go on for this share of the run.
        seed: Of everything.
    """

    max_tokens: int = 2_048
    step_tokens: int = 4_096
    num_samples: int = 4_000
    num_validation: int = 200
    vocabulary: int = 2_048
    context: int = 512
    num_evaluations: int = 10
    longer: float = 0.25
    seed: int = 0


QUICK = Settings(
    max_tokens=1_024,
    step_tokens=2_048,
    num_samples=700,
    num_validation=100,
    vocabulary=1_024,
    context=256,
)


def make_arms(job: Job, settings: Settings) -> dict[str, Arm]:
    """Make the arms: the same job, in batches that are made in different ways.

    The last one has planned batches again, in the precision that is measured to be the quickest
    on one of them. Their rows are padded to multiples of 16, so that shapes recur.
    """
    lengths, max_tokens = job.lengths, settings.max_tokens

    def planner_of(job: Job) -> bw.Planner:
        batching = bw.TokenBudget(max_tokens, pad_to_multiple_of=job.pad_to_multiple_of)
        return bw.Planner(
            lengths, batching=batching, step_tokens=settings.step_tokens, seed=settings.seed
        )

    rounded = replace(job, pad_to_multiple_of=ROUNDING)
    planner, rounded_planner = planner_of(job), planner_of(rounded)
    num_updates = len(planner) // planner.accumulate
    dense_job, dense_batches = job.without_padding(list(planner(0)))

    def rng(epoch: int) -> np.random.Generator:
        return np.random.default_rng([settings.seed, epoch])

    updates_of: dict[str, Callable[[int], Updates]] = {
        "plain": lambda epoch: into_updates(
            plain(lengths, max_tokens, rng(epoch)), lengths, num_updates
        ),
        "length-grouped": lambda epoch: into_updates(
            length_grouped(lengths, max_tokens, rng(epoch)), lengths, num_updates
        ),
        "planned": lambda epoch: windows(list(planner(epoch)), planner.accumulate),
        "dense limit": lambda _: windows(dense_batches, planner.accumulate),
    }
    arms = {
        name: Arm(name, dense_job if name == "dense limit" else job, updates)
        for name, updates in updates_of.items()
    }
    warm_up(arms["plain"])
    batch = rounded.collate([job.samples[index] for index in rounded_planner(0)[0]])
    precision = Precision.measure(job.model(), job.loss_sum, batch)
    arms[MEASURED] = Arm(
        MEASURED,
        rounded,
        lambda epoch: into_updates(list(rounded_planner(epoch)), lengths, num_updates),
        precision,
    )
    return arms


def train(arms: Mapping[str, Arm], settings: Settings, show: Callable[[Arm], None]) -> None:
    """Train all arms on the same tokens, taking turns."""
    num_updates = len(arms["planned"].updates_of(0))
    evaluate_after = np.linspace(0, num_updates, settings.num_evaluations + 1).round().astype(int)
    for done in range(num_updates + 1):
        for arm in arms.values():
            if done and (arm.name != "dense limit" or done % DENSE_EVERY == 0):
                arm.update()
            if done in evaluate_after and arm.name != "dense limit":
                arm.evaluate()
            show(arm)


def train_on(arms: Mapping[str, Arm], settings: Settings, show: Callable[[Arm], None]) -> None:
    """Let arms that have not reached the plain arm's final loss go on for a while."""
    target = arms["plain"].evaluations[-1].loss
    num_updates = arms["planned"].num_updates
    most = round(num_updates * settings.longer)
    every = max(1, round(num_updates / settings.num_evaluations / 4))
    behind = [arms[name] for name in ("length-grouped", "planned", MEASURED)]
    for done in range(1, most + 1):
        behind = [arm for arm in behind if reached(arm.evaluations, target) is None]
        for arm in behind:
            arm.update()
            if done % every == 0 or done == most:
                arm.evaluate()
            show(arm)


def warm_up(arm: Arm) -> None:
    """Do what a process does only once (threads, buffers) before anybody is timed."""
    model = arm.job.model()
    longest = arm.job.lengths.argsort()[-len(arm.updates_of(0)[0][0]) :]
    batch = arm.job.collate([arm.job.samples[index] for index in longest])
    for _ in range(3):
        arm.job.loss_sum(model, batch).backward()


def progress(console: Console) -> Progress:
    """Make bars that are drawn only between turns: drawing costs no arm any time."""
    return Progress(
        TextColumn("{task.description:14}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[figures]}"),
        console=console,
        auto_refresh=False,
    )


def facts(threads: int) -> dict[str, object]:
    """Describe the machine and the circumstances, as every result of this repository does."""
    machine = runpy.run_path(str(REPOSITORY / "benchmarks" / "machine.py"))
    software = {"torch": torch.__version__, "threads": threads}
    return {**machine["circumstances"](), "machine": {**machine["facts"](), **software}}


def run(settings: Settings, console: Console) -> dict[str, object]:
    """Prepare, train, and report; return everything as JSON takes it."""
    started = perf_counter()
    with console.status("Collecting the functions of Python's standard library ..."):
        job = prepare(
            num_samples=settings.num_samples,
            num_validation=settings.num_validation,
            vocabulary=settings.vocabulary,
            context=settings.context,
            seed=settings.seed,
        )
    prepared = perf_counter() - started
    lengths = job.lengths
    console.print(
        f"{lengths.size:,} functions, {lengths.sum():,} tokens: half are shorter than "
        f"{np.median(lengths):.0f}, the longest have {lengths.max()}. Prepared in {prepared:.0f} s."
    )
    arms = make_arms(job, settings)
    with progress(console) as bars:
        tasks = {name: bars.add_task(name, total=lengths.sum(), figures="") for name in arms}

        def show(arm: Arm) -> None:
            figures = f"loss {arm.loss:5.3f}  {arm.tokens_per_second:7,.0f} tokens/s"
            bars.update(tasks[arm.name], completed=arm.tokens, figures=figures, refresh=True)

        train(arms, settings, show)
        results = speeds(arms, settings.max_tokens)
        train_on(arms, settings, show)
    results = times(results, arms)
    dial = bw.mixing_dial(
        lengths,
        bw.TokenBudget(settings.max_tokens),
        step_tokens=settings.step_tokens,
        seed=settings.seed,
    )
    said = sentences(results, dial, arms[MEASURED].precision)
    seconds = perf_counter() - started
    for part in (results_table(results), dial_table(dial), *said, f"All in all {seconds:.0f} s."):
        console.print("", part, sep="\n", highlight=False)
    return {
        "settings": asdict(settings),
        "lengths": {
            "num_samples": lengths.size,
            "num_tokens": int(lengths.sum()),
            "median": float(np.median(lengths)),
            "mean": float(lengths.mean()),
            "max": int(lengths.max()),
        },
        "parameters": sum(each.numel() for each in arms["plain"].model.parameters()),
        "precision": asdict(arms[MEASURED].precision.evidence),
        "arms": [asdict(result) for result in results.values()],
        "mixing": [asdict(each) for each in dial],
        "said": said,
        "seconds_preparing": prepared,
        "seconds": seconds,
    }


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="A small run that shows the form, not the figures.")
@click.option("--seed", default=0, show_default=True, help="Of samples, weights and batches.")
@click.option("--threads", type=click.IntRange(1), help="Default: all cores, at most 8.")
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Results.")
def main(*, quick: bool, seed: int, threads: int | None, output: Path | None) -> None:
    console = Console()
    threads = threads or min(8, torch.get_num_threads())  # more do not help so small a model
    torch.set_num_threads(threads)
    settings = replace(QUICK if quick else Settings(), seed=seed)
    circumstances = facts(threads)
    try:
        result = run(settings, console)
    except KeyboardInterrupt:
        console.print("Interrupted: nothing was written.")
        sys.exit(130)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        command = f"python examples/demo.py{' --quick' if quick else ''} --seed {seed}"
        whole = {"command": command, **circumstances, **result}
        output.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        console.print(f"Wrote {output}.")


if __name__ == "__main__":
    main()
