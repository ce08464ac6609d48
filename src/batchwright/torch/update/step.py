"""The end of an update: gradients are reduced and optimizers step, on every rank or on none."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Literal, cast

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from batchwright._checks import check_choice
from batchwright.errors import LossError, UpdateError
from batchwright.torch.update.ranks import Ranks, Reduction


def scaled_by_weight(
    reference: float, rule: Literal["linear", "sqrt"] = "sqrt"
) -> Callable[[float], float]:
    """Make a factor on the learning rate for updates of different weights.

    Pass it as `learning_rate` of `Precision.update`: it applies to that step alone, under any
    scheduler. A constant number of tokens an update, as plans give, needs none.

    Args:
        reference: The weight that the learning rate was tuned for: tokens, samples.
        rule: ``"linear"`` in the weight, as fits SGD (Goyal et al., 2017, arXiv 1706.02677); or
            its square root, as fits Adam (Malladi et al., 2022, arXiv 2205.10287).

    Returns:
        ``weight → factor``, 1 at the reference.

    Raises:
        LossError: If the reference is not positive, or there is no such rule.

    Example:
        >>> scaled_by_weight(1000, "linear")(500), scaled_by_weight(1000)(4000)
        (0.5, 2.0)
    """
    check_choice("scaled_by_weight", "rule", rule, ("linear", "sqrt"), LossError)
    if not 0 < reference < math.inf:
        raise LossError(f"reference={reference!r}: expected a positive number of tokens.")
    power = 1.0 if rule == "linear" else 0.5
    return lambda weight: float((weight / reference) ** power)


def stepping(
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
) -> list[torch.optim.Optimizer]:
    """Return the optimizers to step; of one that accelerate has prepared, the one inside."""
    several = [optimizer] if hasattr(optimizer, "step") else [*optimizer]
    several = [_inside(each) for each in several]
    for each in several:
        if not callable(getattr(each, "step", None)):
            raise UpdateError(f"got {each!r}, expected an optimizer, or several of them.")
        kind: Any = type(each)
        if _runs_the_model(kind):
            raise UpdateError(
                f"{kind.__name__} runs the model by itself, from a closure, which would "
                "bypass batches, ranks and precision. Use an optimizer whose step needs none."
            )
    return several


def _inside(optimizer: Any) -> torch.optim.Optimizer:
    """Return the optimizer inside one that accelerate has prepared; any other as it is."""
    kind = type(optimizer)
    if not kind.__module__.startswith("accelerate."):
        return cast("torch.optim.Optimizer", optimizer)
    reason = None
    if kind.__name__ != "AcceleratedOptimizer":
        reason = f"a {kind.__name__} of accelerate steps by itself: prepare model and optimizer"
    elif (steps := optimizer.gradient_state.num_steps) > 1:
        reason = f"Accelerator(gradient_accumulation_steps={steps}) leaves out steps: prepare it"
    elif optimizer.scaler is not None:
        reason = 'Accelerator(mixed_precision="fp16") scales gradients by itself: prepare it'
    if reason is not None:
        raise UpdateError(
            f"{reason} without. The planner's accumulate says how many batches an update has, and "
            'Precision("fp16") scales.'
        )
    return cast("torch.optim.Optimizer", optimizer.optimizer)


@functools.cache
def _runs_the_model(kind: Any) -> bool:
    """Return whether `step` needs a closure, by its signature or as SAM's two steps show."""
    if hasattr(kind, "first_step") and hasattr(kind, "second_step"):
        return True
    try:
        closure = inspect.signature(kind.step).parameters.get("closure")
    except (TypeError, ValueError):
        return False
    return closure is not None and closure.default is inspect.Parameter.empty


