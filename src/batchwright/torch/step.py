"""The end of an update: gradients are reduced, and optimizers step, on every rank or on none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from batchwright.errors import UpdateError
from batchwright.torch.ranks import Ranks, parameters_of
from batchwright.torch.reduction import Reduction


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
        known = [set(optimizer.state) for optimizer in self._optimizers]
        scale = None if scaler is None else scaler.get_scale()
        norm, applied = math.nan, False
        try:
            if problem is None:
                norm = self._norm(scaler)
                applied = finite and math.isfinite(norm)
            if applied:
                self._clip(clip, norm)
                self._step(learning_rate_factor)
        except BaseException as error:  # noqa: BLE001 (raised again, once the other ranks know)
            problem = error
        finally:
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
        if scaler is not None:
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

    def _norm(self, scaler: torch.amp.GradScaler | None) -> float:
        for parameter in self._with_gradients():
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
        if scaler is not None:
            for optimizer in self._optimizers:
                scaler.unscale_(optimizer)
        norm = get_total_norm([_values(each) for each in self._with_gradients()])
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        return float(norm)

    def _clip(self, clip: float | None, norm: float) -> None:
        if clip is None or norm <= clip:
            return
        parameters = self._with_gradients()
        dense = [each for each in parameters if not _is_sparse(each)]
        clip_grads_with_norm_(dense, clip, torch.tensor(norm))
        for parameter in parameters:
            if _is_sparse(parameter):
                _values(parameter).mul_(clip / (norm + 1e-6))

    def _step(self, factor: float) -> None:
        if factor != 1.0:
            for group in self._groups:
                group["lr"] = group["lr"] * factor
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

    def _forget_new_states(self, known: Sequence[set[torch.Tensor]]) -> None:
        """Drop states that a step has begun to make: half of one is an error in the next step."""
        for optimizer, parameters in zip(self._optimizers, known, strict=True):
            for parameter in [each for each in optimizer.state if each not in parameters]:
                del optimizer.state[parameter]

    def _with_gradients(self) -> list[torch.nn.Parameter]:
        return [
            parameter
            for group in self._groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]


def _is_sparse(parameter: torch.nn.Parameter) -> bool:
    return parameter.grad is not None and parameter.grad.is_sparse


def _values(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return the gradient of a parameter; of a sparse one, the values that there are."""
    gradient = parameter.grad
    assert gradient is not None  # noqa: S101 (only those with gradients are asked)
    return gradient._values() if gradient.is_sparse else gradient  # noqa: SLF001
