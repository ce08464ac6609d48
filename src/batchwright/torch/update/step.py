"""The end of an update: gradients are reduced, and optimizers step, on every rank or on none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from batchwright.errors import UpdateError
from batchwright.torch.update.ranks import Ranks, parameters_of
from batchwright.torch.update.reduction import Reduction


def checked_clip(clip: Any) -> float | None:
    """Return the norm to clip to, as a number.

    Raises:
        UpdateError: If it is none above 0: others would stop training, or turn it around.
    """
    try:
        norm = None if clip is None else float(clip)
    except (TypeError, ValueError, RuntimeError):
        norm = math.nan
    if norm is None or norm > 0:
        return norm
    raise UpdateError(f"clip={clip!r}: expected a norm above 0; None does not clip.")


class Step:
    """Reduces gradients and steps, so that ranks stay equal whatever fails on one of them.

    Ranks agree three times: before gradients are reduced, once there is memory to do so, and
    after the optimizers have stepped. A rank that failed raises its own error, the others say so.

    Args:
        ranks: The ranks that train the model.
        optimizers: What steps, all together.
    """

    def __init__(self, ranks: Ranks, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._ranks = ranks
        self._optimizers = optimizers
        self._parameters = parameters_of(ranks.model, optimizers) if ranks.kind == "copies" else []
        self._held: list[float] = []

    def agree(self, numbers: Sequence[float], problem: BaseException | None) -> list[float]:
        """Sum some numbers over all ranks, and learn which gradients there are.

        Args:
            numbers: Of this rank.
            problem: Why this rank cannot step.

        Returns:
            The sums.

        Raises:
            UpdateError: On a rank without a problem, if others have one.
        """
        own = Reduction.held(self._parameters)
        failed, *sums = self._ranks.summed([problem is not None, *numbers, *own])
        if failed and problem is None:
            raise self._ranks.without(failed)
        self._held = sums[len(numbers) :]
        return sums[: len(numbers)]

    def __call__(
        self,
        scaler: torch.amp.GradScaler | None,
        *,
        finite: bool,
        clip: float | None,
        learning_rate_factor: float,
    ) -> tuple[float, bool]:
        """Reduce, unscale, clip and step.

        Args:
            scaler: What gradients are scaled by. None: they are not.
            finite: Whether the loss is.
            clip: Largest norm of the gradient.
            learning_rate_factor: What learning rates are multiplied by, in this step alone.

        Returns:
            The norm of the gradient before clipping, and whether the optimizers have stepped.

        Raises:
            UpdateError: If another rank failed. This rank's own errors come as they are.
        """
        problem = self._reduce()
        rates = [group["lr"] for group in self._groups]
        known = [len(optimizer.state) for optimizer in self._optimizers]
        scale = None if scaler is None else scaler.get_scale()
        parameters = self._with_gradients()
        norm, applied = math.nan, False
        try:
            if problem is None:
                norm = self._norm(parameters, scaler)
                applied = finite and math.isfinite(norm)
            if applied:
                _clip(parameters, clip, norm)
                self._step(learning_rate_factor)
        except BaseException as error:  # noqa: BLE001 (raised again, once the other ranks know)
            problem = error
            for group, rate in zip(self._groups, rates, strict=True):
                group["lr"] = rate
        failures = [bool(failed) for (failed,) in self._ranks.gathered([problem is not None])]
        if any(failures):
            if scaler is not None:  # what was unscaled may be unscaled again
                scaler.update(scale)
            if problem is not None:
                self._forget_new_states(known)
            self._ranks.take_over(failures, self._parameters, self._optimizers)
            raise problem or self._ranks.without(sum(failures))
        if scaler is not None and parameters:  # without any it has seen none
            scaler.update()
        return norm, applied

    def _reduce(self) -> BaseException | None:
        """Sum gradients over copies; return what went wrong on this rank once all was sent."""
        if self._ranks.kind != "copies":
            return None
        problem: BaseException | None = None
        reduction = None
        try:
            reduction = Reduction.prepared(
                self._parameters, self._held, self._ranks.shared_buffers()
            )
        except BaseException as error:  # noqa: BLE001 (raised again, once the other ranks know)
            problem = error
        (failed,) = self._ranks.summed([problem is not None])
        if problem is not None:
            raise problem
        if failed or reduction is None:
            raise self._ranks.without(failed)
        return reduction.run(self._ranks)

    def _norm(
        self, parameters: Sequence[torch.nn.Parameter], scaler: torch.amp.GradScaler | None
    ) -> float:
        for parameter in filter(_is_sparse, parameters):
            assert parameter.grad is not None  # noqa: S101 (it is sparse)
            parameter.grad = parameter.grad.coalesce()
        if scaler is not None:
            self._refuse_shared_parameters()
            for optimizer in self._optimizers:
                scaler.unscale_(optimizer)
        norm = get_total_norm([_values(each) for each in parameters])
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        return float(norm)

    def _step(self, factor: float) -> None:
        rates = [group["lr"] for group in self._groups]
        scaled = [rate if factor == 1.0 else rate * factor for rate in rates]
        for group, rate in zip(self._groups, scaled, strict=True):
            group["lr"] = rate
        for optimizer in self._optimizers:
            try:
                optimizer.step()
            except (TypeError, AssertionError) as error:
                if "closure" not in str(error):
                    raise
                raise UpdateError(
                    f"{type(optimizer).__name__}.step() asks for a closure ({error}): such "
                    "optimizers run the model by themselves, and an update does not support them."
                ) from error
        if factor == 1.0:
            return
        for group, rate, given in zip(self._groups, rates, scaled, strict=True):
            if group["lr"] is given:
                group["lr"] = rate
            elif factor:  # the optimizer has changed it
                group["lr"] = group["lr"] / factor

    def _refuse_shared_parameters(self) -> None:
        """Raise if a gradient would be unscaled once for each of several optimizers."""
        seen: set[torch.nn.Parameter] = set()
        for optimizer in self._optimizers:
            own = {each for group in optimizer.param_groups for each in group["params"]}
            if not seen.isdisjoint(own):
                raise UpdateError(
                    "a parameter belongs to several optimizers, and the gradient scaler would "
                    'divide its gradient by the scale for each. Use Precision("bf16"), or leave '
                    "the parameter to one optimizer."
                )
            seen |= own

    def _forget_new_states(self, known: Sequence[int]) -> None:
        """Drop states that a step has begun to make: half of one is an error in the next step."""
        for optimizer, count in zip(self._optimizers, known, strict=True):
            for parameter in [*optimizer.state][count:]:
                del optimizer.state[parameter]

    def _with_gradients(self) -> list[torch.nn.Parameter]:
        parameters = [
            each for group in self._groups for each in group["params"] if each.grad is not None
        ]
        # Each once, though several optimizers have it.
        return parameters if len(self._optimizers) == 1 else [*dict.fromkeys(parameters)]

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]


def _clip(parameters: Sequence[torch.nn.Parameter], clip: float | None, norm: float) -> None:
    if clip is None or norm <= clip:
        return
    dense = [each for each in parameters if not _is_sparse(each)]
    clip_grads_with_norm_(dense, clip, torch.tensor(norm))
    for parameter in filter(_is_sparse, parameters):
        _values(parameter).mul_(clip / (norm + 1e-6))


def _is_sparse(parameter: torch.nn.Parameter) -> bool:
    return parameter.grad is not None and parameter.grad.is_sparse


def _values(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return the gradient of a parameter; of a sparse one, the values that there are."""
    gradient = parameter.grad
    assert gradient is not None  # noqa: S101 (only those with gradients are asked)
    return gradient._values() if gradient.is_sparse else gradient  # noqa: SLF001
