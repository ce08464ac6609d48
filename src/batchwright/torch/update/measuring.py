"""Measured on the user's own model: which precision is quickest, and what rows of a length cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from batchwright._checks import check_positive
from batchwright._measuring import medians, nonnegative_fit, quickest, spread
from batchwright.costs import CostModel
from batchwright.errors import BudgetError, PrecisionError
from batchwright.lengths import as_lengths
from batchwright.torch.data.rows import Split, num_rows
from batchwright.torch.update.loss_functions import LossSum, modules_of, refuse_other_functions
from batchwright.torch.update.modes import Mode, policy_for, ruled_out
from batchwright.torch.update.out_of_memory import on_what_fits
from batchwright.torch.update.passes import (
    ExchangeError,
    refused_exchange,
    untouched,
)
from batchwright.torch.update.ranks import Ranks, device_of
from batchwright.typing import Batch, FloatArray, IntArray, IntoLengths


@dataclass(frozen=True)
class Trial:
    """What was measured of one mode.

    Attributes:
        mode: The mode.
        seconds: Median of a step: forward and backward.
        ratio: Median over rounds of its time over that of the first mode, in the same round.
        peak_bytes: Largest memory of a step; None on a CPU.
        gradient_error: Norm of its gradient minus the first mode's, over the norm of that.
    """

    mode: Mode
    seconds: float
    ratio: float
    peak_bytes: int | None
    gradient_error: float


@dataclass(frozen=True)
class Evidence:
    """Why a precision was chosen.

    Attributes:
        trials: What was measured, the simplest mode first.
        ruled_out: Mode → why it was not tried.
    """

    trials: tuple[Trial, ...]
    ruled_out: dict[str, str] = field(default_factory=dict)

    @property
    def choice(self) -> Mode:
        """The quickest mode with a finite gradient; a tie goes to the simpler one."""
        first, *others = self.trials
        finite = [each for each in others if np.isfinite(each.gradient_error)]
        return quickest({each.mode: each.ratio for each in (first, *finite)})


def measured(
    ranks: Ranks,
    loss_sum: LossSum,
    batch: Batch,
    split: Split,
    *,
    candidates: Sequence[Mode] = ("fp32", "tf32", "bf16", "fp16"),
    rounds: int = 5,
) -> Evidence:
    """Time a few interleaved steps of each mode, on a batch or the first part of it that fits.

    Parameters, gradients, buffers and random states are left as they were.
    """
    refuse_other_functions(loss_sum)
    model = ranks.model
    device = device_of(model)
    reasons = {mode: ruled_out(mode, device) for mode in candidates}
    modes = [mode for mode in candidates if reasons[mode] is None]

    def run(batch: Batch) -> Evidence:
        if ranks.kind == "copies":
            try:
                with untouched(model, *modules_of(loss_sum)), refused_exchange():
                    loss_sum(model, batch)
            except ExchangeError as error:
                message = f'Precision("auto") measures on one rank alone, but {error}. Give a mode.'
                raise PrecisionError(message) from error
        gradients: dict[Mode, torch.Tensor] = {}
        seconds: dict[Mode, list[float]] = {mode: [] for mode in modes}
        peaks: dict[Mode, int | None] = {}
        with untouched(model, *modules_of(loss_sum)) as state:
            for turn in range(rounds + 1):
                for mode in modes:
                    state.random.restore()
                    taken, peaks[mode] = _step(model, loss_sum, batch, mode)
                    if turn:
                        seconds[mode].append(taken)
                    else:
                        gradients[mode] = _direction(model)
                    model.zero_grad(set_to_none=True)
        reference = gradients[modes[0]]
        trials = tuple(
            Trial(mode, *times, peaks[mode], float((gradients[mode] - reference).norm()))
            for mode, times in medians(seconds).items()
        )
        return Evidence(trials, {mode: reason for mode, reason in reasons.items() if reason})

    # Shards make their passes together: one rank cannot try a half alone.
    return run(batch) if ranks.kind == "shards" else on_what_fits(run, batch, split=split)


def _step(
    model: torch.nn.Module, loss_sum: LossSum, batch: Batch, mode: Mode
) -> tuple[float, int | None]:
    """Run forward and backward; return seconds and peak bytes."""
    device = device_of(model)
    policy = policy_for(mode, device)

    def run() -> None:
        with policy.autocast():
            loss = loss_sum(model, batch)
        # A gradient of order one, whatever the batch: float16 would overflow at a sum.
        scale = 2.0**10 if policy.scaler.is_enabled() else 1.0
        torch.autograd.backward(loss.float() / max(abs(float(loss.detach())), 1e-12) * scale)

    if device.type == "cpu":
        return _seconds(run, device), None
    torch.accelerator.reset_peak_memory_stats()
    return _seconds(run, device), torch.accelerator.max_memory_allocated()


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize()
    begun = time.perf_counter()
    run()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - begun


def _direction(model: torch.nn.Module) -> torch.Tensor:
    """Return the gradient as a unit vector: what the loss was divided by does not matter."""
    gradients = (each.grad for each in model.parameters() if each.grad is not None)
    parts = [each.to_dense().flatten().float() for each in gradients]
    gradient = torch.cat(parts) if parts else torch.zeros(1)
    return torch.nn.functional.normalize(gradient, dim=0, eps=1e-30)


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
    make_batch: Callable[[int, int], Batch],
    *,
    lengths: IntoLengths,
    max_tokens: int,
    points: int = 7,
    rounds: int = 5,
) -> MeasuredCost:
    """Measure what rows of different lengths cost, and fit ``a + b·L + c·L²``.

    Each length is tried in a batch that fills the budget, as in training. Lengths take turns, and
    the quickest step of each counts, which other work on the machine has slowed down the least.
    The model is left as it was.

    Args:
        model: The model, on the device where it is trained.
        loss_sum: ``(model, batch) → the sum of the loss``.
        make_batch: ``(rows, length) → a batch`` of that shape, on the device of the model.
        lengths: integer[n], the lengths of the data: some between the ends are tried.
        max_tokens: The budget that batches fill.
        points: How many lengths to try.
        rounds: Steps of each, after one to warm up.

    Returns:
        The cost: ``Planner(…, cost=measured.cost)`` balances by it, and
        ``TokenBudget(max_tokens, max_samples=measured.cost.rows_within(seconds))`` keeps to a time.

    Raises:
        BudgetError: If one row of the longest length does not fit the budget, or a batch has
            another number of rows than asked for.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 8), torch.nn.Linear(8, 9))
        >>> loss_sum = lambda model, tokens: model(tokens).square().sum()
        >>> make = lambda rows, length: torch.zeros(rows, length, dtype=torch.long)
        >>> measured = fit_cost(model, loss_sum, make, lengths=[4, 64], max_tokens=256)
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
    tried = spread(np.unique(known).astype(np.int64), points)
    rows = max_tokens // tried
    batches = []
    for many, length in zip(rows.tolist(), tried.tolist(), strict=True):
        batches.append(make_batch(many, length))
        found = num_rows(batches[-1])
        if found not in {None, many}:
            raise BudgetError(f"make_batch({many}, …) made a batch of {found} rows.")
    seconds = _least_seconds(model, loss_sum, batches, rounds)
    per_row = seconds / rows
    cost = CostModel(*fitted(tried.astype(np.float64), per_row))
    error = float(np.abs(cost(tried) / per_row - 1).max())
    return MeasuredCost(cost, tried, rows, seconds, error)


def fitted(lengths: FloatArray, seconds: FloatArray) -> tuple[float, float, float]:
    """Fit ``a + b·L + c·L²`` with coefficients of at least 0, by least relative squares."""
    terms = np.vander(lengths, 3, increasing=True) / seconds[:, None]
    a, b, c = nonnegative_fit(terms, np.ones(lengths.size)).tolist()
    return a, b, c


def _least_seconds(
    model: torch.nn.Module, loss_sum: LossSum, batches: list[Batch], rounds: int
) -> FloatArray:
    device = device_of(model)
    least = np.full(len(batches), np.inf)

    def run(batch: Batch) -> None:
        torch.autograd.backward(loss_sum(model, batch))

    with untouched(model, *modules_of(loss_sum)):
        for turn in range(rounds + 1):
            for number, batch in enumerate(batches):
                taken = _seconds(partial(run, batch), device)
                if turn:
                    least[number] = min(least[number], taken)
                model.zero_grad(set_to_none=True)
    return least
