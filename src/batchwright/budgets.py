"""Budgets from lengths: what nobody knows by heart, suggested from a batch size that everyone does.

A few very long samples must not decide the memory of all batches. So a budget is made of the usual
length: what 99.9 % of the samples do not exceed, but at most four times what 99 % do not exceed,
as outliers may be more than one in a thousand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchwright._checks import whole_number
from batchwright.index import LengthIndex, counted
from batchwright.lengths import as_lengths, totals
from batchwright.shard_index import ShardIndex
from batchwright.typing import IntArray, IntoLengths

ROWS = 8
"""Samples of usual length in a batch, where no batch size is given."""

PARTS = 50
"""Then a batch has at most this part of all tokens, outliers cut to the usual length."""

TAIL = 4
"""Samples are outliers from so many times the 99th percentile on."""


@dataclass(frozen=True)
class Budgets:
    """A batch size, and the budgets that go with it; the fields are the ``--json`` keys.

    Of samples with several lengths each counts with their sum.
    """

    max_tokens: int  # of a batch, padding included
    step_tokens: int  # of an update of one batch, on average: about batch size × mean length
    batch_size: int  # as given; or how many samples of usual length the budget holds
    assumed: bool  # whether no batch size was given
    usual: int  # the usual length
    p99: int  # the longest, without the longest hundredth, and without one sample at least
    p999: int  # the longest, without the longest thousandth
    longest: int
    num_longer: int  # samples longer than max_tokens
    num_samples: int
    num_tokens: int

    @property
    def for_all(self) -> int:
        """The budget, or the longest sample where that is longer."""
        return max(self.max_tokens, self.longest)

    def tokens_of(self, batches: int) -> int:
        """Return the mean tokens of an update of so many batches; the last may have fewer."""
        # Of batches of one sample, no more updates than samples fill.
        updates = -(-self.num_samples // (self.batch_size * batches))
        updates = max(1, min(updates, self.num_samples // batches))
        return max(1, round(self.num_tokens / updates))

    @property
    def share_longer(self) -> float:
        """Share of the samples that are longer than the budget."""
        return self.num_longer / self.num_samples


def suggest(
    lengths: IntoLengths, *, batch_size: int | None = None, max_tokens: int | None = None
) -> Budgets:
    """Suggest budgets that a few very long samples do not decide. O(n).

    With a batch size, the budget is what so many samples of usual length take, and at most what so
    many of the longest take.

    Without one it is what `ROWS` samples of usual length take, so at most 8 × p99.9; and at most
    2 % of all tokens, wherever these, outliers cut to the usual length, are 50 × the usual length
    or more, as from 200 × p99 on. On smaller data it is the usual length: one long sample a batch.

    Outliers of up to 1 % of the samples, and one sample of any data, change the budget as if they
    were four times as long as the longest of the others, however long they are.

    Args:
        lengths: integer[n], or integer[n, k] of several columns; or a `LengthIndex`
            or `ShardIndex`.
        batch_size: Samples of a batch today. None: assumed from the budget.
        max_tokens: The budget, where it is known.

    Raises:
        LengthsError: If the lengths are not positive whole numbers.
        BudgetError: If a setting is no positive whole number.

    Example:
        >>> budgets = suggest([20, 30, 40, 50] * 500 + [100_000], batch_size=32)
        >>> budgets.max_tokens, budgets.p999, budgets.num_longer
        (1600, 50, 1)
        >>> suggest([20, 30, 40, 50] * 500 + [100_000]).max_tokens
        400
    """
    if batch_size is not None:
        batch_size = whole_number(None, "batch_size", batch_size)
    if max_tokens is not None:
        max_tokens = whole_number(None, "max_tokens", max_tokens)
    if isinstance(lengths, LengthIndex):
        values, counts = lengths.values, lengths.counts
    elif isinstance(lengths, ShardIndex):
        values, counts = lengths.histogram()
    else:
        values, counts = counted(totals(as_lengths(lengths, columns=True)))
    num_samples, longest = int(counts.sum()), int(values[0])
    num_tokens = int((values * counts).sum())
    p99 = _without(values, counts, _hundredth(num_samples))
    p999 = _without(values, counts, num_samples // 1000)
    usual = min(p999, TAIL * p99)
    if max_tokens is None and batch_size is not None:
        max_tokens = min(batch_size, num_samples) * usual
    elif max_tokens is None:
        cut = int((np.minimum(values, usual) * counts).sum())
        max_tokens = max(usual, min(ROWS * usual, cut // PARTS))
    rows = max(1, max_tokens // usual) if batch_size is None else batch_size
    return Budgets(
        max_tokens=max_tokens,
        step_tokens=max(1, round(num_tokens / -(-num_samples // rows))),
        batch_size=rows,
        assumed=batch_size is None,
        usual=usual,
        p99=p99,
        p999=p999,
        longest=longest,
        num_longer=int(counts[values > max_tokens].sum()),
        num_samples=num_samples,
        num_tokens=num_tokens,
    )


def tail_end(values: IntArray, counts: IntArray) -> int:
    """Return the length from which on samples are outliers, `TAIL` × p99.

    Args:
        values: int64[r], lengths, each once.
        counts: int64[r], how many samples have each.
    """
    order = np.argsort(-values)
    return TAIL * _without(values[order], counts[order], _hundredth(int(counts.sum())))


def without_outliers(lengths: IntArray) -> IntArray:
    """Cut outliers to `tail_end`, int64[n]. O(n); nothing is copied where there are none.

    Example:
        >>> without_outliers(np.array([3, 5, 4, 1_000])).tolist()
        [3, 5, 4, 20]
    """
    place = lengths.size - 1 - _hundredth(lengths.size)
    most = TAIL * int(np.partition(lengths, place)[place])
    return np.minimum(lengths, most) if int(lengths.max()) > most else lengths


def _hundredth(num_samples: int) -> int:
    """Return how many samples may be outliers: a hundredth, and one at least."""
    return max(num_samples // 100, min(1, num_samples - 1))


def _without(values: IntArray, counts: IntArray, left_out: int) -> int:
    """Return the longest length once some of the longest samples are left out."""
    return int(values[np.searchsorted(np.cumsum(counts), left_out, side="right")])
