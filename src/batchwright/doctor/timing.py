"""The time of an update as a function of its batches' shapes, to predict that of other batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from batchwright._measuring import nonnegative_fit
from batchwright.doctor.records import Batch, Run, Update
from batchwright.typing import FloatArray, IntArray

WARM_UP = 5
"""First updates, which are slower than others."""

LEAST = 16
"""Updates that a fit needs."""

FAR = 4.0
"""Updates that are farther off than this many times the spread are left out, for example before an
evaluation."""

CLOSE = 0.03
"""Updates that are off by at most this share of their time are never left out."""

BETTER = 1.25
"""A fit with a cost per batch, beyond that of its operations, has to be closer by this factor."""

ALIKE = 0.03
"""If the tokens of updates vary by less, the cost of a token cannot be estimated."""

MOST_SPREAD = 0.25
"""If times vary by more, shapes do not explain them."""

MOST_DOUBT = 0.2
"""The share by which times predicted from two halves may differ: twice the error of the whole."""


@dataclass(frozen=True, eq=False)
class Timing:
    """The times of the updates of a run, and predictions for others; see `timing_of`."""

    num_updates: int  # in the fit: the first ones and outliers are left out
    tokens_per_second: float  # real ones, of all ranks, waiting included
    waiting: float  # seconds that a rank waits for a sample
    beside: float  # seconds of an update beside its batches: of the optimizer, and between updates
    # float64[3, 3]: seconds of a batch, of a padded token, and of a row × its squared width; fitted
    # to all updates, then to each half of them. None: cannot be fitted.
    costs: FloatArray | None
    spread: float  # of times around the fit, a share

    def predicted(
        self, rows: IntArray, widths: IntArray, *, world_size: int, accumulate: int
    ) -> tuple[float, float] | None:
        """Predict the seconds that batches take, in the sequence of a plan.

        Args:
            rows: int64[b], of each batch.
            widths: int64[b], tokens of its rows, padding included.
            world_size: Ranks, which wait for the slowest in each update.
            accumulate: Batches of an update on each rank.

        Returns:
            The seconds, and the share by which the predictions of two halves of the updates differ.
            None: cannot be predicted.

        Example:
            >>> costs = np.array([[0.1, 0.01, 0.0]] * 3)
            >>> timing = Timing(50, 300.0, 0.0, 0.2, costs, 0.01)
            >>> seconds, doubt = timing.predicted(
            ...     np.array([2, 2]), np.array([5, 10]), world_size=1, accumulate=2)
            >>> round(seconds, 6), doubt
            (0.7, 0.0)
        """
        if self.costs is None:
            return None
        update = world_size * accumulate
        count = -(-rows.size // update)
        terms = np.zeros((count * update, 3))
        terms[: rows.size] = _terms(rows, widths)
        taken = (terms @ self.costs.T).reshape(count, accumulate, world_size, 3)
        slowest = taken.sum(axis=1).max(axis=1).sum(axis=0)  # [3], of all, and of each half
        waited = self.waiting * float(rows.sum()) / world_size
        whole, *halves = (float(each) + count * self.beside + waited for each in slowest)
        return whole, (max(halves) - min(halves)) / whole


def timing_of(run: Run) -> Timing | None:
    """Fit the times of a run's updates to the shapes of their batches.

    The time of an update, without waiting for data, is a constant plus a sum over its batches: a
    cost for each batch, for each padded token, and for each pair of tokens of a row. The fit has
    the least squared relative errors, without outliers. If all batches have one size, the cost of
    a batch beyond its tokens cannot be fitted: it is known from the operations of the model.

    Args:
        run: What was seen.

    Returns:
        None if too few updates were seen, or their batches are unknown. O(batches).
    """
    seen = _Seen.of(run)
    if seen is None:
        return None
    kept, costs, spread = np.arange(seen.work.size), np.zeros(3), np.inf
    for _ in range(3):
        part = seen.part(kept)
        costs = part.fitted()
        off = seen.work / np.maximum(seen.terms @ costs, 1e-12) - 1
        middle = float(np.median(off[kept]))
        spread = 1.4826 * float(np.median(np.abs(off[kept] - middle)))
        kept = np.flatnonzero(np.abs(off - middle) <= max(FAR * spread, CLOSE))
    part = seen.part(kept)
    if kept.size < LEAST:
        return None
    costs = part.fitted()
    halves = [seen.part(kept[begin::2]).fitted() for begin in (0, 1)]
    padded = part.terms[:, 1]
    tells = padded.std() >= ALIKE * padded.mean() and spread <= MOST_SPREAD
    return Timing(
        num_updates=int(kept.size),
        tokens_per_second=float(part.tokens.sum() / part.seconds.sum()),
        waiting=float(part.waits.sum() / part.rows.sum()),
        beside=seen.beside,
        costs=np.stack([costs, *halves]) if tells else None,
        spread=spread,
    )


@dataclass(frozen=True, eq=False)
class _Seen:
    """Updates whose batches are known; those of the rank with the most work."""

    terms: FloatArray  # float64[u, 3]
    work: FloatArray  # float64[u], seconds of its batches
    waits: FloatArray  # float64[u], seconds
    seconds: FloatArray  # float64[u], all of them
    rows: FloatArray  # float64[u]
    tokens: FloatArray  # float64[u], real ones, of all ranks
    beside: float  # seconds
    overhead: float  # seconds of each batch, at least

    @classmethod
    def of(cls, run: Run) -> _Seen | None:
        found = [
            _facts(updates)
            for updates in list(zip(*(each.updates for each in run.ranks), strict=False))[WARM_UP:]
            if all(_is_known(each) for each in updates)
        ]
        if len(found) < LEAST:
            return None
        facts = np.array(found)
        waits, seconds, rows, tokens, ahead, behind = facts[:, 3:].T
        beside = max(0.0, float(np.median(ahead)))
        told = behind[~np.isnan(behind)]
        if 2 * told.size >= len(found):
            beside += max(0.0, float(np.median(told)))
        work = seconds - waits - beside
        if np.median(work) <= 0:
            return None
        chosen = np.flatnonzero(work > 0)
        overhead = max((each.overhead or 0.0 for each in run.ranks), default=0.0)
        least = float(np.quantile(work[chosen] / facts[chosen, 0], 0.05))
        seen = cls(
            facts[:, :3], work, waits, seconds, rows, tokens, beside, min(overhead, least / 2)
        )
        return seen.part(chosen)

    def part(self, chosen: IntArray) -> _Seen:
        """Return some of the updates."""
        return _Seen(
            self.terms[chosen],
            self.work[chosen],
            self.waits[chosen],
            self.seconds[chosen],
            self.rows[chosen],
            self.tokens[chosen],
            self.beside,
            self.overhead,
        )

    def fitted(self) -> FloatArray:
        """Fit the seconds of updates, all with the same weight; the sum is matched exactly."""
        least = self.overhead * self.terms[:, 0]
        terms, target = self.terms / self.work[:, None], 1 - least / self.work
        few = np.append(0.0, nonnegative_fit(terms[:, 1:], target))
        more = nonnegative_fit(terms, target)
        off, less = (float(np.square(terms @ each - target).sum()) for each in (few, more))
        found = few if off <= BETTER**2 * less else more
        total = float((self.terms @ found).sum())
        # Relative errors are smaller below than above: without this, times would be too short.
        found = found * (float((self.work - least).sum()) / total) if total > 0 else found
        costs: FloatArray = found + np.array([self.overhead, 0.0, 0.0])
        return costs


def _is_known(update: Update) -> bool:
    """Say whether the batches and the time of an update are known."""
    batches = update.batches
    return (
        bool(batches) and update.seconds > 0 and all(each.lengths is not None for each in batches)
    )


def _facts(updates: Sequence[Update]) -> list[float]:
    """Describe an update by its slowest rank: terms, waits, seconds, rows, tokens.

    The last two are the seconds before it asks for a batch, and those after the last backward
    pass; NaN if unknown.
    """
    slowest = max(updates, key=lambda each: sum(batch.padded_tokens for batch in each.batches))
    batches = slowest.batches
    rows, widths = _shapes(batches)
    behind = np.nan if slowest.computed is None else slowest.end - slowest.computed
    return [
        *_terms(rows, widths).sum(axis=0).tolist(),
        sum(each.wait for each in batches),
        slowest.seconds,
        float(rows.sum()),
        float(sum(batch.tokens for each in updates for batch in each.batches)),
        batches[0].time - batches[0].wait - slowest.start,
        behind,
    ]


def _shapes(batches: Sequence[Batch]) -> tuple[IntArray, IntArray]:
    rows = np.array([each.rows for each in batches], dtype=np.int64)
    return rows, np.array([each.width for each in batches], dtype=np.int64)


def _terms(rows: IntArray, widths: IntArray) -> FloatArray:
    """Return the terms that the time of each batch is fitted to, float64[b, 3]."""
    padded = rows * widths.astype(np.float64)
    return np.stack([np.ones(rows.size), padded, padded * widths], axis=1)
