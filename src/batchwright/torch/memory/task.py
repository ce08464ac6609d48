"""One training step, as it is predicted and as it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from batchwright.errors import BudgetError
from batchwright.torch.data.trees import tensors_of
from batchwright.torch.memory.ledger import Phase, rounded, storages
from batchwright.torch.update.loss_functions import LossSum, refuse_other_losses

MakeBatch: TypeAlias = Callable[[int, int], Any]
"""``(rows, length) → a batch of that shape``: of any values that the model takes."""

Autocast: TypeAlias = torch.dtype | Callable[[], AbstractContextManager[Any]] | None
"""What the forward pass runs in: `torch.autocast` to a type, any other context, or nothing."""

_CUDA_GRANULE = 512


@dataclass(frozen=True)
class StateBytes:
    """What is there throughout training, in bytes.

    Attributes:
        parameters: The parameters.
        buffers: The buffers.
        gradients: The gradients, where they stay over the batches of an update. With one batch an
            update they come and go, and are part of the step.
        optimizer: What the optimizer keeps.
    """

    parameters: int
    buffers: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.buffers + self.gradients + self.optimizer


@dataclass(frozen=True, eq=False)
class Task:
    """What a training step is made of.

    Attributes:
        model: The model.
        optimizers: Its optimizers.
        loss_sum: ``(model, batch) → the sum of the loss``.
        make_batch: ``(rows, length) → a batch``.
        autocast: What the forward pass runs in.
        accumulates: Whether gradients are there before the batch.
    """

    model: torch.nn.Module
    optimizers: tuple[torch.optim.Optimizer, ...]
    loss_sum: LossSum
    make_batch: MakeBatch
    autocast: Autocast
    accumulates: bool

    @property
    def device(self) -> torch.device:
        """Where the parameters are.

        Raises:
            BudgetError: If there are none, or they are on several devices.
        """
        devices = {parameter.device for parameter in self.model.parameters()}
        if len(devices) != 1:
            listed = ", ".join(sorted(map(str, devices))) or "no device: it has none"
            raise BudgetError(
                f"the model's parameters are on {listed}; expected one device. Fit one memory "
                "model for each part."
            )
        return devices.pop()

    @property
    def granule(self) -> int:
        """What the device's allocator rounds sizes up to."""
        return _CUDA_GRANULE if self.device.type == "cuda" else 1

    def batch(self, rows: int, length: int) -> Any:
        """Make a batch.

        Raises:
            BudgetError: If no tensor in it has that many rows.
        """
        batch = self.make_batch(rows, length)
        shapes = [list(tensor.shape) for tensor in tensors_of(batch)]
        if not any(shape and shape[0] == rows for shape in shapes):
            got = f"tensors of shapes {shapes}" if shapes else f"{type(batch).__name__}: no tensor"
            raise BudgetError(
                f"make_batch(rows={rows}, length={length}) returned {got}; expected a tensor, or a "
                f"dict or tuple of tensors, with {rows} rows in dimension 0."
            )
        return batch

    def step(self, batch: Any, *, entering: Callable[[Phase], None] = lambda _: None) -> None:
        """Run a batch forward and backward, and the optimizers.

        Args:
            batch: The batch.
            entering: Called with each phase before it begins.

        Raises:
            LossError: If the loss is no scalar that gradients flow from.
        """
        entering("forward")
        with self._context():
            loss = self.loss_sum(self.model, batch)
        refuse_other_losses(loss)
        entering("backward")
        torch.autograd.backward(loss)
        del loss
        entering("optimizer")
        for optimizer in self.optimizers:
            optimizer.step()
        if not self.accumulates:
            self.clear()

    def clear(self) -> None:
        """Free the gradients."""
        self.model.zero_grad(set_to_none=True)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield what is there throughout training: parameters, buffers, gradients, states."""
        yield from self.model.parameters()
        yield from self.model.buffers()
        yield from self._gradients()
        yield from self.optimizer_tensors()

    def optimizer_tensors(self) -> Iterator[torch.Tensor]:
        """Yield what the optimizers keep."""
        for optimizer in self.optimizers:
            for kept in optimizer.state.values():
                yield from tensors_of(list(kept.values()))

    def state(self) -> StateBytes:
        """Count what is there; to be asked after a step, when everything is."""
        device, granule = self.device, self.granule
        counted: set[int] = set()

        def total(tensors: Iterator[torch.Tensor]) -> int:
            bytes_ = 0
            for storage in storages(tensors, device):
                key = storage._cdata  # noqa: SLF001 (its identity)
                if key not in counted:
                    counted.add(key)
                    bytes_ += rounded(storage.nbytes(), granule)
            return bytes_

        return StateBytes(
            total(self.model.parameters()),
            total(self.model.buffers()),
            total(self._gradients()),
            total(self.optimizer_tensors()),
        )

    def _gradients(self) -> Iterator[torch.Tensor]:
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                yield parameter.grad

    def _context(self) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        if isinstance(self.autocast, torch.dtype):
            return torch.autocast(self.device.type, dtype=self.autocast)
        return self.autocast()
