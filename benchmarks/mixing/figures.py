"""What came of the arms over the same seeds: figures, a table, and sentences made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from rich.table import Table
from scipy.stats import ttest_1samp

from benchmarks.mixing.compositions import (
    GROUPED,
    GROUPED_SHUFFLED,
    PLAIN,
    RIVALS,
    SHUFFLED,
    STRATIFIED,
    Mix,
)
from benchmarks.mixing.training import Losses


@dataclass(frozen=True)
class Difference:
    """How much higher a loss is than another's, paired by seed.

    Attributes:
        mean: Nats.
        low: Lower end of the mean's 95 % interval, by Student's t. None: there is one seed only.
        high: The upper one.
        lower_in: Seeds in which it is below the other.
        seeds: How many there are.
    """

    mean: float
    low: float | None
    high: float | None
    lower_in: int
    seeds: int

    @classmethod
    def between(cls, losses: Sequence[float], others: Sequence[float]) -> "Difference":
        """Compare two arms seed by seed."""
        differences = np.subtract(losses, others)
        low = high = None
        if differences.size > 1:
            # Where all differences are equal the interval is that number; scipy's is no number.
            low = high = float(differences[0])
            if np.ptp(differences) > 0:
                low, high = map(float, ttest_1samp(differences, 0).confidence_interval(0.95))
        lower_in = int((differences < 0).sum())
        return cls(float(differences.mean()), low, high, lower_in, differences.size)

    @property
    def verdict(self) -> str:
        """Say "higher", "lower", or that seeds cannot tell."""
        if self.low is not None and self.low > 0:
            return "higher"
        if self.high is not None and self.high < 0:
            return "lower"
        return "not told apart"

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:+.3f}"
        # Rich takes what is in brackets for a style, unless it begins with a backslash.
        return rf"{self.mean:+.3f} \[{self.low:+.3f}, {self.high:+.3f}]"


@dataclass(frozen=True)
class Result:
    """What came of an arm; lists have an entry for each seed.

    Attributes:
        name: Of the arm.
        mixes: What its updates are like.
        losses: Validation losses on the way.
        final: Final validation losses over the control's.
        late: The same of the mean over the last quarter of the run.
    """

    name: str
    mixes: list[Mix]
    losses: list[Losses]
    final: Difference
    late: Difference

    def mean(self, figure: str) -> float:
        """Return a figure of the updates, mean over seeds."""
        return float(np.mean([getattr(mix, figure) for mix in self.mixes]))

    @property
    def loss(self) -> float:
        """Final validation loss, mean over seeds."""
        return float(np.mean([each.final for each in self.losses]))

    def as_json(self) -> dict[str, object]:
        """Return what the file keeps."""
        figures = ("updates", "tokens_per_update", "padding", "dispersion")
        return {
            "name": self.name,
            "final_loss": self.loss,
            "over_plain": {**asdict(self.final), "verdict": self.final.verdict},
            "late_over_plain": {**asdict(self.late), "verdict": self.late.verdict},
            **{name: self.mean(name) for name in figures},
            "mixes": [asdict(each) for each in self.mixes],
            "losses": [asdict(each) for each in self.losses],
        }


def results_of(
    mixes: Mapping[str, list[Mix]], losses: Mapping[str, list[Losses]]
) -> dict[str, Result]:
    """Compare all arms with the control."""
    final = {name: [each.final for each in runs] for name, runs in losses.items()}
    late = {name: [each.late for each in runs] for name, runs in losses.items()}
    return {
        name: Result(
            name,
            mixes[name],
            runs,
            Difference.between(final[name], final[PLAIN]),
            Difference.between(late[name], late[PLAIN]),
        )
        for name, runs in losses.items()
    }


def table(results: Mapping[str, Result]) -> Table:
    """Lay out the arms."""
    seeds = results[PLAIN].final.seeds
    shown = Table(
        title=f"Validation loss after the same tokens, {seeds} seeds",
        caption="over plain: nats, paired by seed [95 % interval of the mean, each for itself]\n"
        "late: the same difference, mean over the last quarter of the run",
        caption_justify="left",
        box=None,
    )
    shown.add_column("", no_wrap=True)
    headings = ("tokens/\nupdate", "pad-\nding", "disper-\nsion", "\nloss", "over\nplain")
    for heading in (*headings, "lower\nin", "\nlate"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for name, each in results.items():
        compared = (str(each.final), f"{each.final.lower_in}/{seeds}", f"{each.late.mean:+.3f}")
        shown.add_row(
            name,
            f"{each.mean('tokens_per_update'):,.0f}",
            f"{each.mean('padding'):.1%}",
            f"{each.mean('dispersion'):.2g}",
            f"{each.loss:.3f}",
            *(compared if name != PLAIN else ()),
        )
    return shown


def sentences(results: Mapping[str, Result]) -> list[str]:
    """Say what the figures say, whichever way they fall."""
    compared = {name: each.final for name, each in results.items() if name != PLAIN}
    told = []
    for verdict in ("higher", "lower", "not told apart"):
        names = [name for name, each in compared.items() if each.verdict == verdict]
        told.append(f"Beside {PLAIN}, after the same tokens, {verdict}: {_listed(names)}.")
    pairs = [
        *((rival, PLAIN) for rival in RIVALS),
        (STRATIFIED, PLAIN),
        (SHUFFLED, PLAIN),  # two plain shuffles: more than this an arm should differ by
        (STRATIFIED, SHUFFLED),
        *((rival, STRATIFIED) for rival in RIVALS),
        (GROUPED, GROUPED_SHUFFLED),  # the same updates in another order
    ]
    return told + [_pair(results, one, other) for one, other in pairs]


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names) or "none"


def _pair(results: Mapping[str, Result], one: str, other: str) -> str:
    losses = [[run.final for run in results[name].losses] for name in (one, other)]
    difference = Difference.between(*losses)
    side = "higher" if difference.mean > 0 else "lower"
    ending = f"{one} ends {abs(difference.mean):.3f} nats {side} than {other}"
    if difference.low is None or difference.high is None:
        return f"{ending}; one seed cannot say more."
    interval = f"95 % interval {difference.low:+.3f} to {difference.high:+.3f}"
    doubt = ": seeds do not tell them apart" if difference.verdict == "not told apart" else ""
    return f"{ending} ({interval}, lower in {difference.lower_in} of {difference.seeds}){doubt}."
