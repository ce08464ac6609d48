"""Which precision pays: a few interleaved steps of each, on the user's own model and batch."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from batchwright.errors import PrecisionError
from batchwright.torch.update.exchange import ExchangeError, refused_exchange
from batchwright.torch.update.loss_sums import LossSum
from batchwright.torch.update.pass_state import RandomState, devices_of, untouched
from batchwright.torch.update.policy import Mode, policy_for, ruled_out

TIE = 0.97
"""A mode has to take less than this share of a simpler one's time to be worth it."""


@dataclass(frozen=True)
class Trial:
    """What was measured of one mode.

    Attributes:
        mode: The mode.
        seconds: Median of a step: forward and backward.
        ratio: Median over rounds of its time over that of the first mode, in the same round.
        peak_bytes: Largest memory of a step; None on a processor, which does not tell.
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


def measured(
    model: torch.nn.Module,
    loss_sum: LossSum,
    batch: Any,
    *,
    candidates: Sequence[Mode] = ("fp32", "tf32", "bf16", "fp16"),
    rounds: int = 5,
) -> Evidence:
    """Time a few steps of each mode, in turns.

    Args:
        model: The model; parameters, gradients, buffers and random states are left as they were.
        loss_sum: ``(model, batch) → the sum of the loss``.
        batch: A typical batch.
        candidates: The modes, the simplest first: the others are compared with it.
        rounds: Steps of each, after one to warm up.

    Returns:
        The evidence. ``(rounds + 1)`` steps of each mode.
    """
    device = next(model.parameters()).device
    reasons = {mode: ruled_out(mode, device) for mode in candidates}
    modes = [mode for mode in candidates if reasons[mode] is None]
    steps = {mode: _Step(model, loss_sum, batch, mode, device) for mode in modes}
    gradients: dict[Mode, torch.Tensor] = {}
    seconds: dict[Mode, list[float]] = {mode: [] for mode in modes}
    peaks: dict[Mode, int | None] = {}
    with untouched(model):
        random = RandomState.capture(devices_of(model))
        for turn in range(rounds + 1):
            for mode in modes:
                random.restore()
                taken, peak = steps[mode]()
                if turn:
                    seconds[mode].append(taken)
                    peaks[mode] = peak
                else:
                    gradients[mode] = _gradient(model)
                model.zero_grad(set_to_none=True)
    first = modes[0]
    trials = tuple(
        Trial(
            mode,
            float(np.median(seconds[mode])),
            float(np.median(np.divide(seconds[mode], seconds[first]))),
            peaks[mode],
            _error(gradients[mode], gradients[first]),
        )
        for mode in modes
    )
    return Evidence(trials, {mode: reason for mode, reason in reasons.items() if reason})


def refuse_exchange(model: torch.nn.Module, loss_sum: LossSum, batch: Any) -> None:
    """Raise if a loss would wait for other ranks, while one of them measures.

    Raises:
        PrecisionError: If it does.
    """
    try:
        with untouched(model), refused_exchange():
            loss_sum(model, batch)
    except ExchangeError as error:
        raise PrecisionError(
            f'Precision("auto") measures on one rank alone, but {error}. Give a mode.'
        ) from error


def choose(evidence: Evidence) -> Mode:
    """Take the quickest mode whose gradient is finite; ties go to the simpler one.

    Args:
        evidence: What was measured, the simplest mode first.

    Returns:
        The mode. Never one that took longer than the simplest.

    Example:
        >>> fp32, bf16 = Trial("fp32", 1.0, 1.0, None, 0.0), Trial("bf16", 0.99, 0.99, None, 0.01)
        >>> choose(Evidence((fp32, bf16)))
        'fp32'
    """
    best = evidence.trials[0]
    for trial in evidence.trials[1:]:
        if np.isfinite(trial.gradient_error) and trial.ratio < TIE * best.ratio:
            best = trial
    return best.mode


@dataclass(frozen=True, eq=False)
class _Step:
    model: torch.nn.Module
    loss_sum: LossSum
    batch: Any
    mode: Mode
    device: torch.device

    def __call__(self) -> tuple[float, int | None]:
        """Run forward and backward; return seconds and peak bytes."""
        on_gpu = self.device.type != "cpu"
        policy = policy_for(self.mode, self.device)
        if on_gpu:
            torch.accelerator.synchronize()
            torch.accelerator.reset_peak_memory_stats()
        begun = time.perf_counter()
        with policy.autocast():
            loss = self.loss_sum(self.model, self.batch)
        # A gradient of order one, whatever the batch: half floats would overflow at a sum.
        scale = 1.0 if policy.scaler is None else 2.0**10
        torch.autograd.backward(loss.float() / max(abs(float(loss.detach())), 1e-12) * scale)
        if on_gpu:
            torch.accelerator.synchronize()
        taken = time.perf_counter() - begun
        return taken, torch.accelerator.max_memory_allocated() if on_gpu else None


def _gradient(model: torch.nn.Module) -> torch.Tensor:
    gradients = (each.grad for each in model.parameters() if each.grad is not None)
    parts = [each.to_dense().flatten().float() for each in gradients]
    return torch.cat(parts) if parts else torch.zeros(1)


def _error(gradient: torch.Tensor, reference: torch.Tensor) -> float:
    """Compare directions: scales differ by what the loss was divided by."""
    unit = gradient / gradient.norm().clamp_min(1e-30)
    other = reference / reference.norm().clamp_min(1e-30)
    return float((unit - other).norm())
