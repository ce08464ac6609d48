"""The optimizers that an update steps: unwrapped, or refused where a step would not be one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import torch

from batchwright.errors import UpdateError


def stepping(
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
) -> list[torch.optim.Optimizer]:
    """Return the optimizers to step.

    Args:
        optimizer: One, or several. Of one that accelerate has prepared, what is inside.

    Raises:
        UpdateError: If one steps only now and then, scales gradients by itself, or runs the model
            by itself (LBFGS, SAM).

    Example:
        >>> weights = [torch.nn.Parameter(torch.ones(2))]
        >>> stepping(torch.optim.LBFGS(weights))
        Traceback (most recent call last):
        batchwright.errors.UpdateError: LBFGS runs the model by itself, from a closure, ...
    """
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
            f"{type(optimizer).__name__} runs the model by itself, from a closure, and an update "
            "does not support that: it would go past batches, ranks and precision. Use an "
            "optimizer whose step needs none."
        )
    checked: torch.optim.Optimizer = optimizer
    return checked


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
            f"the optimizer was prepared by Accelerator(gradient_accumulation_steps={steps}), and "
            f"would step once in {steps} updates. Leave that out: an update accumulates by itself, "
            "and the planner's accumulate says how many batches."
        )
    if wrapper.scaler is not None:
        raise UpdateError(
            'the optimizer was prepared by Accelerator(mixed_precision="fp16"), which scales '
            'gradients by itself. Leave that out, and give the precision here: Precision("fp16").'
        )
    return wrapper.optimizer


@functools.cache
def _runs_the_model(kind: Any) -> bool:
    """Return whether `step` needs a closure, by its signature or as SAM's two steps show."""
    if hasattr(kind, "first_step") and hasattr(kind, "second_step"):
        return True
    try:
        parameters = inspect.signature(kind.step).parameters
    except (TypeError, ValueError):
        return False
    closure = parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
