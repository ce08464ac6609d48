"""Losses that are sums: checked by what sums do and means do not."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch

from batchwright.errors import LossError, UpdateError
from batchwright.torch.policy import Policy
from batchwright.torch.rows import Split

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


def refuse_means(
    loss_sum: LossSum, model: torch.nn.Module, batch: Any, *, split: Split, policy: Policy
) -> None:
    """Raise if a loss behaves like a mean over the batch.

    The sums of two halves add up to the sum of the whole; their means add up to about twice the
    mean. Two passes without gradients, in evaluation mode; batches of one row are let through.

    Args:
        loss_sum: The loss.
        model: The model, left as it was.
        batch: A batch.
        split: Cuts it in two.
        policy: The precision.

    Raises:
        LossError: If the halves add up to about twice the whole.
    """
    try:
        first, second = split(batch)
    except UpdateError:
        return
    with evaluating(model), torch.no_grad(), policy.autocast():
        whole, *parts = (float(loss_sum(model, each)) for each in (batch, first, second))
    ratio = sum(parts) / whole if whole else 1.0
    if 1.5 < ratio < 3.0:
        raise LossError(
            f"loss_sum looks like a mean: two halves of a batch give {parts[0]:.4g} and "
            f'{parts[1]:.4g}, the whole {whole:.4g}; sums would add up. Use reduction="sum", or '
            "pass check_loss=False to Precision if this is right."
        )


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
