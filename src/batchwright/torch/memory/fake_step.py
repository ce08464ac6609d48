"""A training step on fake tensors: everything but the numbers."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from torch._subclasses.fake_tensor import FakeTensorMode

from batchwright.torch.data.trees import mapped, tensors_of
from batchwright.torch.memory.copies import fake_copy
from batchwright.torch.memory.ledger import Ledger, Phase, Timeline
from batchwright.torch.memory.task import StateBytes, Task


class FakeStep:
    """Runs a task on fake tensors, at any shape in the same time and without memory.

    Fake tensors take the same kernels as tensors of the device would, so what is allocated
    between kernels is exact; what a kernel allocates for itself is not seen.

    Args:
        task: The task, left as it is.
        length: A length to create the optimizer's state with.

    Raises:
        Exception: Whatever the model raises when it wants to see values.
    """

    def __init__(self, task: Task, length: int) -> None:
        # Tensors that a loss function has at hand are real; they may come along.
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._task = fake_copy(task, self._mode)
        batch = self._fake(self._task.batch(2, length))
        with self._mode:
            self._task.step(batch)
        self.state: StateBytes = self._task.state()

    def __call__(self, rows: int, length: int) -> Timeline:
        """Run a step.

        Args:
            rows: Rows of the batch.
            length: Their length.

        Returns:
            What was allocated, and when.
        """
        batch = self._fake(self._task.batch(rows, length))
        ledger = Ledger(self._task.device, granule=self._task.granule)
        ledger.ignore(self._task.tensors())
        ledger.enter(tensors_of(batch), "batch")

        def entering(phase: Phase) -> None:
            ledger.phase = phase

        with _no_collection(), self._mode, ledger:
            self._task.step(batch, entering=entering)
        return ledger.timeline()

    def _fake(self, batch: object) -> object:
        return mapped(batch, lambda each: self._mode.from_tensor(each, static_shapes=True))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Free only what no one refers to: a collection would come at another moment each time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
