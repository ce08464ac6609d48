"""Memory: how much more the largest batches need than the others."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from batchwright._format import mebibytes, number, percent, plural
from batchwright.doctor.finding import Finding
from batchwright.doctor.records import Rank, Run

_BATCHES = 20  # nothing is said of fewer
_FAR = 2.0  # times the padded tokens of the median batch
_FEW = 0.05  # of the batches
_RISE = 1.1  # of the peak, where it was seen


def peak(run: Run) -> Iterator[Finding]:
    """Find runs in which few batches need much more memory than the others.

    The memory of a batch is assumed to grow with its padded tokens. If it was seen not to grow,
    nothing is found.

    Example:
        >>> list(peak(Run(ranks=())))
        []
    """
    # A batch that was not looked at, or whose samples have no length, has a width of 1.
    loaders = [loader for loader in (rank.trained for rank in run.ranks) if loader is not None]
    batches = [each for loader in loaders for each in loader.batches if each.width > 1]
    sizes = np.array([each.padded_tokens for each in batches])
    if sizes.size < _BATCHES:
        return
    middle, largest = float(np.median(sizes)), int(sizes.max())
    budget = max(math.ceil(middle), *(each.width for each in batches))
    limit = _FAR * middle
    few = int((sizes > limit).sum())
    if not 0 < few <= _FEW * sizes.size:
        return
    rises = [rise for rise in (_rise(rank, limit) for rank in run.ranks) if rise is not None]
    before, after = max(rises, key=lambda rise: rise[1] / rise[0], default=(0, 0))
    if rises and after < _RISE * before:
        return
    figure = (
        f"{few} of {plural(sizes.size, 'batch')} have more than twice the padded tokens of the "
        f"median batch: up to {number(largest)}, and the median has {number(middle)}."
    )
    if rises:
        figure += (
            f" Peak memory was {mebibytes(before)} MiB before the first of them, and is now "
            f"{mebibytes(after)} MiB."
        )
    yield Finding(
        name="few batches set the peak memory",
        level="warning",
        figure=figure,
        cost=(
            f"Memory must hold the largest batch; the median one has {percent(middle / largest)}"
            " of its padded tokens."
        ),
        cure=(
            "Fill batches up to a budget of padded tokens, not to a number of samples: with "
            f"{number(budget)}, the largest has {percent(budget / largest)} of its tokens now."
        ),
        code=_planned(run.framework, budget),
    )


def _rise(rank: Rank, limit: float) -> tuple[int, int] | None:
    """Return the peak before the first large batch and at the end; None if it was not seen."""
    peaks = [each.peak for each in rank.updates if each.peak is not None]
    large = (
        number
        for number, update in enumerate(rank.updates)
        if any(batch.padded_tokens > limit for batch in update.batches)
    )
    first = next(large, 0)
    # The first update also makes the state of the optimizer, so the second is the least.
    if len(peaks) < len(rank.updates) or first < 2 or peaks[first - 1] <= 0:
        return None
    return peaks[first - 1], peaks[-1]


def _planned(framework: str, max_tokens: int) -> tuple[str, ...]:
    if framework in {"transformers", "trl"}:
        return (
            "from batchwright.integrations.transformers import use_plan",
            "",
            f"use_plan(trainer, max_tokens={max_tokens})",
        )
    return (
        "import batchwright as bw",
        "from batchwright.torch import PlanLoader",
        "",
        f"planner = bw.Planner(lengths, max_tokens={max_tokens})",
        "loader = PlanLoader(dataset, planner, collate_fn=collate)",
    )
