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
from batchwright.torch.update.passes import ExchangeError, refused_exchange, untouched
from batchwright.torch.update.ranks import Ranks, device_of
from batchwright.typing import Batch, FloatArray, IntArray, IntoLengths


@dataclass(frozen=True)
class Trial:
    """What was measured of one mode."""

    mode: Mode
    seconds: float  # median of a step: forward and backward
    ratio: float  # median over rounds of its time over that of the first mode in the same round
    peak_bytes: int | None  # largest memory of a step; None on a CPU
    gradient_error: float  # of its gradient's direction, against the first mode's


@dataclass(frozen=True)
class Evidence:
    """Why a precision was chosen."""

    trials: tuple[Trial, ...]  # the simplest mode first
    ruled_out: dict[str, str] = field(default_factory=dict)  # mode → why it was not tried

    @property
    def choice(self) -> Mode:
        """The quickest mode with a finite gradient; a tie goes to the simpler one."""
        first, *others = self.trials
        finite = [each for each in others if np.isfinite(each.gradient_error)]
        return quickest({each.mode: each.ratio for each in (first, *finite)})

    def __str__(self) -> str:
        measured = [f"{each.mode} {1e3 * each.seconds:.3g} ms" for each in self.trials]
        not_tried = f"; not tried: {', '.join(self.ruled_out)}" if self.ruled_out else ""
        return f"a step took {', '.join(measured)}{not_tried}."


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
            with untouched(model, *modules_of(loss_sum)), refused_exchange():
                loss_sum(model, batch)
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

    if ranks.kind == "shards":  # they make their passes together: none can try a half alone
        return run(batch)
    try:
        return on_what_fits(run, batch, split=split)
    except ExchangeError as error:
        message = f'Precision("auto") measures on one rank alone, but {error}. Give a mode.'
        raise PrecisionError(message) from error


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


def _pass(model: torch.nn.Module, loss_sum: LossSum, batch: Batch) -> None:
    torch.autograd.backward(loss_sum(model, batch))


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
    """A cost model, and what it was fitted to."""

    cost: CostModel  # seconds of a row of some length, forward and backward
    lengths: IntArray  # int64[p], the lengths that were tried
    rows: IntArray  # int64[p], rows of each
    seconds: FloatArray  # float64[p], of a step of each: the least of some rounds
    error: float  # largest relative error of the model at those points


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
    the quickest step of each counts. The model is left as it was. ``Planner(…,
    cost=measured.cost)`` balances by the result, and ``TokenBudget(max_tokens,
    max_samples=measured.cost.rows_within(seconds))`` keeps to a time.

    Args:
        model: The model, on the device where it is trained.
        loss_sum: ``(model, batch) → the sum of the loss``.
        make_batch: ``(rows, length) → a batch`` of that shape, on the device of the model.
        lengths: integer[n], the lengths of the data.
        max_tokens: The budget that batches fill.
        points: How many lengths to try.
        rounds: Steps of each, after one to warm up.

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
    known = np.unique(as_lengths(lengths)).astype(np.int64)
    if known[-1] > max_tokens:
        raise BudgetError(
            f"max_tokens={max_tokens} is below one row of the longest length, {known[-1]}."
        )
    tried = spread(known, points)
    rows = max_tokens // tried
    batches = []
    for many, length in zip(rows.tolist(), tried.tolist(), strict=True):
        batches.append(make_batch(many, length))
        found = num_rows(batches[-1])
        if found not in {None, many}:
            raise BudgetError(f"make_batch({many}, …) made a batch of {found} rows.")
    seconds = np.full(tried.size, np.inf)
    with untouched(model, *modules_of(loss_sum)):
        for turn in range(rounds + 1):
            for place, batch in enumerate(batches):
                taken = _seconds(partial(_pass, model, loss_sum, batch), device_of(model))
                model.zero_grad(set_to_none=True)
                if turn:
                    seconds[place] = min(seconds[place], taken)
    per_row = seconds / rows
    cost = CostModel(*fitted(tried.astype(np.float64), per_row))
    error = float(np.abs(cost(tried) / per_row - 1).max())
    return MeasuredCost(cost, tried, rows, seconds, error)


def fitted(lengths: FloatArray, seconds: FloatArray) -> tuple[float, float, float]:
    """Fit ``a + b·L + c·L²`` with coefficients of at least 0, by least relative squares."""
    terms = np.vander(lengths, 3, increasing=True) / seconds[:, None]
    a, b, c = nonnegative_fit(terms, np.ones(lengths.size)).tolist()
    return a, b, c
