"""Asks whether it matters for what is learnt that samples meet others in every epoch.

\b
python -m benchmarks.mixing.variety            40 minutes; writes benchmarks/results/variety.json
python -m benchmarks.mixing.variety --quick    a minute, two seeds, writes nothing

A small GPT and a small classifier learn several epochs of few samples. Plans without slack put
nearly the same samples into a batch in every epoch; with a slack, others. All arms have the same
first weights for the same seed, the same number of updates, and the exact mean as the loss of an
update. Only losses are taken, no times, so it may run beside other work. A run that is stopped goes
on where it was: finished trainings are kept in the file.
"""

import json
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias

import click
import numpy as np
import torch
from rich.table import Table
from torch import nn

import batchwright as bw
from batchwright.stats.variety import variety
from benchmarks.machine import sources
from benchmarks.mixing.compositions import mix
from benchmarks.mixing.figures import Difference
from benchmarks.mixing.from_examples import Job, prepare, text_classification
from benchmarks.mixing.plain_batches import Updates, into_updates, plain, windows
from benchmarks.mixing.training import LATE, train
from benchmarks.reporting import output_path, progress_bar, table_console, write_result

INTERRUPTED = 130

PLAIN, FROZEN = "plain shuffle", "frozen shuffle"
TODAY, HALF, MOST = "no slack", "half", "most"

GOALS = {TODAY: 0.0, HALF: 0.5, MOST: 0.9}
"""The variety that each planned arm is to have; the slack is the one that comes nearest."""

ARMS = {1: (PLAIN, FROZEN, TODAY, HALF, MOST), 8: (PLAIN, TODAY, MOST)}
"""By the batches of an update: with eight, smaller ones, variety is a half without any slack.

The updates of a shuffle, the same in every epoch, show what variety does where lengths do nothing.
"""

SLACKS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)

Application: TypeAlias = Literal["language model", "classification"]


@dataclass(frozen=True)
class Settings:
    """What the arms of an application share.

    Args:
        num_samples: To train on.
        num_validation: To validate on.
        vocabulary: Tokens of the vocabulary.
        width: Of the model, which has one layer.
        learning_rate: The highest.
        epochs: Over the samples.
        step_tokens: Real tokens of an update, about, by the batches of an update.
        longest: Samples as long as this, or longer, are left out: cut ones would be equally long.
    """

    num_samples: int
    num_validation: int
    vocabulary: int
    width: int
    learning_rate: float
    epochs: int
    step_tokens: Mapping[int, int]
    longest: int = 128


FULL: dict[Application, Settings] = {
    "language model": Settings(5_000, 300, 512, 32, 4e-3, 6, {1: 4_096, 8: 8_192}),
    "classification": Settings(5_000, 2_000, 2_048, 64, 2e-3, 8, {1: 2_048, 8: 4_096}),
}

QUICK: dict[Application, Settings] = {
    name: replace(
        each,
        num_samples=600,
        num_validation=100,
        epochs=2,
        step_tokens={batches: tokens // 4 for batches, tokens in each.step_tokens.items()},
    )
    for name, each in FULL.items()
}


@dataclass(frozen=True)
class Run:
    """One training: which application, batches of an update, arm, and seed."""

    application: Application
    batches: int
    arm: str
    seed: int


@dataclass(frozen=True, eq=False)
class Reading:
    """The classifier of the examples, as what `train` wants."""

    samples: Sequence[Any]
    validation: Sequence[Any]
    settings: Settings
    seed: int = 0

    collate = staticmethod(text_classification.collate)
    loss_sum = staticmethod(text_classification.loss_sum)

    @property
    def learning_rate(self) -> float:
        return self.settings.learning_rate

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.array([len(each["tokens"]) for each in self.samples])

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return text_classification.Reader(self.settings.vocabulary, self.settings.width, 1)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            model.parameters(), self.learning_rate, weight_decay=0.01, fused=True
        )

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> float:
        """Return the mean loss of a gloss of the validation set, nats."""
        plan = bw.plan([len(each["tokens"]) for each in self.validation], max_tokens=4_096)
        batches = (self.collate([self.validation[row] for row in rows]) for rows in plan)
        total = sum(float(self.loss_sum(model, batch)) for batch in batches)
        return total / len(self.validation)


@lru_cache
def job_of(application: Application, quick: bool) -> Job | Reading:
    """Make an application, whatever its seed."""
    settings = (QUICK if quick else FULL)[application]
    many, held_out = settings.num_samples, settings.num_validation
    if application == "classification":
        every, _ = text_classification.prepare(
            num_samples=many, num_validation=held_out, vocabulary=settings.vocabulary
        )
        return Reading(every[held_out:], every[:held_out], settings)
    job = prepare(
        num_samples=2 * many,
        num_validation=2 * held_out,
        vocabulary=settings.vocabulary,
        context=settings.longest,
    )
    samples, validation = (
        [each for each in part if each[0].numel() < settings.longest][:wanted]
        for part, wanted in ((job.samples, many), (job.validation, held_out))
    )
    return replace(
        job,
        samples=samples,
        validation=validation,
        width=settings.width,
        layers=1,
        learning_rate=settings.learning_rate,
    )


