"""What memory is taken by, in words: logits, attention, activations; and what cures it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch.nn import functional

from batchwright.torch.memory.ledger import Allocation, Timeline

BATCH = "batch"
LOGITS = "logits"
ATTENTION = "attention scores"
ACTIVATIONS = "activations"
BACKWARD = "backward pass"
WEIGHT_COPIES = "copies of weights"
GRADIENTS = "gradients"
OPTIMIZER_STEP = "optimizer step"
WORKSPACE = "kernel workspace"
PARAMETERS = "parameters"
BUFFERS = "buffers"
OPTIMIZER_STATE = "optimizer state"

_CHUNKED = (
    "torch.nn.functional.linear_cross_entropy(hidden, weight, targets, reduction='sum', "
    "options=torch.nn.LinearCrossEntropyOptions()) in place of the last layer and cross_entropy: "
    "it never holds the logits of all tokens"
    if hasattr(functional, "linear_cross_entropy")
    else "the last layer and cross_entropy over chunks of tokens, each inside of "
    "torch.utils.checkpoint.checkpoint; newer releases of torch have "
    "torch.nn.functional.linear_cross_entropy"
)

_CURES: Mapping[str, str] = {
    LOGITS: _CHUNKED,
    ATTENTION: "torch.nn.functional.scaled_dot_product_attention, whose kernels keep no scores",
    ACTIVATIONS: "torch.utils.checkpoint.checkpoint around each layer, or autocast to bfloat16",
    BACKWARD: "torch.utils.checkpoint.checkpoint around smaller parts, or smaller batches",
    WEIGHT_COPIES: "parameters in the type that autocast would cast them to",
    GRADIENTS: "fewer parameters with requires_grad, or gradients sharded over ranks",
    OPTIMIZER_STEP: "the optimizer with fused=True, or foreach=False: no temporary copies",
    OPTIMIZER_STATE: "an optimizer that keeps less, or states sharded over ranks",
    PARAMETERS: "parameters in bfloat16, or sharded over ranks",
}

_MATH = (
    "a fused kernel: torch.nn.functional.scaled_dot_product_attention fell back to plain "
    "mathematics, which dropout inside of attention, a mask or a type can cause"
)


def cure_of(kind: str, ops: Collection[str]) -> str | None:
    """Say what takes less of a kind; None if nothing in particular does.

    Args:
        kind: The kind.
        ops: The operators that returned the largest tensors.

    Example:
        >>> cure_of(ATTENTION, ["_softmax"])
        'torch.nn.functional.scaled_dot_product_attention, whose kernels keep no scores'
    """
    if kind == ATTENTION and "_safe_softmax" in ops:  # only that function calls it
        return _MATH
    return _CURES.get(kind)


def kinds_of(timelines: Sequence[Timeline]) -> list[str]:
    """Name what each allocation is for.

    Args:
        timelines: The same step at several shapes: allocation `i` is the same in all.

    Returns:
        One kind for each allocation. What holds by chance at one shape, such as a width that
        equals the length, does not at the others.
    """
    classes = frozenset.intersection(*(each.class_sizes for each in timelines))
    alike = zip(*(each.allocations for each in timelines), strict=True)
    scores = [each.score_sizes for each in timelines]
    return [_kind(same, classes, scores) for same in alike]


def _kind(
    same: tuple[Allocation, ...],
    classes: frozenset[int],
    scores: Sequence[frozenset[int]],
) -> str:
    phase = same[0].phase
    if phase == "batch":
        return BATCH
    if phase == "optimizer":
        return OPTIMIZER_STEP
    if len({each.bytes for each in same}) == 1 and len(same) > 1:
        return GRADIENTS if phase == "backward" else WEIGHT_COPIES
    if all(any(size in each.shape for size in classes) for each in same):
        return LOGITS
    if all(_is_score(each, sizes) for each, sizes in zip(same, scores, strict=True)):
        return ATTENTION
    return ACTIVATIONS if phase == "forward" else BACKWARD


def _is_score(allocation: Allocation, sizes: frozenset[int]) -> bool:
    """Tell whether a tensor ends in queries × keys, over which a softmax was taken."""
    shape = allocation.shape
    return len(shape) > 2 and shape[-1] == shape[-2] and shape[-1] in sizes