class Step:
    """Reduces gradients and steps, so that ranks stay equal whatever fails on one of them.

    Ranks agree three times: before gradients are reduced, once there is memory for that, and
    after the optimizers have stepped. A rank that failed raises its own error, the others say so.
    """

    def __init__(self, ranks: Ranks, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._ranks = ranks
        self._optimizers = optimizers
        self._groups = [group for each in optimizers for group in each.param_groups]
        self._optimized = list(
            dict.fromkeys(each for group in self._groups for each in group["params"])
        )
        self._summed: list[torch.nn.Parameter] = []
        if ranks.kind == "copies":  # the parameters of the model and of its optimizers, each once
            self._summed = [*dict.fromkeys(chain(ranks.model.parameters(), self._optimized))]
        self._held: list[float] = []

    def agree(self, numbers: Sequence[float], problem: BaseException | None) -> list[float]:
        """Sum numbers over all ranks, and find out which gradients there are."""
        gradients = [parameter.grad for parameter in self._summed]
        own = [each is not None for each in gradients]
        own += [each is not None and each.is_sparse for each in gradients]
        failed, *sums = self._ranks.summed([problem is not None, *numbers, *own])
        if failed and problem is None:
            raise self._ranks.without(failed)
        self._held = sums[len(numbers) :]
        return sums[: len(numbers)]

    def __call__(
        self,
        scaler: torch.amp.GradScaler,
        *,
        finite: bool,
        clip: float | None,
        learning_rate_factor: float,
    ) -> tuple[float, bool]:
        """Reduce, unscale, clip and step; return the norm, and whether the optimizers stepped."""
        problem = self._reduce()
        rates = [group["lr"] for group in self._groups]
        known = [len(optimizer.state) for optimizer in self._optimizers]
        scale = scaler.get_scale()
        parameters = [each for each in self._optimized if each.grad is not None]
        norm, applied = math.nan, False
        try:
            if problem is None:
                norm = self._norm(parameters, scaler)
                applied = finite and math.isfinite(norm)
            if applied:
                _clip(parameters, clip, norm)
                self._step(rates, learning_rate_factor)
        except BaseException as error:  # noqa: BLE001 (raised again, once the other ranks know)
            problem = error
            self._set_rates(rates)
        failures = [bool(failed) for (failed,) in self._ranks.gathered([problem is not None])]
        if any(failures):
            scaler.update(scale)  # what was unscaled may be unscaled again
            for optimizer, count in zip(self._optimizers, known, strict=True):
                # Half of a state that a failed step has begun to make would break the next one.
                for parameter in [*optimizer.state][count:] if problem is not None else ():
                    del optimizer.state[parameter]
            self._ranks.take_over(failures, self._summed, self._optimizers)
            raise problem or self._ranks.without(sum(failures))
        if parameters:  # without any the scaler has seen none
            scaler.update()
        return norm, applied

    def _reduce(self) -> BaseException | None:
        """Sum gradients over copies; return what went wrong on this rank once all was sent."""
        if self._ranks.kind != "copies":
            return None
        problem: BaseException | None = None
        reduction = None
        try:
            reduction = Reduction(self._ranks, self._summed, self._held)
        except BaseException as error:  # noqa: BLE001 (raised again, once the other ranks know)
            problem = error
        (failed,) = self._ranks.summed([problem is not None])
        if problem is not None:
            raise problem
        if failed or reduction is None:
            raise self._ranks.without(failed)
        return reduction.run()

    def _norm(
        self, parameters: Sequence[torch.nn.Parameter], scaler: torch.amp.GradScaler
    ) -> float:
        for parameter in parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
        total = sum(len(group["params"]) for group in self._groups)
        if scaler.is_enabled() and total > len(self._optimized):
            raise UpdateError(
                "a parameter belongs to several optimizers, and would be unscaled once for each. "
                'Use Precision("bf16"), or leave the parameter to one optimizer.'
            )
        for optimizer in self._optimizers:
            scaler.unscale_(optimizer)
        norm = get_total_norm([_values(each) for each in parameters])
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def _step(self, rates: Sequence[float | torch.Tensor], factor: float) -> None:
        scaled = rates if factor == 1.0 else [rate * factor for rate in rates]
        self._set_rates(scaled)
        for optimizer in self._optimizers:
            optimizer.step()
        if factor == 1.0:
            return
        for group, rate, given in zip(self._groups, rates, scaled, strict=True):
            if group["lr"] is given:
                group["lr"] = rate
            elif factor:  # the optimizer has changed it
                group["lr"] = group["lr"] / factor

    def _set_rates(self, rates: Sequence[float | torch.Tensor]) -> None:
        for group, rate in zip(self._groups, rates, strict=True):
            group["lr"] = rate


def _clip(parameters: Sequence[torch.nn.Parameter], clip: float | None, norm: float) -> None:
    if clip is None or norm <= clip:
        return
    sparse = [each for each in parameters if each.grad is not None and each.grad.is_sparse]
    dense = [each for each in parameters if each.grad is not None and not each.grad.is_sparse]
    clip_grads_with_norm_(dense, clip, torch.tensor(norm))
    for parameter in sparse:
        _values(parameter).mul_(clip / (norm + 1e-6))


def _values(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return the gradient of a parameter; of a sparse one, the values that there are."""
    gradient = cast("torch.Tensor", parameter.grad)
    return gradient._values() if gradient.is_sparse else gradient  # noqa: SLF001 -- torch has no public way
