"""Whether a loss is a sum over rows, found out on a few rows of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from batchwright._records import kept_back
from batchwright.errors import UpdateError
from batchwright.torch.fixed_randomness import FixedRandomness
from batchwright.torch.loss_sums import LossSum, refuse_other_losses
from batchwright.torch.out_of_memory import is_out_of_memory, release_memory
from batchwright.torch.pass_state import PassState, PassTrace
from batchwright.torch.policy import Policy
from batchwright.torch.rows import Split, num_rows, select_rows

COMPARED = 1 << 22
"""Gradients of at most about this many parameters are compared."""

_EXACT, _ROUNDED = 3e-4, 5e-2
"""What rounding may change, relative to the size of the parts: in fp32, and in 16 bits."""


@dataclass(frozen=True)
class Finding:
    """What is known of a loss.

    Attributes:
        kind: ``"sum"``: parts of a batch add up to the whole. ``"mean"``: the whole lies between
            its parts. ``"coupled"``: neither, the loss of a row depends on other rows.
            ``"unknown"``: it could not be found out.
        detail: The figures, or why it is unknown.
        error: What the check itself ran into. None: nothing.
    """

    kind: Literal["sum", "mean", "coupled", "unknown"]
    detail: str = ""
    error: Exception | None = None


@dataclass(frozen=True, eq=False)
class Trial:
    """What a loss is tried on.

    Attributes:
        loss_sum: The loss.
        model: The model.
        batch: A batch; a few of its rows are enough.
        split: Cuts a batch in two.
        policy: The precision.
        trace: What passes through the model change.
    """

    loss_sum: LossSum
    model: torch.nn.Module
    batch: Any
    split: Split
    policy: Policy
    trace: PassTrace


def check_loss(trial: Trial) -> Finding:
    """Compare the loss and the gradient of a few rows with those of their two halves.

    The model runs as in training: in its mode, with gradients, in its precision. Gradients that
    parameters hold, buffers, random states and records of losses are left as they were. Where
    random numbers are drawn they are replaced by constants, so that sums add up exactly.

    Args:
        trial: The loss, and what it is tried on.

    Returns:
        What was found. Three passes over up to seven rows.
    """
    state = trial.trace.capture(every_buffer=True)
    try:
        with kept_back():
            return _found(trial, state)
    except Exception as error:  # noqa: BLE001 (a check must not end a run that would train)
        if not is_out_of_memory(error):
            first_line = str(error).partition("\n")[0][:200]
            return Finding("unknown", f"{type(error).__name__}: {first_line}", error)
    finally:
        state.restore()
    release_memory()
    return Finding("unknown", "there was no memory to check it")


def _found(trial: Trial, state: PassState) -> Finding:
    parts = _few_rows(trial.batch, trial.split)
    if parts is None:
        return Finding("unknown", "the batch cannot be cut in two")
    # A compiled model would compile again for these shapes.
    model = getattr(trial.model, "_orig_mod", trial.model)
    chosen = _compared(model)
    tolerance = _ROUNDED if _rounds(model, trial.policy) else _EXACT

    def passes(
        parameters: Sequence[torch.nn.Parameter],
        fixed: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> list[_Pass]:
        made = []
        for part in parts:
            state.restore()
            with fixed(), torch.set_grad_enabled(bool(parameters)):
                made.append(_pass(trial, model, part, parameters))
            if fixed is nullcontext and state.random.moved():
                return passes(parameters, FixedRandomness)
        return made

    try:
        return compared(*passes(chosen), tolerance=tolerance)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Outside of the handler: the traceback kept the tensors alive. Losses alone need less.
    release_memory()
    return compared(*passes([]), tolerance=tolerance)


@dataclass(frozen=True, eq=False)
class _Pass:
    loss: float
    gradients: tuple[torch.Tensor, ...]


def _pass(
    trial: Trial, model: torch.nn.Module, batch: Any, parameters: Sequence[torch.nn.Parameter]
) -> _Pass:
    with trial.policy.autocast():
        loss = trial.loss_sum(model, batch)
    if not parameters:
        return _Pass(float(loss), ())
    refuse_other_losses(loss)
    # Not `backward`: that would add to gradients, and run hooks that step an optimizer.
    found = torch.autograd.grad(loss.float(), parameters, allow_unused=True)
    gradients = (
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(parameters, found, strict=True)
    )
    dense = (each.to_dense() if each.is_sparse else each for each in gradients)
    return _Pass(float(loss.detach()), tuple(each.detach().float() for each in dense))


def compared(whole: _Pass, first: _Pass, second: _Pass, *, tolerance: float) -> Finding:
    """Say what the loss is, from passes over some rows and over their two halves."""
    losses = (whole.loss, first.loss, second.loss)
    figures = f"two halves give {first.loss:.4g} and {second.loss:.4g}, the whole {whole.loss:.4g}"
    if not all(map(math.isfinite, losses)):
        return Finding("unknown", f"the losses are not finite: {figures}")
    pairs = list(zip(whole.gradients, first.gradients, second.gradients, strict=True))

    def close(share: float | None) -> bool:
        """Compare with the sum of the parts; or with their mean, `share` of it the first's."""
        a, b = (1.0, 1.0) if share is None else (share, 1.0 - share)
        gap = abs(whole.loss - a * first.loss - b * second.loss)
        size = abs(first.loss) + abs(second.loss) + abs(whole.loss)
        far = _norm([g - a * g1 - b * g2 for g, g1, g2 in pairs])
        sizes = _norm(whole.gradients) + _norm(first.gradients) + _norm(second.gradients)
        return gap <= tolerance * size and far <= tolerance * sizes

    is_sum = close(None)
    # A share of exactly 0 or 1 is no mean: the whole is one of its parts, as of a maximum.
    share = _share(whole, first, second)
    is_mean = 1e-3 < share < 1 - 1e-3 and close(share)
    if is_sum and is_mean:
        return Finding("unknown", "the loss and its gradient are zero")
    if is_sum:
        return Finding("sum", figures)
    return Finding("mean" if is_mean else "coupled", figures)