def fitted(
    lengths: np.ndarray, step_tokens: int, batches: int, slack: float, seed: int
) -> bw.Planner:
    """Raise the budget until an epoch has as few updates as it has times `step_tokens`."""
    most = round(lengths.sum() / step_tokens)
    budget = max(step_tokens // batches, int(lengths.max()))
    while True:
        batching = bw.TokenBudget(budget, slack=slack)
        planner = bw.Planner(lengths, batching=batching, accumulate=batches, seed=seed)
        if len(planner) <= most * batches:
            return planner
        budget += max(1, budget // 200)


@lru_cache
def slack_of(application: Application, batches: int, arm: str, quick: bool) -> float:
    """Choose the slack whose variety is nearest to the goal of the arm."""
    if arm == TODAY:
        return 0.0
    settings, lengths = (QUICK if quick else FULL)[application], job_of(application, quick).lengths

    def distance(slack: float) -> float:
        planner = fitted(lengths, settings.step_tokens[batches], batches, slack, seed=0)
        return abs(variety(planner, epochs=settings.epochs).batch - GOALS[arm])

    return min(SLACKS, key=distance)


def train_one(run: Run, quick: bool) -> dict[str, Any]:
    """Train once; return what the file keeps of it."""
    settings = (QUICK if quick else FULL)[run.application]
    job = job_of(run.application, quick)
    lengths, step_tokens = job.lengths, settings.step_tokens[run.batches]
    planned: dict[str, float] = {}
    if run.arm in {PLAIN, FROZEN}:
        rngs = [np.random.default_rng([run.seed, 1, epoch]) for epoch in range(settings.epochs)]
        composed = [_plain(lengths, step_tokens, run.batches, rng) for rng in rngs]
        if run.arm == FROZEN:
            first = composed[0]
            composed = [[first[place] for place in rng.permutation(len(first))] for rng in rngs]
            planned = _variety_of_frozen(lengths.size / len(first), lengths.size, len(rngs))
    else:
        slack = slack_of(run.application, run.batches, run.arm, quick)
        planner = fitted(lengths, step_tokens, run.batches, slack, run.seed)
        composed = [windows(list(planner(epoch)), run.batches) for epoch in range(settings.epochs)]
        found = variety(planner, epochs=settings.epochs)
        planned = {"slack": slack, "variety": found.batch, "update_variety": found.update}
    updates = [update for epoch in composed for update in epoch]
    is_model = run.application == "language model"
    losses = train(
        replace(job, seed=run.seed),
        [_recut(update, lengths, max_tokens=2_048) for update in updates],
        lambda: None,
        weights=None if is_model else np.ones_like(lengths),
    )
    drawn = mix(updates, lengths)
    return {
        **asdict(run),
        **sources(),  # a run that goes on may have others
        **planned,
        "updates": drawn.updates,
        "tokens_per_update": drawn.tokens_per_update,
        "padding": drawn.padding,
        "dispersion": drawn.dispersion,
        "at": losses.at,
        "validation": losses.validation,
    }


def _variety_of_frozen(size: float, total: int, epochs: int) -> dict[str, float]:
    """Say how many of the samples of a shuffle's updates one meets who meets the same each time."""
    share = (size - 1) / (total - 1)
    found = share / (1 - (1 - share) ** epochs)
    return {"variety": found, "update_variety": found}


def _plain(
    lengths: np.ndarray, step_tokens: int, batches: int, rng: np.random.Generator
) -> Updates:
    """Shuffle into batches of one size, as many an update as there are real tokens for."""
    rows = plain(lengths, max(step_tokens // batches, int(lengths.max())), rng)
    many = round(lengths.sum() / step_tokens)
    if batches > 1:
        return into_updates(rows, lengths, many)
    each = into_updates(np.split(np.concatenate(rows), lengths.size), lengths, many)
    return [[np.concatenate(update)] for update in each]


def _recut(
    update: Sequence[np.ndarray], lengths: np.ndarray, max_tokens: int
) -> Sequence[np.ndarray]:
    """Sort the samples of an update into batches without padding: the mean is the same, sooner."""
    members = np.concatenate(update)
    return [members[batch] for batch in bw.plan(lengths[members], max_tokens=max_tokens)]


def _work(task: tuple[Run, bool]) -> dict[str, Any]:
    return train_one(*task)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    torch.set_num_threads(1)


def trained(runs: Sequence[Run], jobs: int, quick: bool) -> Iterator[dict[str, Any]]:
    """Train in processes of one thread each, or in this one, and yield what is finished."""
    if jobs == 1:
        torch.set_num_threads(1)
        yield from (train_one(run, quick) for run in runs)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, _begin) as pool:
        yield from pool.imap_unordered(_work, [(run, quick) for run in runs])


def figures(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare the arms with the plain shuffle, and with no slack, over seeds that all arms have."""
    by: dict[tuple[str, int, str], dict[int, Mapping[str, Any]]] = {}
    for run in runs:
        by.setdefault((run["application"], run["batches"], run["arm"]), {})[run["seed"]] = run
    compared = []
    for (application, batches, arm), mine in by.items():
        row: dict[str, Any] = {"application": application, "batches": batches, "arm": arm}
        for key in ("slack", "variety", "update_variety", "padding", "dispersion"):
            if key in next(iter(mine.values())):
                row[key] = float(np.mean([run[key] for run in mine.values()]))
        row["final_loss"] = float(np.mean([_final(run) for run in mine.values()]))
        for against, other in (("plain", PLAIN), ("no_slack", TODAY)):
            others = by.get((application, batches, other), {})
            seeds = sorted(mine.keys() & others.keys())
            if arm not in {other, PLAIN} and seeds:
                for name, figure in (("over", _final), ("late_over", _late)):
                    difference = Difference.between(
                        *([figure(each[seed]) for seed in seeds] for each in (mine, others))
                    )
                    row[f"{name}_{against}"] = {
                        **asdict(difference),
                        "verdict": difference.verdict,
                    }
        compared.append(row)
    order = [PLAIN, FROZEN, *GOALS]
    applications = list(FULL)
    return sorted(
        compared,
        key=lambda row: (
            applications.index(row["application"]),
            row["batches"],
            order.index(row["arm"]),
        ),
    )


def _final(run: Mapping[str, Any]) -> float:
    return float(run["validation"][-1])


def _late(run: Mapping[str, Any]) -> float:
    pairs = zip(run["at"], run["validation"], strict=True)
    return float(np.mean([loss for at, loss in pairs if at >= LATE]))


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out the arms."""
    shown = Table(
        title="Validation loss after the same tokens, paired by seed",
        caption="over: nats [95 % interval of the mean, each for itself]; variety: of batch-mates",
        caption_justify="left",
        box=None,
    )
    shown.add_column("", no_wrap=True)
    for heading in ("slack", "variety", "padding", "loss", "over plain", "over no slack"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(
            f"{row['application']}, {row['batches']}: {row['arm']}",
            f"{row['slack']:.2f}" if "slack" in row else "",
            f"{row['variety']:.2f}" if "variety" in row else "",
            f"{row['padding']:.1%}",
            f"{row['final_loss']:.3f}",
            *(_interval(row.get(f"over_{other}")) for other in ("plain", "no_slack")),
        )
    return shown


def _interval(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return ""
    if difference["low"] is None:
        return f"{difference['mean']:+.3f}"
    return rf"{difference['mean']:+.3f} \[{difference['low']:+.3f}, {difference['high']:+.3f}]"


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", type=click.IntRange(1), help="Default: 8; 2 in a quick run.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Processes.")
@click.option("--quick", is_flag=True, help="An eighth of the samples: too few to learn much.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
def main(*, seeds: int | None, jobs: int, quick: bool, output: Path | None) -> None:
    """Train all arms, print a table, write the result after each training."""
    seeds = seeds or (2 if quick else 8)
    target = output_path("variety", output, quick=quick)
    chosen = QUICK if quick else FULL
    settings = json.loads(json.dumps({name: asdict(each) for name, each in chosen.items()}))
    runs: list[dict[str, Any]] = []
    if target is not None and target.is_file():
        before = json.loads(target.read_text(encoding="utf-8"))
        runs = before["runs"] if before["settings"] == settings else []
    done = {Run(run["application"], run["batches"], run["arm"], run["seed"]) for run in runs}
    every = [
        Run(application, batches, arm, seed)
        for seed, application, batches in product(range(seeds), chosen, ARMS)
        for arm in ARMS[batches]
    ]
    left = [run for run in every if run not in done]
    command = f"python -m benchmarks.mixing.variety{' --quick' * quick} --seeds {seeds}"
    interrupted = False
    with progress_bar() as progress:
        bar = progress.add_task("trainings", total=len(every), completed=len(every) - len(left))
        try:
            for run in trained(left, jobs, quick):
                runs.append(run)
                progress.update(bar, advance=1, refresh=True)
                if target is not None:
                    _write(target, command, settings, runs)
        except KeyboardInterrupt:
            interrupted = True
    if runs:
        table_console().print(table(figures(runs)))
        if target is not None:
            _write(target, command, settings, runs)
    if interrupted:
        click.echo(f"Interrupted: {len(runs)} of {len(every)} trainings are kept.", err=True)
        sys.exit(INTERRUPTED)


def _write(
    target: Path, command: str, settings: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]
) -> None:
    result = {
        "torch": torch.__version__,
        "settings": settings,
        "seeds": sorted({run["seed"] for run in runs}),
        "arms": figures(runs),
        "runs": runs,
    }
    write_result(target, command, result)


if __name__ == "__main__":
    main()
