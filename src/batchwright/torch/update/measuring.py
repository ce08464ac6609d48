"""Measured on the user's own model: which precision is quickest, and what rows of a length cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import torch

from batchwright._checks import check_positive
from batchwright._measuring import medians, nonnegative_fit, quickest, spread
from batchwright.costs import CostModel
from batchwright.errors import BudgetError, PrecisionError
from batchwright.lengths import as_lengths
from batchwright.torch.data.rows import Split, num_rows
from batchwright.torch.update.out_of_memory import on_what_fits
from batchwright.torch.update.passes import (
    ExchangeError,
    LossSum,
    modules_of,
    refuse_other_functions,
    refused_exchange,
    untouched,
)
from batchwright.torch.update.ranks import Ranks, device_of
from batchwright.typing import Batch, FloatArray, IntArray, IntoLengths

Mode: TypeAlias = Literal["fp32", "tf32", "bf16", "fp16", "bf16-true"]
"""Single precision, TensorFloat-32 products, mixed bfloat16 or float16 with single-precision
parameters, or everything in bfloat16."""

MODES: tuple[Mode, ...] = ("fp32", "tf32", "bf16", "fp16", "bf16-true")

_CASTS = {"bf16": torch.bfloat16, "fp16": torch.float16}
_NAMES = (*MODES, "custom", "auto")
_WITH_BATCH, _WITHOUT_BATCH, _FAILED = range(3)

UNSCALED = torch.amp.GradScaler("cpu", enabled=False)


@dataclass(frozen=True, eq=False)
class Policy:
    """One way to compute, ready for use."""

    name: str  # the mode's, or "custom"
    autocast: Callable[[], AbstractContextManager[object]]  # the context of a forward pass
    scaler: torch.amp.GradScaler


def policy_for(
    mode: Mode, model: torch.nn.Module | torch.device, scaler: torch.amp.GradScaler | None = None
) -> Policy:
    """Make the policy of a mode. Casting and scaling are `torch.amp`'s."""
    device = model if isinstance(model, torch.device) else device_of(model)
    reason = ruled_out(mode, device)
    if reason is not None and mode != "fp16":  # slow, but it computes
        raise PrecisionError(f'Precision("{mode}") on {device.type}: {reason}')
    if mode == "bf16-true" and isinstance(model, torch.nn.Module):
        types = {each.dtype for each in model.parameters() if each.is_floating_point()}
        if types != {torch.bfloat16}:
            raise PrecisionError(
                f'Precision("bf16-true"): the parameters are {types}. Call '
                "precision.prepare(model) before making the optimizer."
            )
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    if mode in _CASTS:
        autocast = partial(torch.autocast, device.type, dtype=_CASTS[mode])
    elif mode == "tf32":
        autocast = _tensor_float
    own = torch.amp.GradScaler(device.type) if mode == "fp16" else UNSCALED
    return Policy(mode, autocast, scaler or own)


def ruled_out(mode: Mode, device: torch.device) -> str | None:
    """Return why a mode need not be measured on a device; None if only measuring can show."""
    if device.type == "cuda":
        if mode in {"bf16", "bf16-true"} and not torch.cuda.is_bf16_supported(False):
            return 'bfloat16 is emulated on this GPU. Use "fp16" or "fp32".'
        if mode == "tf32" and torch.cuda.get_device_capability(device) < (8, 0):
            return 'this GPU has no TensorFloat-32. Use "fp16" or "fp32".'
        return None
    if mode == "tf32":
        return 'TensorFloat-32 is a format of CUDA GPUs. Use "fp32" or "bf16".'
    if mode == "fp16" and device.type == "cpu":
        return 'float16 is emulated on a CPU, many times slower. Use "bf16".'
    return None


@contextmanager
def _tensor_float() -> Iterator[None]:
    """Let matrix products round to TensorFloat-32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def agreed(
    ranks: Ranks, given: str, *, measure: Callable[[], Mode] | None, failed: bool = False
) -> str | None:
    """Agree on one mode for all ranks; one that failed or has no batch has to call this too."""
    chosen, error = given, None
    # Passes through shards need every rank; of copies the others wait for rank 0.
    if given == "auto" and measure is not None and (ranks.rank == 0 or ranks.kind == "shards"):
        try:
            chosen = measure()
        except Exception as raised:  # noqa: BLE001 (raised again, once the others know)
            error = raised
    state = _WITHOUT_BATCH if measure is None else _WITH_BATCH
    state = _FAILED if failed or error is not None else state
    everyone = ranks.gathered([_NAMES.index(given), _NAMES.index(chosen), state])
    if error is not None:
        raise error
    states = [int(each) for _, _, each in everyone]
    if failed or set(states) == {_WITHOUT_BATCH}:
        return None
    if _FAILED in states:
        raise ranks.without(states.count(_FAILED))
    names = [_NAMES[int(each)] for each, _, _ in everyone]
    if len(set(names)) > 1:
        listed = ", ".join(f"rank {rank}: {name}" for rank, name in enumerate(names))
        raise PrecisionError(f"ranks have different precisions ({listed}). Give all the same.")
    mode = _NAMES[int(everyone[0][1])]
    if mode == "auto":
        raise PrecisionError(
            'Precision("auto") measures on the first batch of rank 0, which has none in this '
            "update. Give a mode, or begin with an update that has a batch on each rank."
        )
    return mode


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
