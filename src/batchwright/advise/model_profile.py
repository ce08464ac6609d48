"""What a model is made of, what rows of a length cost it, and what its steps take of memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from batchwright.errors import BatchwrightError, BudgetError
from batchwright.lengths import totals

if TYPE_CHECKING:
    from batchwright.compare import Task
    from batchwright.torch.memory import MemoryModel

_LENGTHS = 4
_SHAPES = 5

_SHARE_OF_DEVICE = 0.8
_LEAST_ON_PROCESSOR = 2**31
_STATES = 8
"""On a processor, whose memory others use too, a step is looked at up to 2 GiB, or this many times
the parameters."""


@dataclass(frozen=True)
class Cost:
    """What a row of L tokens takes, forward and backward: ``a + b·L + c·L²`` seconds.

    Attributes:
        a: Of each row.
        b: Of each token.
        c: Of each pair of tokens.
        error: Largest relative error at the lengths that were tried.
        lengths: Those.
        seconds: Of a row of each.
        quadratic: Share of the longest row's cost that is due to pairs.
    """

    a: float
    b: float
    c: float
    error: float
    lengths: tuple[int, ...]
    seconds: tuple[float, ...]
    quadratic: float


@dataclass(frozen=True)
class Memory:
    """What a step takes.

    Attributes:
        state_bytes: Parameters, gradients, what the optimizer keeps: there throughout training.
        shapes: Rows, length and bytes of batches that fill the task's budget.
        parts: What the largest of those peaks is made of: name, share, and what makes it less.
        limit: Bytes up to which it was looked at.
        max_tokens: What fits into them, whatever the length. None: no one budget does.
    """

    state_bytes: int
    shapes: tuple[tuple[int, int, int], ...]
    parts: tuple[tuple[str, float, str | None], ...]
    limit: int
    max_tokens: int | None


@dataclass(frozen=True)
class ModelProfile:
    """What is known of the model.

    Attributes:
        parameters: How many numbers are trained.
        cost: None: not found out.
        memory: None: not found out.
        unknown: Why something was not found out.
        seconds: What finding that out took.
    """

    parameters: int
    cost: Cost | None
    memory: Memory | None
    unknown: tuple[str, ...]
    seconds: float


def profile_model(task: Task, *, memory_bytes: int | None = None, seed: int = 0) -> ModelProfile:
    """Look at a task's model: time steps of a few lengths, and predict the memory of steps.

    Guarantees that random states are left as they were.

    Args:
        task: The task.
        memory_bytes: Of the device. None: unknown.
        seed: Of the weights.
    """
    import torch

    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.model().to(task.place())
    parameters = sum(each.numel() for each in model.parameters() if each.requires_grad)
    unknown: list[str] = []
    found: dict[str, Any] = {}
    looks: dict[str, Callable[[], Any]] = {
        "cost": lambda: _cost(task, model),
        "memory": lambda: _memory(task, model, memory_bytes),
    }
    for name, look in looks.items():
        try:
            found[name] = look()
        except (BatchwrightError, RuntimeError, ValueError, TypeError, IndexError) as error:
            found[name] = None
            unknown.append(f"{name}: {error}".splitlines()[0])
    return ModelProfile(
        parameters,
        found["cost"],
        found["memory"],
        tuple(unknown),
        time.perf_counter() - started,
    )


def _batches(task: Task) -> tuple[np.ndarray, Callable[[int, int], Any]]:
    """Return the lengths of samples, and what makes a batch of one of them, over and over."""
    from batchwright.compare.devices import moved

    sizes = totals(task.sizes).astype(np.int64)
    order = np.argsort(sizes, kind="stable")
    in_order = sizes[order]

    def batch(rows: int, length: int) -> Any:
        place = min(int(np.searchsorted(in_order, length)), in_order.size - 1)
        sample = task.samples[int(order[place])]
        return moved(task.collate([sample] * rows), task.place())

    return sizes, batch


def _cost(task: Task, model: Any) -> Cost | None:
    from batchwright.torch.cost_fitting import fit_cost

    sizes, batch = _batches(task)
    if sizes.min() == sizes.max():
        return None
    model.train()
    measured = fit_cost(
        model,
        task.loss_sum,
        batch,
        lengths=sizes,
        max_tokens=task.max_tokens,
        points=_LENGTHS,
        rounds=1,
    )
    longest, cost = int(sizes.max()), measured.cost
    return Cost(
        a=cost.a,
        b=cost.b,
        c=cost.c,
        error=measured.error,
        lengths=tuple(measured.lengths.tolist()),
        seconds=tuple((measured.seconds / measured.rows).tolist()),
        quadratic=float(cost.c * longest**2 / cost([longest])[0]),
    )


def _memory(task: Task, model: Any, memory_bytes: int | None) -> Memory:
    from batchwright.torch.memory import MemoryModel

    sizes, batch = _batches(task)
    memory = MemoryModel.fit(
        model,
        task.optimizer(model),
        task.loss_sum,
        batch,
        lengths=sizes,
        limit=_limit(model, memory_bytes),
        confirm=False,
        measure=False,
    )
    distinct = np.unique(sizes)
    chosen = distinct[np.linspace(0, distinct.size - 1, _SHAPES).astype(int)]
    shapes = [
        (rows, int(length), memory.peak(rows, int(length)))
        for length in np.unique(chosen)
        if (rows := task.max_tokens // int(length))
    ]
    rows, length, _ = max(shapes, key=lambda each: each[2])
    explained = memory.explain(rows, length)
    return Memory(
        state_bytes=memory.state_bytes,
        shapes=tuple(shapes),
        parts=tuple((each.name, each.share, each.cure) for each in explained.parts),
        limit=memory.limit,
        max_tokens=_fitting(memory),
    )


def _limit(model: Any, memory_bytes: int | None) -> int:
    if next(model.parameters()).device.type != "cpu" and memory_bytes is not None:
        return int(_SHARE_OF_DEVICE * memory_bytes)
    size = sum(each.numel() * each.element_size() for each in model.parameters())
    return int(max(_LEAST_ON_PROCESSOR, _STATES * size))


def _fitting(memory: MemoryModel) -> int | None:
    try:
        return memory.max_tokens()
    except BudgetError:
        return None
