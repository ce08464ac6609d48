"""The limit of what any batching can do: the same batches, without anything to pad."""

import numpy as np

from batchwright.plans import Plan
from batchwright.typing import LengthArray

_NEIGHBOURS = 64


def without_padding(plan: Plan, lengths: LengthArray) -> Plan:
    """Replace the samples of each batch by one of about their mean length, repeated.

    Guarantees batches of as many rows, with nothing to pad, and about as many real tokens. What
    they teach makes no sense: they say something about speed only.

    Args:
        plan: Any plan of whole samples.
        lengths: integer[n] or integer[n, k], the lengths it was made for.

    Returns:
        A plan over the same samples. O(n log n).

    Example:
        >>> import batchwright as bw
        >>> lengths = np.array([1, 2, 3, 9, 4])
        >>> plan = bw.plan(lengths, batching=bw.FixedSize(5))
        >>> [batch.tolist() for batch in without_padding(plan, lengths)]
        [[4, 4, 4, 4, 4]]
    """
    columns = lengths.reshape(len(lengths), -1).astype(np.float64)
    rows = np.diff(plan.offsets)
    means = np.add.reduceat(columns[plan.indices], plan.offsets[:-1], axis=0) / rows[:, None]
    # Of samples with about the mean total, the one whose columns are most like the means.
    totals = columns.sum(axis=1)
    by_total = np.argsort(totals, kind="stable")
    place = np.searchsorted(totals[by_total], means.sum(axis=1))
    window = np.arange(-_NEIGHBOURS, _NEIGHBOURS)
    near = by_total[np.clip(place[:, None] + window, 0, len(lengths) - 1)]
    distance = np.abs(columns[near] - means[:, None, :]).sum(axis=2)
    chosen = np.take_along_axis(near, distance.argmin(axis=1)[:, None], axis=1)[:, 0]
    return Plan(np.repeat(chosen, rows), plan.offsets, layout=plan.layout)
