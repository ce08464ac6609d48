"""Loss functions, and what they return."""

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import torch

from batchwright.errors import LossError

LossSum: TypeAlias = Callable[[Any, Any], torch.Tensor]
"""``(model, batch) → the sum of the loss``, a scalar."""


def refuse_other_functions(loss_sum: object) -> None:
    """Raise unless something can be called as ``loss_sum(model, batch)``.

    Raises:
        LossError: Saying what it is instead.

    Example:
        >>> refuse_other_functions(lambda: 0)
        Traceback (most recent call last):
        batchwright.errors.LossError: loss_sum cannot be called as loss_sum(model, batch): \
too many positional arguments. A closure over the batch cannot be split; take model and batch as \
arguments.
    """
    if isinstance(loss_sum, torch.Tensor):
        raise LossError(
            "update.backward got a loss, expected a function and a batch: "
            "update.backward(loss_sum, batch), with loss_sum(model, batch) → the sum of the loss. "
            "Only then can the batch be split and done again."
        )
    if not callable(loss_sum):
        raise LossError(f"update.backward got {loss_sum!r}, expected loss_sum(model, batch).")
    try:
        inspect.signature(loss_sum).bind(None, None)
    except TypeError as error:
        raise LossError(
            f"loss_sum cannot be called as loss_sum(model, batch): {error}. A closure over the "
            "batch cannot be split; take model and batch as arguments."
        ) from error
    except ValueError:
        return  # a builtin without a signature: calling it will tell


def refuse_other_losses(loss: object) -> None:
    """Raise unless a loss is one number that gradients can flow from.

    Raises:
        LossError: Saying what it is instead.
    """
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        shape = list(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise LossError(
            f"loss_sum returned {shape}, expected a tensor of one number: the loss summed over "
            'the batch (reduction="sum").'
        )
    if not loss.requires_grad:
        raise LossError("loss_sum returned a loss without a gradient. Is the model frozen?")


def cells_of(function: types.FunctionType) -> list[Any]:
    """Return the variables that a function closes over."""
    found = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # not assigned yet
            found.append(cell.cell_contents)
    return found


def modules_of(loss_sum: LossSum) -> list[torch.nn.Module]:
    """Return the modules that a loss function holds, besides the model that it is called with.

    Example:
        >>> criterion = torch.nn.MSELoss(reduction="sum")
        >>> modules_of(lambda model, batch: criterion(model(batch), batch))
        [MSELoss()]
    """
    held: list[Any] = []
    waiting: list[Any] = [loss_sum]
    while waiting:
        value = waiting.pop()
        held.append(value)
        if isinstance(value, functools.partial):
            waiting += [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, types.MethodType):
            held += [value.__self__, *getattr(value.__self__, "__dict__", {}).values()]
            waiting.append(value.__func__)
        elif isinstance(value, types.FunctionType):
            known = value.__globals__
            held += [known[name] for name in value.__code__.co_names if name in known]
            held += [*cells_of(value), *(value.__defaults__ or ())]
        elif value is loss_sum and not isinstance(value, torch.nn.Module):
            held += getattr(value, "__dict__", {}).values()
    return [each for each in held if isinstance(each, torch.nn.Module)]


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while, module by module as it was before."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
