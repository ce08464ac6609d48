"""How a loss was reduced and scaled, read from the graph that leads to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_MOST = 24  # nodes from the root to the loss
_MEAN, _SUM = 1, 2  # how torch writes reductions
_REDUCTIONS = {_MEAN: "mean", _SUM: "sum"}
_LOSSES = (
    "NllLossBackward",
    "NllLoss2DBackward",
    "BinaryCrossEntropyBackward",
    "BinaryCrossEntropyWithLogitsBackward",
    "MseLossBackward",
    "L1LossBackward",
    "SmoothL1LossBackward",
    "HuberLossBackward",
    "KlDivBackward",
)
_NEUTRAL = (
    "ToCopyBackward",
    "CloneBackward",
    "AliasBackward",
    "ViewBackward",
    "UnsafeViewBackward",
    "SqueezeBackward",
    "UnsqueezeBackward",
    "ReshapeAliasBackward",
    "SelectBackward",
)


@dataclass(frozen=True)
class LossFacts:
    """What the graph says of a loss."""

    reduction: str | None = None  # "mean" or "sum"
    factor: float | None = None  # by which it was multiplied on the way to the root
    counted: Any = None  # targets that it counts: a number, or a tensor that holds one


def facts_of(root: Any) -> LossFacts:
    """Follow the graph from what `backward` is called on to the loss.

    Products and quotients with numbers are followed, and what changes no value; where losses are
    added or the graph is compiled, nothing is known.
    """
    node, factor = root.grad_fn, 1.0
    for _ in range(_MOST):
        name = type(node).__name__.rstrip("0123456789")
        if name in _LOSSES:
            reduction = _REDUCTIONS.get(node._saved_reduction)  # noqa: SLF001 -- torch's own name
            return LossFacts(reduction, factor if reduction else None, _counted(node, name))
        if name in {"MeanBackward", "SumBackward"}:
            reduction = "mean" if name == "MeanBackward" else "sum"
            sizes = getattr(node, "_saved_self_sym_sizes", None)
            inner = [each for each, _ in node.next_functions if each is not None]
            if len(inner) == 1 and type(inner[0]).__name__.rstrip("0123456789") in _LOSSES:
                below = inner[0]
                if getattr(below, "_saved_reduction", 0):  # of a loss that is one number already
                    node = below
                    continue
            count = _product(sizes) if reduction == "mean" and sizes is not None else None
            return LossFacts(reduction, factor, count)
        if name in {"MulBackward", "DivBackward"}:
            by = _number(node, name)
            if by is None:
                return LossFacts()
            factor = factor * by if name == "MulBackward" else factor / by
        elif name not in _NEUTRAL:
            return LossFacts()
        ways = [each for each, _ in node.next_functions if each is not None]
        if len(ways) != 1:
            return LossFacts()
        node = ways[0]
    return LossFacts()


def _number(node: Any, name: str) -> float | None:
    """Return by what a product or a quotient multiplies or divides; None if that is no number."""
    for each in ("_saved_other", "_saved_self") if name == "MulBackward" else ("_saved_other",):
        value = getattr(node, each, None)
        if value is None:
            continue
        if hasattr(value, "numel"):
            if value.numel() != 1 or value.requires_grad:
                continue
            value = value.item()
        if value:
            return float(value)
    return None


def _counted(node: Any, name: str) -> Any:
    """Return the targets that a loss counts."""
    target = getattr(node, "_saved_target", None)
    if name.startswith("NllLoss") and target is not None:
        return (target != node._saved_ignore_index).sum()  # noqa: SLF001 -- torch's own name
    return None if target is None else target.numel()


def _product(sizes: Any) -> int:
    count = 1
    for each in sizes:
        count *= int(each)
    return count
