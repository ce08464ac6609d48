"""Loss functions: what they may return, what they hold, and which of them are the same."""

import enum
import functools
import inspect
import types
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, TypeAlias, cast

import torch

from batchwright.errors import LossError
from batchwright.typing import Batch

LossSum: TypeAlias = Callable[[Any, Batch], torch.Tensor]
"""``(model, batch) → the sum of the loss``, a scalar."""


def refuse_other_functions(loss_sum: object) -> None:
    """Raise unless an object can be called as ``loss_sum(model, batch)``."""
    if not callable(loss_sum):
        given = "a loss" if isinstance(loss_sum, torch.Tensor) else repr(loss_sum)
        raise LossError(
            f"update.backward got {given}, expected a function and a batch: loss_sum(model, batch) "
            "→ the sum of the loss. Only then can the batch be split and run again."
        )
    try:
        inspect.signature(loss_sum).bind(None, None)
    except TypeError as error:
        raise LossError(
            f"loss_sum cannot be called as loss_sum(model, batch): {error}. A closure over the "
            "batch cannot be split; take model and batch as arguments."
        ) from error
    except ValueError:
        return  # a builtin without a signature: calling it will show


def refuse_other_losses(loss: object) -> None:
    """Raise unless a loss is one number with a gradient."""
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        shape = list(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise LossError(
            f"loss_sum returned {shape}, expected a tensor of one number: the loss summed over "
            'the batch (reduction="sum").'
        )
    if not loss.requires_grad:
        raise LossError("loss_sum returned a loss without a gradient. Is the model frozen?")


def modules_of(loss_sum: LossSum) -> list[torch.nn.Module]:
    """Return the modules that a loss function uses besides the model."""
    held: list[object] = []
    waiting: list[object] = [loss_sum]
    while waiting:
        value = waiting.pop()
        held.append(value)
        if isinstance(value, functools.partial):
            waiting += _held(value)
        elif isinstance(value, types.MethodType):
            waiting.append(value.__func__)
            held += _held(value)
        elif isinstance(value, types.FunctionType):
            known = value.__globals__
            held += [known[name] for name in value.__code__.co_names if name in known]
            held += _held(value)
        elif value is loss_sum and not isinstance(value, torch.nn.Module):
            held += _held(value)
    return [each for each in held if isinstance(each, torch.nn.Module)]


def identity(loss_sum: LossSum) -> tuple[Hashable, Hashable]:
    """Return what stays the same when a loop makes its loss function anew for every update."""
    function: Any = loss_sum
    while isinstance(function, functools.partial):
        function = function.func
    kind: Any = type(function)
    return getattr(function, "__code__", kind), _parts(loss_sum, 3)


def _held(value: object) -> list[object]:
    """Return what a callable holds: arguments, attributes, closed-over variables."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        owner = value.__self__
        return [value.__func__, *([owner] if isinstance(owner, torch.nn.Module) else _held(owner))]
    if not isinstance(value, types.FunctionType):
        return [*getattr(value, "__dict__", {}).values()]
    held = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    for cell in value.__closure__ or ():
        with suppress(ValueError):  # not assigned yet
            held.append(cell.cell_contents)
    return held


def _parts(value: object, depth: int) -> Hashable:
    """Return what distinguishes a value from others of its code or class."""
    kind: Hashable = cast("Hashable", type(value))
    if value is None or isinstance(
        value, str | bool | enum.Enum | type | types.CodeType | types.BuiltinFunctionType
    ):
        same: Hashable = value
        return same
    if not depth or isinstance(value, torch.Tensor):
        return kind
    held: list[object]
    if isinstance(value, tuple):
        held = [*value]
    elif isinstance(value, torch.nn.Module):
        settings = (each for name, each in vars(value).items() if name != "training")
        held = [kind, *(each for each in settings if isinstance(each, str | bool))]
        held += value.children()
    elif callable(value):
        held = [getattr(value, "__code__", kind), *_held(value)]
    else:
        return kind
    return tuple(_parts(each, depth - 1) for each in held)
