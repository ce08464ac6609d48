"""What is known of the loss functions of a run, and what follows from it."""

from __future__ import annotations

import enum
import functools
import types
import warnings
from collections.abc import Hashable
from typing import Any, cast

import torch

from batchwright.errors import LossError, UpdateError
from batchwright.torch.update.loss_check import (
    Finding,
    Trial,
    check_loss,
    check_whole,
    coupled_layer,
    losses_add_up,
)
from batchwright.torch.update.loss_sums import LossSum, cells_of

__all__ = ["LossFindings", "Trial"]

_TRIES = 8
"""Batches on which a loss is tried until it is known what it is."""

_MOST = 32
"""How many loss functions are distinguished by what they hold; further ones are by their code."""


class LossFindings:
    """Tries each loss function on its first batch, and remembers what it is.

    Args:
        enabled: Whether to try. False: every loss is taken to be a sum over rows.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self._found: dict[Hashable, Finding] = {}
        self._tries: dict[Hashable, int] = {}

    def check(self, trial: Trial) -> None:
        """Refuse a loss that is a mean.

        Raises:
            LossError: If it is.
        """
        if not self.enabled:
            return
        key = self._key(trial.loss_sum)
        known = self._found.get(key)
        if known is not None and (known.kind != "unknown" or self._tries[key] >= _TRIES):
            return
        if known is None and losses_add_up(trial):
            self._found[key] = Finding("no mean")  # more is found out before a batch is split
            return
        found = self._try(trial)
        if found.kind == "mean":
            raise LossError(
                f"loss_sum looks like a mean: {found.detail} (of a few rows); sums would add up. "
                'Use reduction="sum", or pass check_loss=False to Precision if this is right.'
            )
        if found.error is not None and known is None and coupled_layer(trial.model) is None:
            warnings.warn(
                "it could not be checked that loss_sum is a sum over the rows of a batch: on a few "
                f"rows it raised {found.detail}. Training goes on. Pass check_loss=False to "
                "Precision if it is a sum.",
                stacklevel=4,
            )

    def refuse_to_split(self, trial: Trial, *, whole: bool = False) -> None:
        """Refuse to cut a batch whose loss is not known to be a sum over rows.

        Args:
            trial: The loss and the batch.
            whole: Whether to look at all rows too: a few may not show what couples them.

        Raises:
            UpdateError: Saying why.
        """
        layer = coupled_layer(trial.model)
        if layer is not None:
            raise UpdateError(
                f"the batch cannot be split: {layer} in training, whose statistics would change. "
                "Lower the budget, or replace it (GroupNorm, LayerNorm), or put it into eval()."
            )
        if not self.enabled:
            return
        found = self._found.get(self._key(trial.loss_sum))
        if found is None or found.kind in {"unknown", "no mean"}:
            found = self._try(trial)
        if whole and found.kind == "sum":
            seen = check_whole(trial)
            found = found if seen.kind == "unknown" else seen
            self._found[self._key(trial.loss_sum)] = found
        if found.kind == "unknown":
            raise UpdateError(
                "the batch cannot be split: it is not known whether loss_sum is a sum over rows "
                f"({found.detail}). Lower the budget, or pass check_loss=False to Precision if it "
                "is a sum."
            )
        if found.kind != "sum":
            raise UpdateError(
                "the batch cannot be split: loss_sum is no sum over rows, as what a row adds to it "
                f"depends on other rows ({found.detail}). Lower the budget."
            )

    def __getstate__(self) -> dict[str, object]:
        """Leave findings behind: functions are others in another process."""
        return {"enabled": self.enabled, "_found": {}, "_tries": {}}

    def _key(self, loss_sum: LossSum) -> Hashable:
        code, parts = identity(loss_sum)
        known = (code, parts) in self._found or len(self._found) < _MOST
        return (code, parts) if known else code

    def _try(self, trial: Trial) -> Finding:
        key = self._key(trial.loss_sum)
        self._tries[key] = self._tries.get(key, 0) + 1
        self._found[key] = check_loss(trial)
        return self._found[key]


def identity(loss_sum: LossSum) -> tuple[Hashable, Hashable]:
    """Return what stays the same when a loop makes its loss function anew for every update.

    Args:
        loss_sum: The loss.

    Returns:
        Its code; and what it holds that may make it another loss: functions, modules, words and
        flags among its arguments, attributes and closed-over variables. Numbers and tensors, which
        change from update to update, are no part of it.

    Example:
        >>> make = lambda scale, reduce: lambda model, batch: reduce(scale * model(batch))
        >>> identity(make(1.0, torch.sum)) == identity(make(2.0, torch.sum))
        True
        >>> identity(make(1.0, torch.sum)) == identity(make(1.0, torch.mean))
        False
    """
    function: Any = loss_sum
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    kind: Any = type(function)
    return getattr(function, "__code__", kind), _parts(loss_sum, 3)


def _parts(value: Any, depth: int) -> Hashable:
    """Return what tells something from others of its code or class."""
    kind: Hashable = cast("Hashable", type(value))
    plain: Hashable = value
    if value is None or isinstance(value, str | bool | enum.Enum | type | types.CodeType):
        return plain
    if not depth or isinstance(value, torch.Tensor):
        return kind
    held: list[Any]
    if isinstance(value, functools.partial):
        held = [value.func, *value.args, *value.keywords.items()]
    elif isinstance(value, types.MethodType):
        owner = value.__self__
        owned = getattr(owner, "__dict__", {}).values()
        held = [value.__func__, *([owner] if isinstance(owner, torch.nn.Module) else owned)]
    elif isinstance(value, types.FunctionType):
        held = [value.__code__, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).items()]
        held += cells_of(value)
    elif isinstance(value, tuple):
        held = [*value]
    elif isinstance(value, types.BuiltinFunctionType):
        return plain
    elif isinstance(value, torch.nn.Module):
        flags = (each for name, each in vars(value).items() if name != "training")
        held = [kind, *(each for each in flags if isinstance(each, str | bool))]
        held += value.children()
    elif callable(value):
        held = [kind, *getattr(value, "__dict__", {}).values()]
    else:
        return kind
    return tuple(_parts(each, depth - 1) for each in held)
