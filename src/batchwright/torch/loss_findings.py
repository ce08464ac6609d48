"""What is known of the loss functions of a run, and what follows from it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Hashable

from batchwright.errors import LossError, UpdateError
from batchwright.torch.loss_check import Finding, Trial, check_loss, coupled_layer
from batchwright.torch.loss_sums import LossSum

__all__ = ["LossFindings", "Trial"]

_TRIES = 8
"""Batches on which a loss is tried until it is known what it is."""


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
        key = identity(trial.loss_sum)
        known = self._found.get(key)
        if known is not None and (known.kind != "unknown" or self._tries[key] >= _TRIES):
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

    def refuse_to_split(self, trial: Trial) -> None:
        """Refuse to cut a batch whose loss is not known to be a sum over rows.

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
        found = self._found.get(identity(trial.loss_sum))
        if found is None or found.kind == "unknown":
            found = self._try(trial)
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

    def _try(self, trial: Trial) -> Finding:
        key = identity(trial.loss_sum)
        self._tries[key] = self._tries.get(key, 0) + 1
        self._found[key] = check_loss(trial)
        return self._found[key]


def identity(loss_sum: LossSum) -> Hashable:
    """Return what stays the same when a loop makes its loss function anew for every update.

    Example:
        >>> make = lambda scale: lambda model, batch: scale * model(batch).sum()
        >>> identity(make(1.0)) == identity(make(2.0))
        True
    """
    while isinstance(loss_sum, functools.partial):
        loss_sum = loss_sum.func
    function = getattr(loss_sum, "__func__", loss_sum)
    code: Hashable = getattr(function, "__code__", None)
    return type(loss_sum).__qualname__ if code is None else code
