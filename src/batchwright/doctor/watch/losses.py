"""How a loss was reduced and scaled, read from its autograd graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

_MOST = 24  # nodes from the root to the loss
_SUMS = 6  # within one another
_REDUCED = {"MeanBackward": "mean", "SumBackward": "sum"}
_ADDED = {"AddBackward": 1.0, "SubBackward": -1.0}  # with the sign of what comes second
_MASKING = ("WhereBackward", "MaskedFillBackward")
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
_NEUTRAL = {
    "ToCopyBackward",
    "CloneBackward",
    "AliasBackward",
    "ViewBackward",
    "UnsafeViewBackward",
    "SqueezeBackward",
    "UnsqueezeBackward",
    "ReshapeAliasBackward",
    "SelectBackward",
}


@dataclass(frozen=True)
class LossFacts:
    """What the graph says about a loss."""

    reduction: str | None = None  # "mean" or "sum"
    factor: float | None = None  # that it was multiplied by on the way to the root
    counted: Any = None  # targets that it counts: a number, or a tensor with one element
    part: float | None = None  # its factor within a sum of losses. None: not in a sum
    is_named: bool = False  # whether it is a loss of torch, and not any mean or sum


def facts_of(root: Any) -> LossFacts:
    """Follow the graph from what `backward` is called on to the loss.

    It follows products and quotients with numbers, and operations that do not change values. In a
    sum, the only loss of torch is the loss; if there are several, or the graph is compiled, nothing
    is known.
    """
    return _followed(root.grad_fn, 1.0, _SUMS)


def _followed(node: Any, factor: float, sums: int) -> LossFacts:
    """Follow the graph from a node on, through at most `sums` nested sums."""
    for _ in range(_MOST):
        name = _name_of(node)
        if name in _LOSSES:
            return _named(node, name, factor)
        ways = [
            (each, place) for place, (each, _) in enumerate(node.next_functions) if each is not None
        ]
        if name in _ADDED and len(ways) > 1:
            return _of_sum(
                [(each, _added(node, name, place)) for each, place in ways], factor, sums
            )
        if name in _REDUCED and not _is_one_number(ways):
            return _reduced(node, name, factor)
        by = _added(node, name, ways[0][1]) if name in _ADDED and ways else _times(node, name)
        if by is None or len(ways) != 1:
            break
        node, factor = ways[0][0], factor * by
    return LossFacts()


def _named(node: Any, name: str, factor: float) -> LossFacts:
    """Describe a loss of torch."""
    reduction = _REDUCTIONS.get(node._saved_reduction)  # noqa: SLF001 -- torch's own name
    counted = _counted(node, name)
    return LossFacts(reduction, factor if reduction else None, counted, is_named=True)


def _is_one_number(ways: list[tuple[Any, int]]) -> bool:
    """Say whether the input of a reduction is already a single number."""
    (node, _), *others = ways or [(None, 0)]
    is_loss = not others and _name_of(node) in _LOSSES
    return is_loss and bool(getattr(node, "_saved_reduction", 0))


def _reduced(node: Any, name: str, factor: float) -> LossFacts:
    """Describe a mean or a sum: of a loss of torch for each target, or of something else."""
    inner = [each for each, _ in node.next_functions if each is not None]
    sizes = getattr(node, "_saved_self_sym_sizes", None)
    count = None
    if name == "MeanBackward" and sizes is not None and not (inner and _is_masked(inner[0])):
        count = _product(sizes)
    is_named = len(inner) == 1 and _name_of(inner[0]) in _LOSSES
    # In a loss that is written by hand, the sign may be anywhere.
    return LossFacts(_REDUCED[name], factor if is_named else abs(factor), count, is_named=is_named)


def _added(node: Any, name: str, place: int) -> float:
    """Return the factor of a term in a sum."""
    return _ADDED[name] * float(getattr(node, "_saved_alpha", 1)) if place else 1.0


def _times(node: Any, name: str) -> float | None:
    """Return the factor of a node; None if it does something other than multiply."""
    if name in _NEUTRAL or name in _REDUCED:
        return 1.0
    if name == "NegBackward":
        return -1.0
    if name == "MulBackward":
        return _number(node, name)
    if name == "DivBackward" and (by := _number(node, name)) is not None:
        return 1 / by
    return None


def _of_sum(terms: list[tuple[Any, float]], factor: float, sums: int) -> LossFacts:
    """Return the only loss of torch among terms that are added, each with its factor."""
    if not sums:
        return LossFacts()
    found = [_followed(node, float(by), sums - 1) for node, by in terms]
    named = [each for each in found if each.is_named]
    part = named[0].factor if len(named) == 1 else None
    return LossFacts() if part is None else replace(named[0], factor=factor * part, part=part)


def _name_of(node: Any) -> str:
    return type(node).__name__.rstrip("0123456789")


def _is_masked(node: Any) -> bool:
    """Say whether some of the averaged values may have been set to 0."""
    for _ in range(_MOST):
        name = _name_of(node)
        if name in _MASKING:
            return True
        if name == "MulBackward":
            factors: list[Any] = [
                getattr(node, f"_saved_{each}", None) for each in ("self", "other")
            ]
            tensors = [each for each in factors if hasattr(each, "numel") and each.numel() > 1]
            if tensors:
                return not all(each.requires_grad for each in tensors)
        elif name not in _NEUTRAL and name != "NegBackward":
            return False
        inner = [each for each, _ in node.next_functions if each is not None]
        if len(inner) != 1:
            return False
        node = inner[0]
    return False


def _number(node: Any, name: str) -> float | None:
    """Return the number that a product or quotient multiplies or divides by; None if not one."""
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
