"""What came of several arms over the same seeds: figures, tables, and sentences made of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, median, stdev

import numpy as np
from curriculum_training import Run
from rich.table import Table
from scipy.stats import ttest_1samp

POINTS = 100


@dataclass(frozen=True)
class Gain:
    """What an arm gains over another, paired by seed.

    Attributes:
        mean: Of the differences, in points.
        low: Lower end of the mean's 95 % interval, by Student's t. None: there is one seed only.
        high: The upper one.
        better: Seeds whose difference is above 0.
        seeds: How many there are.
    """

    mean: float
    low: float | None
    high: float | None
    better: int
    seeds: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:+.1f}"
        return f"{self.mean:+.1f} [{self.low:.1f}, {self.high:.1f}] {self.better}/{self.seeds}"


def paired(accuracies: Sequence[float], others: Sequence[float]) -> Gain:
    """Compare two arms seed by seed; accuracies are shares, gains are points."""
    differences = POINTS * (np.array(accuracies) - np.array(others))
    low = high = None
    if differences.size > 1:
        # Where all differences are equal the interval is that number; scipy's is no number.
        low = high = float(differences[0])
        if np.ptp(differences) > 0:
            low, high = map(float, ttest_1samp(differences, 0).confidence_interval(0.95))
    better = int((differences > 0).sum())
    return Gain(float(differences.mean()), low, high, better, differences.size)


@dataclass(frozen=True)
class Result:
    """What came of an arm; lists have an entry for each seed.

    Attributes:
        name: Of the arm.
        accuracies: Share of the test set that is right.
        gains: Over each control.
        num_updates: Taken.
        num_tokens: Real ones, frames or samples.
        padding: Share of what was computed that was padding.
        seconds: Of training.
        scoring_seconds: Before training, to know something of the samples.
        clean_share: Share of right labels among what was drawn. None: labels are not known to be
            wrong.
        stopped_after: Updates after which the weights that count were taken. None: the last.
    """

    name: str
    accuracies: list[float]
    gains: dict[str, Gain]
    num_updates: list[int]
    num_tokens: list[int]
    padding: list[float]
    seconds: list[float]
    scoring_seconds: list[float]
    clean_share: list[float] | None = None
    stopped_after: list[int] | None = None
    cost: float = field(default=1.0)
    """Median over seeds of all its seconds, scoring too, over the baseline's."""

    @property
    def accuracy(self) -> str:
        percent = [POINTS * share for share in self.accuracies]
        spread = f" ± {stdev(percent):.1f}" if len(percent) > 1 else ""
        return f"{mean(percent):.1f}{spread}"

    @property
    def tokens_per_second(self) -> float:
        return median(np.array(self.num_tokens) / np.array(self.seconds))


def summarize(
    seeds: Sequence[Sequence[Run]],
    controls: Sequence[str],
    clean: Sequence[np.ndarray] | None = None,
) -> dict[str, Result]:
    """Gather the runs of each arm from those of each seed.

    Args:
        seeds: The runs of each.
        controls: Arms that every arm is compared with; costs are given in the time of
            the first.
        clean: bool[n], which labels are right, for each seed.
    """
    by_name = {run.arm.name: [runs[place] for runs in seeds] for place, run in enumerate(seeds[0])}
    accuracies = {name: [run.accuracy for run in runs] for name, runs in by_name.items()}
    totals = {
        name: np.array([run.seconds + run.arm.scoring_seconds for run in runs])
        for name, runs in by_name.items()
    }
    return {
        name: Result(
            name=name,
            accuracies=accuracies[name],
            gains={
                other: paired(accuracies[name], accuracies[other])
                for other in controls
                if other != name
            },
            num_updates=[run.num_updates for run in runs],
            num_tokens=[run.num_tokens for run in runs],
            padding=[1 - run.num_tokens / run.padded_tokens for run in runs],
            seconds=[run.seconds for run in runs],
            scoring_seconds=[run.arm.scoring_seconds for run in runs],
            clean_share=clean
            and [
                float(run.drawn[right].sum() / run.drawn.sum())
                for run, right in zip(runs, clean, strict=True)
            ],
            stopped_after=[run.best[1] for run in runs] if runs[0].best[1] else None,
            cost=float(np.median(totals[name] / totals[controls[0]])),
        )
        for name, runs in by_name.items()
    }


def accuracy_table(results: dict[str, Result], controls: Sequence[str], title: str) -> Table:
    """Show accuracies, and what is gained over controls: interval, and seeds that gain."""
    table = Table(title=f"{title}: points gained [95 % interval] seeds that gain", box=None)
    table.add_column("")
    table.add_column("accuracy, %", justify="right", no_wrap=True)
    for name in controls:
        table.add_column(f"over {name}", justify="right", no_wrap=True)
    for each in results.values():
        gains = [str(each.gains.get(name, "")) for name in controls]
        table.add_row(each.name, each.accuracy, *gains)
    return table


def verdict(results: dict[str, Result], name: str, other: str) -> str:
    """Say whether an arm is better than another, worse, or neither as far as seeds show."""
    gain = paired(results[name].accuracies, results[other].accuracies)
    if gain.low is None or gain.high is None:
        return f"{name} ends {gain.mean:+.1f} points from {other}; one seed cannot say more."
    seeds = (
        f"(95 % interval {gain.low:+.1f} to {gain.high:+.1f}; {gain.better} of {gain.seeds} seeds"
    )
    if gain.low > 0:
        return f"{name} ends {gain.mean:.1f} points above {other} {seeds} better)."
    if gain.high < 0:
        return f"{name} ends {-gain.mean:.1f} points BELOW {other} {seeds} better)."
    return f"{name} and {other} do not differ as far as seeds show: {gain.mean:+.1f} {seeds})."
