"""How many different samples share a batch, or an update, with a sample over several epochs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from batchwright._checks import whole_number
from batchwright._random import generator
from batchwright.errors import PlanError
from batchwright.lengths import totals
from batchwright.planner import Planner
from batchwright.typing import FloatArray, IntArray

BANDS = (0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 1.0)
"""Where bands of samples begin and end, as shares of all samples from long to short."""


@dataclass(frozen=True, eq=False)
class Variety:
    """Distinct samples that a sample meets over several epochs, relative to a plain shuffle.

    A figure of 1 is a shuffle into batches of the same sizes; 0.05 is nearly the same batches in
    every epoch. A sample that is always alone counts as 1.

    Attributes:
        epochs: How many epochs were planned.
        bands: float64[k + 1], where bands begin and end: shares of the samples from long to short.
        batches: float64[k], of the samples in the same batch: mean over each band. NaN: it is
            empty.
        updates: float64[k], the same of the samples in the same update, on all ranks.
        batch: Mean over all samples, of those in the same batch.
        update: The same of those in the same update.
    """

    epochs: int
    bands: FloatArray
    batches: FloatArray
    updates: FloatArray
    batch: float
    update: float


def variety(planner: Planner, *, epochs: int = 8, num_samples: int = 300) -> Variety:
    """Count the distinct samples that samples meet in their batches and updates.

    Args:
        planner: The planner.
        epochs: How many epochs to plan, from the first on; at least 2.
        num_samples: How many samples to follow, spread evenly over lengths.

    Returns:
        The figures, each relative to a plain shuffle with as many samples in each batch. Where an
        epoch has a sample more than once, its last batch counts. O(epochs · n).

    Raises:
        PlanError: If `planner` is no `Planner`, or a number is out of range.

    Example:
        >>> import batchwright as bw
        >>> planner = bw.Planner([4] * 100, batching=bw.FixedSize(5))
        >>> 0.9 < variety(planner, epochs=4).batch < 1.1
        True
    """
    if not isinstance(planner, Planner):
        raise PlanError(f"variety({planner!r:.60}): expected a Planner.")
    epochs = whole_number("variety", "epochs", epochs, least=2)
    num_samples = whole_number("variety", "num_samples", num_samples)
    total = planner.num_samples
    ranked = np.argsort(-totals(planner.lengths).astype(np.int64), kind="stable")
    places = _places(total, num_samples)
    followed = ranked[places]
    update = planner.world_size * planner.accumulate
    met: dict[int, list[IntArray]] = {1: [], update: []}
    missed = {size: np.ones(followed.size) for size in met}
    for epoch in range(epochs):
        plan = planner(epoch)
        batch_of = np.full(total, -1)
        batch_of[plan.indices] = np.repeat(np.arange(len(plan)), plan.sizes)
        present = np.flatnonzero(batch_of[followed] >= 0)
        for size, pairs in met.items():
            groups = np.append(plan.offsets[:-1:size], plan.offsets[-1])
            group = batch_of[followed[present]] // size
            sizes = np.diff(groups)[group]
            offsets = np.cumsum(sizes) - sizes
            inside = np.arange(sizes.sum()) - np.repeat(offsets, sizes)
            mates = plan.indices[np.repeat(groups[:-1][group], sizes) + inside]
            pairs.append(np.repeat(present, sizes) * total + mates)
            # Repeated samples may make an update larger than the data.
            missed[size][present] *= 1 - np.minimum((sizes - 1) / max(total - 1, 1), 1)
    found = {size: _relative(each, followed, missed[size], total) for size, each in met.items()}
    band = np.searchsorted(BANDS, (places + 0.5) / total, side="right") - 1
    many = np.bincount(band, minlength=len(BANDS) - 1)
    weight = np.diff(BANDS) * (many > 0)

    def means(values: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore"):
            return np.bincount(band, values, minlength=len(BANDS) - 1) / many

    batches, updates = means(found[1]), means(found[update])
    return Variety(
        epochs,
        np.array(BANDS),
        batches,
        updates,
        float(np.nansum(batches * weight) / weight.sum()),
        float(np.nansum(updates * weight) / weight.sum()),
    )


def _places(total: int, num_samples: int) -> IntArray:
    """Choose samples by their place from long to short: as many of each band."""
    rng = generator(0, "variety")
    edges = np.ceil(np.array(BANDS) * total).astype(np.int64)
    chosen = [
        begin + rng.permutation(end - begin)[: -(-num_samples // (len(BANDS) - 1))]
        for begin, end in pairwise(edges.tolist())
    ]
    return np.sort(np.concatenate(chosen))


def _relative(
    pairs: list[IntArray], followed: IntArray, missed: FloatArray, total: int
) -> FloatArray:
    """Divide the distinct mates of each followed sample by what a shuffle would give it."""
    ordered = np.sort(np.concatenate(pairs))
    distinct = ordered[np.append(True, ordered[1:] != ordered[:-1])]
    others = distinct[distinct % total != followed[distinct // total]]
    mates = np.bincount(others // total, minlength=followed.size).astype(np.float64)
    expected = (total - 1) * (1 - missed)
    return np.divide(mates, expected, out=np.ones_like(mates), where=expected > 0)
