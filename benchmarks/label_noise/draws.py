"""Labels made wrong, and what is estimated of them."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from rich.table import Table

from batchwright.advise import profile_labels
from benchmarks.label_noise.data_sets import DataSet, Samples

SAMPLES = 4_000
"""Of a data set at most."""

WIDEST = 0.12
"""An interval may be that wide, with as many samples."""

COVERED = 0.9
"""The share of intervals that have to contain the true rate."""

_MOST = 0.45  # of a class, so that most of its labels stay right
_TO_THE_NEXT = 0.7  # of wrong labels that depend on the class

Row: TypeAlias = dict[str, Any]


class Draw(NamedTuple):
    """How labels are made wrong."""

    rate: float
    kind: Literal["any class", "by class"]


DRAWS = [
    *(Draw(rate, "any class") for rate in (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)),
    *(Draw(rate, "by class") for rate in (0.15, 0.3)),
]


def drawn(given: DataSet, draw: Draw, *, seed: int) -> tuple[Samples, np.ndarray, np.ndarray]:
    """Return samples, their labels, and labels of which some are wrong."""
    samples, truth = given
    rng = np.random.default_rng([seed, round(1_000 * draw.rate), draw.kind == "by class"])
    part = rng.permutation(truth.size)[:SAMPLES]
    samples = [samples[k] for k in part] if isinstance(samples, list) else samples[part]
    truth = truth[part]
    num_classes = int(truth.max()) + 1
    rates = np.full(num_classes, draw.rate)
    other = (truth + rng.integers(1, num_classes, truth.size)) % num_classes
    if draw.kind == "by class":
        rates = np.minimum(rates * rng.uniform(0.5, 1.5, num_classes), _MOST)
        to_next = rng.random(truth.size) < _TO_THE_NEXT
        other = np.where(to_next, (truth + 1) % num_classes, other)
    return samples, truth, np.where(rng.random(truth.size) < rates[truth], other, truth)


def estimated(
    name: str, samples: Samples, truth: np.ndarray, labels: np.ndarray, draw: Draw
) -> Row:
    """Estimate the noise, and compare it with the truth."""
    noise = profile_labels(labels, features=samples).noise
    assert noise is not None
    true = float((labels != truth).mean())
    return {
        "data": name,
        "samples": truth.size,
        "classes": int(truth.max()) + 1,
        "noise": draw.kind,
        "true": true,
        "rate": noise.rate,
        "low": noise.low,
        "high": noise.high,
        "inside": noise.low <= true <= noise.high,
        "is_trusted": noise.is_trusted,
        "doubt": noise.doubt,
    }


@dataclass(frozen=True)
class Summary:
    """What all draws show together."""

    num_draws: int
    inside: int  # draws whose true rate is in the interval
    trusted: int  # draws whose estimate is trusted
    trusted_inside: int
    widest: float  # interval of as many samples as are estimated from
    mean_width: float
    mean_error: float  # of the estimate, whatever its sign

    @property
    def is_met(self) -> bool:
        """Whether the estimate is as good as is asked for."""
        return self.inside >= COVERED * self.num_draws and self.widest <= WIDEST

    @property
    def sentence(self) -> str:
        """All of it in words."""
        return (
            f"The true rate is inside {self.inside} of {self.num_draws} intervals "
            f"({self.trusted_inside} of {self.trusted} that are trusted). At {SAMPLES:,} samples "
            f"they are {self.mean_width:.3f} wide on average, the widest {self.widest:.3f}. "
            f"Mean error {self.mean_error:.3f}."
        )

    def as_dict(self) -> dict[str, object]:
        """The same for JSON."""
        return asdict(self)


def summed_up(rows: list[Row]) -> Summary:
    """Count intervals, and measure them."""
    widths = [row["high"] - row["low"] for row in rows if row["samples"] >= SAMPLES]
    trusted = [row for row in rows if row["is_trusted"]]
    return Summary(
        num_draws=len(rows),
        inside=sum(row["inside"] for row in rows),
        trusted=len(trusted),
        trusted_inside=sum(row["inside"] for row in trusted),
        widest=max(widths, default=0.0),
        mean_width=float(np.mean(widths)) if widths else 0.0,
        mean_error=float(np.mean([abs(row["rate"] - row["true"]) for row in rows])),
    )


def table_of(rows: list[Row]) -> Table:
    """Show every draw."""
    table = Table(
        "data", "samples", "classes", "wrong", "true", "estimate", "interval", "width", ""
    )
    for row in rows:
        said = [] if row["inside"] else ["outside"]
        said += [] if row["is_trusted"] else ["cannot tell"]
        table.add_row(
            *(row["data"], f"{row['samples']:,}", str(row["classes"]), row["noise"]),
            *(f"{row['true']:.3f}", f"{row['rate']:.3f}"),
            *(f"{row['low']:.3f} – {row['high']:.3f}", f"{row['high'] - row['low']:.3f}"),
            ", ".join(said),
        )
    return table
