"""The end of an update: gradients are reduced and optimizers step, on every rank or on none."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Literal, cast

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

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
    powers = {"linear": 1.0, "sqrt": 0.5}
    if rule not in powers:
        raise LossError(f'rule={rule!r}: expected "linear" or "sqrt".')
    if not 0 < reference < math.inf:
        raise LossError(f"reference={reference!r}: expected a positive number of tokens.")
    return lambda weight: float((weight / reference) ** powers[rule])


def checked_clip(clip: Any) -> float | None:
    """Return the norm to clip to, as a number."""
    try:
        norm = None if clip is None else float(clip)
    except (TypeError, ValueError, RuntimeError):
        norm = math.nan
    if norm is None or norm > 0:
        return norm
    raise UpdateError(f"clip={clip!r}: expected a norm above 0; None does not clip.")


def stepping(
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
) -> list[torch.optim.Optimizer]:
    """Return the optimizers to step; of one that accelerate has prepared, the one inside."""
    single = hasattr(optimizer, "step")
    several: list[Any] = [optimizer] if single else list(optimizer)  # type: ignore[arg-type]
    return [_supported(each) for each in several]


def _supported(optimizer: Any) -> torch.optim.Optimizer:
    if type(optimizer).__module__.startswith("accelerate."):
        optimizer = _unwrapped(optimizer)
    if not callable(getattr(optimizer, "step", None)):
        raise UpdateError(f"got {optimizer!r}, expected an optimizer, or several of them.")
    kind: Any = type(optimizer)
    if _runs_the_model(kind):
        raise UpdateError(
            f"{kind.__name__} runs the model by itself, from a closure, which would bypass "
            "batches, ranks and precision. Use an optimizer whose step needs none."
        )
    return cast("torch.optim.Optimizer", optimizer)


def _unwrapped(wrapper: Any) -> Any:
    """Return the optimizer that accelerate has prepared."""
    if type(wrapper).__name__ != "AcceleratedOptimizer":
        raise UpdateError(
            f"a {type(wrapper).__name__} of accelerate steps by itself, and an update cannot. "
            "Prepare the model and the optimizer without it."
        )
    steps = wrapper.gradient_state.num_steps
    if steps > 1:
        raise UpdateError(
            f"an optimizer prepared by Accelerator(gradient_accumulation_steps={steps}) steps once "
            f"in {steps} updates. Leave that out: the planner's accumulate says how many batches "
            "an update has."
        )
    if wrapper.scaler is not None:
        raise UpdateError(
            'an optimizer prepared by Accelerator(mixed_precision="fp16") scales gradients by '
            'itself. Leave that out, and give the precision here: Precision("fp16").'
        )
    return wrapper.optimizer


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
        self._summed: list[torch.nn.Parameter] = []
        if ranks.kind == "copies":  # the parameters of the model and of its optimizers, each once
            optimized = (each for group in self._groups for each in group["params"])
            self._summed = [*dict.fromkeys(chain(ranks.model.parameters(), optimized))]
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
        """Reduce, unscale, clip and step."""
        problem = self._reduce()
        rates = [group["lr"] for group in self._groups]
        known = [len(optimizer.state) for optimizer in self._optimizers]
        scale = scaler.get_scale()
        parameters = [
            each for group in self._groups for each in group["params"] if each.grad is not None
        ]
        if len(self._optimizers) > 1:  # each once, though several have it
            parameters = [*dict.fromkeys(parameters)]
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
        for parameter in filter(_is_sparse, parameters):
            parameter.grad = cast("torch.Tensor", parameter.grad).coalesce()
        seen: set[torch.nn.Parameter] = set()
        for optimizer in self._optimizers:
            if scaler.is_enabled() and len(self._optimizers) > 1:
                own = {each for group in optimizer.param_groups for each in group["params"]}
                if not seen.isdisjoint(own):
                    raise UpdateError(
                        "a parameter belongs to several optimizers, and would be unscaled once for "
                        'each. Use Precision("bf16"), or leave the parameter to one optimizer.'
                    )
                seen |= own
            scaler.unscale_(optimizer)
        norm = get_total_norm([_values(each) for each in parameters])
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def _step(self, rates: Sequence[Any], factor: float) -> None:
        scaled = rates if factor == 1.0 else [rate * factor for rate in rates]
        self._set_rates(scaled)
        for optimizer in self._optimizers:
            try:
                optimizer.step()
            except (TypeError, AssertionError) as error:
                if "closure" not in str(error):
                    raise
                raise UpdateError(
                    f"{type(optimizer).__name__}.step() asks for a closure ({error}), to run the "
                    "model by itself. An update does not support that."
                ) from error
        if factor == 1.0:
            return
        for group, rate, given in zip(self._groups, rates, scaled, strict=True):
            if group["lr"] is given:
                group["lr"] = rate
            elif factor:  # the optimizer has changed it
                group["lr"] = group["lr"] / factor

    def _set_rates(self, rates: Sequence[Any]) -> None:
        for group, rate in zip(self._groups, rates, strict=True):
            group["lr"] = rate


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
    gradient = cast("torch.Tensor", parameter.grad)
    return gradient._values() if gradient.is_sparse else gradient  # noqa: SLF001