def _share(whole: _Pass, first: _Pass, second: _Pass) -> float:
    """Return the weight of the first half, were the whole a mean of the two."""
    size = abs(first.loss) + abs(second.loss) or 1.0
    norm = _norm(first.gradients) + _norm(second.gradients) or 1.0
    along = (whole.loss - second.loss) * (first.loss - second.loss) / size**2
    apart = ((first.loss - second.loss) / size) ** 2
    for g, g1, g2 in zip(whole.gradients, first.gradients, second.gradients, strict=True):
        between = (g1 - g2) / norm
        along += float(((g - g2) / norm * between).sum(dtype=torch.float64))
        apart += float(between.square().sum(dtype=torch.float64))
    return 0.5 if apart < 1e-12 else along / apart


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    return math.sqrt(sum(float(each.double().square().sum()) for each in tensors))


def coupled_layer(model: torch.nn.Module) -> str | None:
    """Describe the first layer that computes statistics over the rows of a batch, if any.

    Example:
        >>> coupled_layer(torch.nn.Sequential(torch.nn.BatchNorm1d(3)))
        '0 is a BatchNorm1d'
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            return f"{name or 'the model'} is a {type(module).__name__}"
    return None


def _few_rows(batch: Any, split: Split) -> tuple[Any, Any, Any] | None:
    """Return a part of a batch, of a few rows, and its two halves.

    Halves of two rows or more where there are any: losses that drop dimensions of size one go
    wrong on single rows. A batch of one row is doubled: sums double with it, and means do not.
    """
    try:
        first, second = split(batch)
    except UpdateError:
        row = _only_row(batch)
        return None if row is None else (select_rows(row, [0, 0]), row, row)
    whole = batch
    while True:
        try:
            quarter, other = split(first)
            split(quarter)
        except UpdateError:
            return whole, first, second
        whole, first, second = first, quarter, other


def _only_row(batch: Any) -> Any | None:
    return batch if num_rows(batch) == 1 else None


def _compared(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Choose the parameters to compare: the smallest, which are found in every layer."""
    wanted = sorted((each for each in model.parameters() if each.requires_grad), key=_size)
    chosen: list[torch.nn.Parameter] = []
    total = 0
    for parameter in wanted:
        total += _size(parameter)
        if chosen and total > COMPARED:
            break
        chosen.append(parameter)
    return chosen


def _size(parameter: torch.Tensor) -> int:
    return parameter.numel()


def _rounds(model: torch.nn.Module, policy: Policy) -> bool:
    whole = {torch.float32, torch.float64}
    types = {each.dtype for each in model.parameters() if each.is_floating_point()}
    return policy.name != "fp32" or not types <= whole
