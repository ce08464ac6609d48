"""The time of even the smallest batch: the operations of its passes, on tiny tensors."""

from __future__ import annotations

import sys
import time
from typing import Any

_MOST = 20_000  # operations that are counted
_LINKS, _ROUNDS = 30, 5
_OPERATIONS = 4 * _LINKS + 2  # of the chain, as the graph counts them
_SLOWER = 3.0
"""How many times as long the operations of models take: 2.1 to 3.3 in four small Transformers."""


def overhead_of(root: Any) -> float | None:
    """Estimate the seconds of a forward and a backward pass on tiny tensors.

    Args:
        root: What `backward` is called on.
    """
    count = _operations(root)
    return None if count is None else count * _SLOWER * _seconds_of_one()


def _operations(root: Any) -> int | None:
    """Count the operations that lead to a tensor; None if there are too many."""
    seen: set[Any] = set()
    todo = [root.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [each for each, _ in node.next_functions]
            if len(seen) > _MOST:
                return None
    return len(seen)


def _seconds_of_one() -> float:
    """Time one operation in a chain, without side effects: nothing is drawn or kept."""
    torch: Any = sys.modules["torch"]
    best = float("inf")
    with torch.enable_grad():
        weights = torch.ones(8, 8, device="cpu", requires_grad=True)
        values = torch.ones(2, 8, device="cpu")
        for _ in range(_ROUNDS):
            start, chain = time.perf_counter(), values
            for _ in range(_LINKS):
                chain = torch.nn.functional.linear(chain, weights).relu() + values
            torch.autograd.grad(chain.sum(), weights)
            best = min(best, time.perf_counter() - start)
    return best / _OPERATIONS
