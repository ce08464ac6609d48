"""Compares the gradient of one update with the one in which all targets have the same weight."""

from __future__ import annotations

from typing import Any

from .losses import LossFacts

_UPDATE = 3  # the update that is looked at, or the next with several backward passes
_LAST = 40
_MOST = 32_000_000  # parameters of a model: gradients of larger ones are not copied


class Replay:
    """Copies the gradient after each backward pass of an update, and reweights the parts.

    Nothing is computed again: the copies show what each pass has added to the gradient.
    """

    def __init__(self) -> None:
        self._parameters: list[Any] | None = None
        self._parts: list[list[Any]] = []
        self._weights: list[tuple[float, int]] = []
        self._is_known = False
        self._is_done = False

    def begin(self, update: int, optimizer: Any, *, is_stale: bool | None) -> None:
        """Begin to look, before the first backward pass of an update."""
        self._parameters = None
        if self._is_done or not _UPDATE <= update <= _LAST or is_stale is not False:
            return
        parameters = [
            each
            for group in getattr(optimizer, "param_groups", ())
            for each in group["params"]
            if each.requires_grad and each.is_leaf
        ]
        if 0 < sum(each.numel() for each in parameters) <= _MOST:
            self._parameters, self._parts, self._weights = parameters, [], []
            self._is_known = True

    def expect(self, facts: LossFacts) -> None:
        """Note the weight of a target in the next backward pass."""
        if self._parameters is None:
            return
        counted = None if facts.counted is None else int(facts.counted)
        if facts.factor is None or not counted or facts.part is not None:
            self._is_known = False
        elif facts.reduction == "mean":
            self._weights.append((facts.factor / counted, counted))
        else:
            self._weights.append((facts.factor, counted))

    def add(self) -> None:
        """Copy the gradient, after a backward pass."""
        if self._parameters is not None and self._is_known:
            self._parts.append(
                [None if each.grad is None else each.grad.clone() for each in self._parameters]
            )

    def end(self) -> float | None:
        """Return the relative error of the gradient; None if it was not looked at."""
        parts, weights, is_known = self._parts, self._weights, self._is_known
        watched, self._parameters, self._parts = self._parameters, None, []
        if watched is None or not is_known or len(parts) < 2 or len(parts) != len(weights):
            return None
        self._is_done = True
        total = sum(weight * count for weight, count in weights)
        even = total / sum(count for _, count in weights)
        wrong = right = 0.0
        for place in range(len(watched)):
            if any(part[place] is None or part[place].is_sparse for part in parts):
                continue
            before: Any = None
            mended: Any = None
            for part, (weight, _) in zip(parts, weights, strict=True):
                own = part[place] if before is None else part[place] - before
                own = own * (even / weight)
                mended = own if mended is None else mended + own
                before = part[place]
            wrong += float(((before - mended) ** 2).sum())
            right += float((mended**2).sum())
        return (wrong / right) ** 0.5 if right else None
