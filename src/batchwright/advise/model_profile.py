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
    from batchwright.compare.arm import Arm
    from batchwright.torch.memory import MemoryModel

_LENGTHS = 4
_SHAPES = 5

_SHARE_OF_DEVICE = 0.8
"""Of a GPU's memory; the rest is for what its allocator keeps."""

_ROOM = 8
"""On a processor, whose memory others use too: this many times what the task takes as it is."""

_UNKNOWN = 2**32


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
        peak_bytes: What the largest of plain batches take, by a real step. None: unknown.
        cost: None: not found out.
        memory: None: not found out.
        unknown: Why something was not found out.
        seconds: What finding that out took.
    """

    parameters: int
    peak_bytes: int | None
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
    from batchwright.compare import Strategy
    from batchwright.compare.arm import Arm
    from batchwright.compare.probes import peak_bytes

    started = time.perf_counter()
    arm = Arm(task, Strategy.named("plain"), seed=seed)
    peak = peak_bytes(arm)
    unknown: list[str] = []
    found: dict[str, Any] = {}
    looks: dict[str, Callable[[], Any]] = {
        "cost": lambda: _cost(arm),
        "memory": lambda: _memory(arm, peak, memory_bytes),
    }
    for name, look in looks.items():
        try:
            found[name] = look()
        except (BatchwrightError, RuntimeError, ValueError, TypeError, IndexError) as error:
            found[name] = None
            unknown.append(f"{name}: {error}".splitlines()[0])
    return ModelProfile(
        sum(each.numel() for each in arm.model.parameters() if each.requires_grad),
        peak,
        found["cost"],
        found["memory"],
        tuple(unknown),
        time.perf_counter() - started,
    )


def _batches(task: Task) -> tuple[np.ndarray, Callable[[int, int], Any]]:
    """Return the lengths of samples, and what makes a batch of one of them, over and over."""
    from batchwright.compare.arm import moved

    sizes = totals(task.sizes).astype(np.int64)
    order = np.argsort(sizes, kind="stable")
    in_order = sizes[order]

    def batch(rows: int, length: int) -> Any:
        place = min(int(np.searchsorted(in_order, length)), in_order.size - 1)
        sample = task.samples[int(order[place])]
        return moved(task.collate([sample] * rows), task.place())

    return sizes, batch


def _cost(arm: Arm) -> Cost | None:
    from batchwright.torch.update.measuring import fit_cost

    task = arm.task
    sizes, batch = _batches(task)
    if sizes.min() == sizes.max():
        return None
    arm.model.train()
    measured = fit_cost(
        arm.model,
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


def _memory(arm: Arm, peak: int | None, memory_bytes: int | None) -> Memory:
    from batchwright.torch.memory import MemoryModel

    task = arm.task
    sizes, batch = _batches(task)
    memory = MemoryModel.fit(
        arm.model,
        arm.optimizer,
        task.loss_sum,
        batch,
        lengths=sizes,
        limit=_limit(arm, peak, memory_bytes),
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


def _limit(arm: Arm, peak: int | None, memory_bytes: int | None) -> int:
    """Return up to how many bytes steps are looked at."""
    if peak is not None and arm.device.type == "cpu":
        return _ROOM * peak
    return _UNKNOWN if memory_bytes is None else int(_SHARE_OF_DEVICE * memory_bytes)


def _fitting(memory: MemoryModel) -> int | None:
    try:
        return memory.max_tokens()
    except BudgetError:
        return None
