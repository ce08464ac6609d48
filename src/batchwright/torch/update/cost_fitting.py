"""What a row of some length costs on the user's own model: measured by a few steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch

from batchwright.checks import check_positive
from batchwright.costs import CostModel
from batchwright.errors import BudgetError
from batchwright.lengths import as_lengths
from batchwright.torch.data.rows import num_rows
from batchwright.torch.update.loss_sums import LossSum
from batchwright.torch.update.pass_state import untouched
from batchwright.torch.update.ranks import device_of
from batchwright.typing import FloatArray, IntArray, IntoLengths


@dataclass(frozen=True, eq=False)
class MeasuredCost:
    """A cost model, and what it was fitted to.

    Attributes:
        cost: Seconds of a row of some length, forward and backward.
        lengths: int64[p], the lengths that were tried.
        rows: int64[p], rows of each.
        seconds: float64[p], of a step of each: the least of some rounds.
        error: Largest relative error of the model at those points.
    """

    cost: CostModel
    lengths: IntArray
    rows: IntArray
    seconds: FloatArray
    error: float


def fit_cost(
    model: torch.nn.Module,
    loss_sum: LossSum,
    make_batch: Callable[[int, int], Any],
    *,
    lengths: IntoLengths,
    max_tokens: int,
    points: int = 7,
    rounds: int = 5,
) -> MeasuredCost:
    """Measure what rows of different lengths cost, and fit ``a + b·L + c·L²``.

    Each length is tried in a batch that fills the budget, as in training; lengths take turns, and
    of each the quickest step counts, which other work on the machine has slowed down the least.
    The model is left as it was, but for cleared gradients.

    Args:
        model: The model, where it is trained.
        loss_sum: ``(model, batch) → the sum of the loss``.
        make_batch: ``(rows, length) → a batch`` of that shape, on the device of the model.
        lengths: integer[n], the lengths of the data: some are tried, from the shortest to the
            longest.
        max_tokens: The budget that batches fill.
        points: How many lengths to try.
        rounds: Steps of each, after one to warm up.

    Returns:
        The cost: ``Planner(…, cost=measured.cost)`` balances by it, and
        ``TokenBudget(max_tokens, max_samples=measured.cost.rows_within(seconds))`` keeps to a time.

    Raises:
        BudgetError: If not even one row of the longest length fits, or batches have other rows
            than asked for.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 8), torch.nn.Linear(8, 9))
        >>> measured = fit_cost(
        ...     model,
        ...     lambda model, tokens: model(tokens).square().sum(),
        ...     lambda rows, length: torch.zeros(rows, length, dtype=torch.long),
        ...     lengths=[4, 64],
        ...     max_tokens=256,
        ... )
        >>> bool((measured.cost([8, 64]) > 0).all())
        True
    """
    check_positive("fit_cost", max_tokens=max_tokens, points=points, rounds=rounds)
    known = as_lengths(lengths)
    longest = int(known.max())
    if longest > max_tokens:
        raise BudgetError(
            f"max_tokens={max_tokens} is below one row of the longest length, {longest}."
        )
    tried = _spread(np.unique(known).astype(np.int64), points)
    rows = max_tokens // tried
    batches = [make_batch(int(many), int(length)) for many, length in zip(rows, tried, strict=True)]
    for batch, many in zip(batches, rows.tolist(), strict=True):
        found = num_rows(batch)
        if found not in {None, many}:
            raise BudgetError(f"make_batch({many}, …) made a batch of {found} rows.")
    seconds = _least_seconds(model, loss_sum, batches, rounds)
    per_row = seconds / rows
    a, b, c = fitted(tried.astype(np.float64), per_row)
    cost = CostModel(a, b, c)
    error = float(np.abs(cost(tried) / per_row - 1).max())
    return MeasuredCost(cost, tried, rows, seconds, error)


def fitted(lengths: FloatArray, seconds: FloatArray) -> tuple[float, float, float]:
    """Fit ``a + b·L + c·L²`` with coefficients of at least 0, by least relative squares.

    Args:
        lengths: float64[p].
        seconds: float64[p], positive.

    Returns:
        The coefficients. All sets of terms are tried: with three there are seven.

    Example:
        >>> lengths = np.array([1.0, 10.0, 100.0])
        >>> [round(each, 6) for each in fitted(lengths, 2 + 0.5 * lengths)]
        [2.0, 0.5, 0.0]
    """
    terms = np.stack([np.ones_like(lengths), lengths, lengths**2], axis=1) / seconds[:, None]
    best, least = (0.0, 0.0, 0.0), np.inf
    for count in (1, 2, 3):
        for chosen in combinations(range(3), count):
            part = terms[:, chosen]
            scale = np.linalg.norm(part, axis=0)
            solution, *_ = np.linalg.lstsq(part / scale, np.ones(lengths.size), rcond=None)
            values = np.zeros(3)
            values[list(chosen)] = solution / scale
            error = float(np.square(terms @ values - 1).sum())
            # A further term has to earn its place.
            if (values >= 0).all() and error < 0.999 * least - 1e-15:
                best, least = (float(values[0]), float(values[1]), float(values[2])), error
    return best


def _spread(distinct: IntArray, points: int) -> IntArray:
    """Return those of the sorted lengths that are nearest to a geometric series over them."""
    wanted = np.geomspace(distinct[0], distinct[-1], points)
    above = np.searchsorted(distinct, wanted).clip(1, max(1, distinct.size - 1))
    neighbours = distinct[np.stack([above - 1, above.clip(max=distinct.size - 1)])]
    nearest = np.abs(neighbours - wanted).argmin(axis=0)
    return np.unique(np.take_along_axis(neighbours, nearest[None], axis=0))


def _least_seconds(
    model: torch.nn.Module, loss_sum: LossSum, batches: list[Any], rounds: int
) -> FloatArray:
    on_gpu = device_of(model).type != "cpu"
    least = np.full(len(batches), np.inf)
    with untouched(model):
        for turn in range(rounds + 1):
            for number, batch in enumerate(batches):
                if on_gpu:
                    torch.accelerator.synchronize()
                begun = time.perf_counter()
                torch.autograd.backward(loss_sum(model, batch))
                if on_gpu:
                    torch.accelerator.synchronize()
                taken = time.perf_counter() - begun
                if turn:
                    least[number] = min(least[number], taken)
                model.zero_grad(set_to_none=True)
    return least
