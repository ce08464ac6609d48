"""What the updates of a run hold, by its plan: tokens, padding and length mix, for all ranks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from batchwright.budgets import tail_end
from batchwright.lengths import runs
from batchwright.plans import Plan, has_pieces, lengths_of_entries
from batchwright.typing import FloatArray, IntArray, LengthArray

_UPDATES = 8
_BATCHES = 256
"""Updates, or batches if these are more, that are measured together."""

_TABLE = 1 << 16


class Figures(NamedTuple):
    """What some updates hold together.

    Attributes:
        tokens: Real tokens, over all ranks.
        padded_tokens: The same as laid out, padding included.
        dispersion: How unlike the data the updates are in length; see `PlanStats`, whose figure is
            this one of a whole epoch.
    """

    tokens: int
    padded_tokens: int
    dispersion: float

    @property
    def padding(self) -> float:
        """The share of tokens as laid out that is padding."""
        return 1 - self.tokens / self.padded_tokens


class Spread(NamedTuple):
    """How long the samples of a data set are, counted by token."""

    tokens: float
    mean: float  # of the logarithm of the length
    variance: float  # what that of an update of one token is, of random samples
    most: int  # longer samples are outliers, and count as this

    @classmethod
    def of(cls, lengths: LengthArray, plan: Plan) -> Spread:
        """Measure all samples, as a plan of them truncates or splits them. O(n)."""
        most, whole = plan.layout.max_length, lengths.astype(np.int64, copy=False)
        if "empty" in plan.dropped:
            whole = np.delete(whole, plan.dropped["empty"], axis=0)
        if most is None:
            whole = whole[plan.layout.fits(whole)]  # without those that were dropped
        pieces = most if isinstance(most, int) and has_pieces(plan) else None
        if most is not None and pieces is None:
            whole = np.minimum(whole, most)
        entries = plan.layout.areas(whole)
        values, counts = runs(entries, np.arange(entries.size))
        if pieces is not None:
            many, rest = np.divmod(values, pieces)
            values = np.append(rest[rest > 0], pieces)
            counts = np.append(counts[rest > 0], many @ counts)
        longest = tail_end(values, counts)
        values = np.minimum(values, longest)
        logs, tokens = np.log(values), values.astype(np.float64)
        total = float(tokens @ counts)
        mean = float(tokens @ (counts * logs)) / total
        return cls(total, mean, float(tokens**2 @ (counts * (logs - mean) ** 2)) / total, longest)


@dataclass(eq=False)
class RunningFigures:
    """Measures updates of a plan one after the other, many of them together.

    Costs about 50 ns for each sample of an update; more where updates are left out.

    Args:
        plan: The global plan.
        lengths: Those it was made for, integer[n] or [n, k].
        data: Of the data set.
        update: Batches of an update, over all ranks.
        world_size: Ranks.
        start: Batches of the plan that were consumed before.

    Example:
        >>> import batchwright as bw
        >>> lengths = np.array([2, 8, 2, 8])
        >>> plan = bw.plan(lengths, batching=bw.FixedSize(2), order=bw.Sequential())
        >>> running = RunningFigures(plan, lengths, Spread.of(lengths, plan))
        >>> running.of(0, 1)
        Figures(tokens=10, padded_tokens=16, dispersion=0.0)
    """

    plan: Plan
    lengths: LengthArray
    data: Spread
    update: int = 1
    world_size: int = 1
    start: int = 0

    def __post_init__(self) -> None:
        self._first = self._last = 0  # of the batches that are measured
        # Tokens, padded tokens and length × logarithm, of these batches up to each.
        # The same of the usual part of lengths, which the length mix is of.
        self._sums: list[list[float]] = []

    def of(self, first: int, last: int) -> Figures:
        """Measure the updates that batches `first` to `last` - 1 of each rank are of."""
        first, last = (self.start + each * self.world_size for each in (first, last))
        if not self._first <= first < last <= self._last:
            # Who leaves updates out does not need those between.
            goes_on = first == self._last
            more = max(_UPDATES * self.update, _BATCHES) if goes_on else 0
            self._measure(first, min(max(last, first + more), len(self.plan)))
        start, stop = first - self._first, last - self._first
        tokens, padded, usual, logs = self._sums
        far = expected = 0.0
        for begin in range(start, stop, self.update):
            end = min(begin + self.update, stop)
            held = usual[end] - usual[begin]
            far += ((logs[end] - logs[begin]) / held - self.data.mean) ** 2
            expected += self.data.variance * (1 / held - 1 / self.data.tokens)
        # Nothing to compare with: all samples are alike, or one update holds them all.
        dispersion = far / expected if expected > 0 else 1.0
        real, laid_out = tokens[stop] - tokens[start], padded[stop] - padded[start]
        return Figures(int(real), int(laid_out), dispersion)

    def _measure(self, first: int, last: int) -> None:
        part, layout = self.plan[first:last], self.plan.layout
        columns, offsets = lengths_of_entries(part, self.lengths), part.offsets
        entries = layout.areas(columns)
        usual = np.minimum(entries, self.data.most)
        held = (
            np.add.reduceat(entries, offsets[:-1]),
            layout.batch_tokens(columns, offsets),
            np.add.reduceat(usual, offsets[:-1]),
            np.add.reduceat(_weighted_logs(usual), offsets[:-1]),
        )
        self._first, self._last = first, last
        self._sums = [[0, *np.cumsum(each).tolist()] for each in held]


def _weighted_logs(lengths: IntArray) -> FloatArray:
    """Return length × logarithm of it; a table is quicker."""
    if int(lengths.max()) < _TABLE:
        return _table()[lengths]
    found: FloatArray = np.multiply(lengths, np.log(lengths), dtype=np.float64)
    return found


@cache
def _table() -> FloatArray:
    numbers = np.arange(1, _TABLE, dtype=np.float64)
    return np.concatenate(([0.0], numbers * np.log(numbers)))
