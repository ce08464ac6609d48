"""A training step for real: what it takes at its peak, as the allocator tells."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from batchwright.errors import BudgetError
from batchwright.torch.data.trees import tensors_of
from batchwright.torch.memory.copies import lent_copy
from batchwright.torch.memory.task import StateBytes, Task
from batchwright.torch.update.out_of_memory import is_out_of_memory

_LOG_LEVEL = "KINETO_LOG_LEVEL"


def can_measure(device: torch.device) -> bool:
    """Tell whether the allocator of a device says what it gave out."""
    return device.type == "cpu" or hasattr(_allocator(device), "max_memory_allocated")


class RealStep:
    """Runs a task for real, on a copy that shares its tensors; made by `real_steps`.

    Attributes:
        state: What is there throughout.
    """

    def __init__(self, task: Task, length: int) -> None:
        self._task = task
        on_accelerator = task.device.type != "cpu"
        self._floor = _allocator(task.device).memory_allocated(task.device) if on_accelerator else 0
        before = task.state().total
        # Creates the optimizer's state, and the workspaces that libraries keep.
        task.step(task.batch(2, length))
        self.state: StateBytes = task.state()
        self._floor += self.state.total - before

    def __call__(self, rows: int, length: int) -> int:
        """Run a step and return its peak in bytes, above the state, the batch included.

        Raises:
            BudgetError: If memory runs out.
        """
        try:
            if self._task.device.type == "cpu":
                return self._on_processor(rows, length)
            return self._on_accelerator(rows, length)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise BudgetError(
                f"memory ran out in a step of {rows} rows of length {length}, which was to take "
                "less than the limit. Lower the limit, or end what else uses the device."
            ) from error

    def _on_processor(self, rows: int, length: int) -> int:
        batch = self._task.batch(rows, length)
        step: Callable[[Any], None] = self._task.step
        with (
            _silent_profiler(),
            profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace,
        ):
            step(batch)
        results: Any = trace.profiler.kineto_results if trace.profiler else None
        events = [
            (event.start_ns(), event.nbytes())
            for event in results.events()
            if event.name() == "[memory]"
        ]
        events.sort(key=lambda event: event[0])
        peak = int(np.cumsum([size for _, size in events]).max(initial=0))
        inputs = {each.untyped_storage()._cdata: each for each in tensors_of(batch)}  # noqa: SLF001
        return peak + sum(each.untyped_storage().nbytes() for each in inputs.values())

    def _on_accelerator(self, rows: int, length: int) -> int:
        device = self._task.device
        allocator = _allocator(device)
        gc.collect()
        allocator.synchronize(device)
        allocator.reset_peak_memory_stats(device)
        self._task.step(self._task.batch(rows, length))
        allocator.synchronize(device)
        return int(allocator.max_memory_allocated(device)) - self._floor


@contextmanager
def real_steps(task: Task, length: int) -> Iterator[RealStep]:
    """Lend a copy of a task to run real steps with; the task is left as it was.

    Args:
        task: The task.
        length: A short length, for a first step.

    Yields:
        What measures a step.
    """
    with lent_copy(task) as twin:
        yield RealStep(twin, length)


@contextmanager
def _silent_profiler() -> Iterator[None]:
    """Keep torch's profiler from writing on standard error that it begins and ends."""
    if _LOG_LEVEL in os.environ:  # the user has a wish
        yield
        return
    os.environ[_LOG_LEVEL] = "99"
    try:
        yield
    finally:
        del os.environ[_LOG_LEVEL]


def _allocator(device: torch.device) -> Any:
    return torch.get_device_module(device)
