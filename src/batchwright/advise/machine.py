"""The machine, and the model on it: speed of types, cost of lengths, memory of steps."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from batchwright.errors import BatchwrightError, BudgetError
from batchwright.lengths import totals
from batchwright.typing import Batch

if TYPE_CHECKING:
    import torch

    from batchwright.compare import Task
    from batchwright.compare.arm import Arm

T = TypeVar("T")

WIDTHS: tuple[int, ...] = (128, 512, 2_048)
"""Rows and columns of the matrix products that are timed; the widest on a GPU only."""

_REPETITIONS = 6
_FEWEST = 3  # if they take longer than the seconds below
_SECONDS = 1.0
_ROUNDS = 3  # of a repetition
_AGREE = 2.0  # largest over smallest measurement, at most, of a figure that is shown
_DISTINCT = 1.05  # how far all of them must be from 1
_SLOW = 0.5  # if all are below this, they agree on what matters
_LENGTHS = 4
_SHAPES = 5

_SHARE_OF_DEVICE = 0.8  # of a GPU's memory; the rest is for its allocator's cache
_ROOM = 8  # on a CPU, whose memory others also use: times the present peak
_UNKNOWN = 2**32


@dataclass(frozen=True)
class Range:
    """The smallest and the largest of several measurements."""

    low: float
    high: float

    def __str__(self) -> str:
        """Return it as ``"1.4 – 2.1 ×"``."""
        low, high = (f"{each:.2g}" if each < 1 else f"{each:.1f}" for each in (self.low, self.high))
        return f"{low} ×" if low == high else f"{low} – {high} ×"


@dataclass(frozen=True)
class Hardware:
    """The device that torch would train on.

    `speed_over_fp32` has the speed of matrix products by type and width, measured here several
    times. Widths whose measurements do not agree are left out.
    """

    device: str  # ``"cpu"`` or ``"cuda"``
    name: str  # of the CPU or GPU
    memory_bytes: int | None  # of the device. None: unknown
    cores: int | None  # of the CPU
    speed_over_fp32: dict[str, dict[int, Range]] = field(default_factory=dict)

    @property
    def worth_trying(self) -> list[str]:
        """The types that may be faster than fp32: whose widest products are not known to be slower.

        Example:
            >>> Hardware("cpu", "", None, 2, {"bf16": {512: Range(0.1, 0.2)}}).worth_trying
            []
        """
        widest = _widths(self.device)[-1]
        return [
            name
            for name, ratios in self.speed_over_fp32.items()
            if widest not in ratios or any(each.high >= 1 for each in ratios.values())
        ]


@dataclass(frozen=True)
class Cost:
    """Seconds of a row of L tokens, forward and backward: ``a + b·L + c·L²``."""

    a: float  # per row
    b: float  # per token
    c: float  # per pair of tokens
    error: float  # largest relative error at the measured lengths
    lengths: tuple[int, ...]  # those measured
    seconds: tuple[float, ...]  # of a row of each
    quadratic: float  # share of the longest row's cost that is due to pairs


@dataclass(frozen=True)
class Memory:
    """Memory of a step; `parts` are those of the largest peak."""

    state_bytes: int  # parameters, gradients and optimizer state, in use throughout training
    shapes: tuple[tuple[int, int, int], ...]  # rows, length, bytes of full batches
    parts: tuple[tuple[str, float, str | None], ...]  # name, share, how to reduce it
    limit: int  # bytes that steps may take
    max_tokens: int | None  # the most that fit at any length. None: no single budget does


@dataclass(frozen=True)
class ModelProfile:
    """What is known of the model."""

    parameters: int  # those that are trained
    peak_bytes: int | None  # peak of a real step on the largest plain batches. None: unknown
    cost: Cost | None
    memory: Memory | None
    unknown: tuple[str, ...]  # why something is unknown: ``"cost: …"``, ``"memory: …"``
    seconds: float  # time to make this profile


def profile_hardware() -> Hardware | None:
    """Time small matrix products of each type, in turns, for a second; None without torch."""
    try:
        import torch
    except ImportError:
        return None
    memory: int | None = None
    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    device = torch.device("cpu")
    name = platform.processor() or platform.machine()
    if torch.cuda.is_available():
        device = torch.device("cuda")
        properties = torch.cuda.get_device_properties(device)
        name, memory = properties.name, int(properties.total_memory)
        types["fp16"] = torch.float16
    elif hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    speeds = _speeds(device, _widths(device.type), types)
    return Hardware(device.type, name, memory, os.cpu_count(), speeds)


def _widths(device: str) -> tuple[int, ...]:
    return WIDTHS[:2] if device == "cpu" else WIDTHS


def _speeds(
    device: torch.device, widths: Sequence[int], types: Mapping[str, torch.dtype]
) -> dict[str, dict[int, Range]]:
    """Time products of all types and widths in turns, several times over."""
    import torch

    def seconds_of(matrix: torch.Tensor) -> float:
        started = time.perf_counter()
        for _ in range(max(1, 2**27 // len(matrix) ** 3)):
            matrix @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    random = torch.Generator().manual_seed(0)
    singles = {width: torch.randn(width, width, generator=random).to(device) for width in widths}
    others = [each for each in types if each != "fp32"]
    found: dict[tuple[str, int], list[float]] = {(each, w): [] for each in others for w in widths}
    for matrix in singles.values():  # what is done once
        for dtype in types.values():
            seconds_of(matrix.to(dtype))
    started = time.perf_counter()
    for repetition in range(_REPETITIONS):
        if repetition >= _FEWEST and time.perf_counter() - started > _SECONDS:
            break
        for width, single in singles.items():
            operands = {each: single.to(dtype) for each, dtype in types.items()}
            least = dict.fromkeys(types, math.inf)  # of rounds: others may have been interrupted
            for _ in range(_ROUNDS):
                for each, matrix in operands.items():
                    least[each] = min(least[each], seconds_of(matrix))
            for each in others:
                found[each, width].append(least["fp32"] / least[each])
    ranges = {place: agreeing(ratios) for place, ratios in found.items()}
    return {
        each: {w: known for w in widths if (known := ranges[each, w]) is not None}
        for each in others
    }


def agreeing(ratios: Sequence[float]) -> Range | None:
    """Return the range of repeated measurements; None if they do not agree which is faster.

    Example:
        >>> str(agreeing([1.4, 2.1, 1.9])), agreeing([0.9, 2.0]), agreeing([2.1, 22.4])
        ('1.4 – 2.1 ×', None, None)
    """
    low, high = min(ratios), max(ratios)
    is_clear = low >= _DISTINCT or high <= 1 / _DISTINCT
    agree = high <= _AGREE * low or high <= _SLOW
    return Range(low, high) if is_clear and agree else None


def profile_model(task: Task, *, memory_bytes: int | None = None, seed: int = 0) -> ModelProfile:
    """Time steps of a few lengths, and predict the memory of steps. Leaves random states alone."""
    from batchwright.compare import Strategy
    from batchwright.compare.arm import Arm, moved
    from batchwright.compare.probes import peak_bytes

    started = time.perf_counter()
    arm = Arm(task, Strategy.named("plain"), seed=seed)
    peak, unknown = peak_bytes(arm), []
    limit = _UNKNOWN if memory_bytes is None else int(_SHARE_OF_DEVICE * memory_bytes)
    if peak is not None and arm.device.type == "cpu":
        limit = _ROOM * peak
    order = np.argsort(totals(task.sizes), kind="stable")
    in_order = totals(task.sizes)[order]

    def batch(rows: int, length: int) -> Batch:
        """Repeat a sample of about this length in rows."""
        place = min(int(np.searchsorted(in_order, length)), in_order.size - 1)
        sample = task.samples[int(order[place])]
        return moved(task.collate([sample] * rows), task.place())

    def attempt(name: str, look: Callable[[], T]) -> T | None:
        try:
            return look()
        except (BatchwrightError, RuntimeError, ValueError, TypeError, IndexError) as error:
            unknown.append(f"{name}: {error}".splitlines()[0])
            return None

    return ModelProfile(
        sum(each.numel() for each in arm.model.parameters() if each.requires_grad),
        peak,
        attempt("cost", lambda: _cost(arm, batch)),
        attempt("memory", lambda: _memory(arm, batch, limit)),
        tuple(unknown),
        time.perf_counter() - started,
    )


def _cost(arm: Arm, batch: Callable[[int, int], Batch]) -> Cost | None:
    from batchwright.torch.update.measuring import fit_cost

    task, sizes = arm.task, totals(arm.task.sizes).astype(np.int64)
    longest = int(sizes.max())
    if sizes.min() == longest:
        return None
    arm.model.train()
    measured = fit_cost(
        *(arm.model, task.loss_sum, batch),
        lengths=sizes,
        max_tokens=task.max_tokens,
        points=_LENGTHS,
        rounds=1,
    )
    cost = measured.cost
    return Cost(
        *(cost.a, cost.b, cost.c, measured.error),
        lengths=tuple(measured.lengths.tolist()),
        seconds=tuple((measured.seconds / measured.rows).tolist()),
        quadratic=float(cost.c * longest**2 / cost([longest])[0]),
    )


def _memory(arm: Arm, batch: Callable[[int, int], Batch], limit: int) -> Memory:
    from batchwright.torch.memory import MemoryModel

    task, sizes = arm.task, totals(arm.task.sizes).astype(np.int64)
    memory = MemoryModel.fit(
        *(arm.model, arm.optimizer, task.loss_sum, batch),
        lengths=sizes,
        limit=limit,
        confirm=False,
        measure=False,
    )
    distinct = np.unique(sizes)
    chosen = np.unique(distinct[np.linspace(0, distinct.size - 1, _SHAPES).astype(int)])
    shapes = [
        (rows, length, memory.peak(rows, length))
        for length in chosen.tolist()
        if (rows := task.max_tokens // length)
    ]
    rows, length, _ = max(shapes, key=lambda each: each[2])
    parts = memory.explain(rows, length).parts
    try:
        fitting = memory.max_tokens()
    except BudgetError:
        fitting = None
    return Memory(
        state_bytes=memory.state_bytes,
        shapes=tuple(shapes),
        parts=tuple((each.name, each.share, each.cure) for each in parts),
        limit=memory.limit,
        max_tokens=fitting,
    )
