"""One training step, on fake tensors or for real, that leaves the model as it was."""

from __future__ import annotations

import copy
import dataclasses
import gc
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from batchwright.errors import BudgetError
from batchwright.torch.data.trees import mapped, tensors_of
from batchwright.torch.memory.ledger import Ledger, Phase, Timeline, rounded, storages
from batchwright.torch.update.out_of_memory import is_out_of_memory
from batchwright.torch.update.passes import LossSum, modules_of, refuse_other_losses, untouched
from batchwright.typing import Batch

MakeBatch: TypeAlias = Callable[[int, int], Batch]
"""``(rows, length) → a batch of that shape``, of any values that the model takes."""

Autocast: TypeAlias = torch.dtype | Callable[[], AbstractContextManager[object]] | None
"""What the forward pass runs in: `torch.autocast` to a type, any other context, or nothing."""

_CUDA_GRANULE = 512
_LOG_LEVEL = "KINETO_LOG_LEVEL"


class StateBytes(NamedTuple):
    """Bytes held throughout training."""

    parameters: int
    buffers: int
    gradients: int  # that stay over several batches of an update; else the step allocates them
    optimizer: int

    @property
    def total(self) -> int:
        """Their sum."""
        return sum(self)


@dataclass(frozen=True, eq=False)
class Task:
    """What a training step consists of; `accumulates` if it adds to gradients already there."""

    model: torch.nn.Module
    optimizers: tuple[torch.optim.Optimizer, ...]
    loss_sum: LossSum
    make_batch: MakeBatch
    autocast: Autocast
    accumulates: bool

    @property
    def device(self) -> torch.device:
        """The one device of all parameters; BudgetError if there are none, or several."""
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
        """The multiple that the device's allocator rounds sizes up to."""
        return _CUDA_GRANULE if self.device.type == "cuda" else 1

    def batch(self, rows: int, length: int) -> Batch:
        """Make a batch, and check that some tensor in it has that many rows."""
        batch = self.make_batch(rows, length)
        shapes = [list(tensor.shape) for tensor in tensors_of(batch)]
        if not any(shape and shape[0] == rows for shape in shapes):
            got = f"tensors of shapes {shapes}" if shapes else f"{type(batch).__name__}: no tensor"
            raise BudgetError(
                f"make_batch(rows={rows}, length={length}) returned {got}; expected a tensor, or a "
                f"dict or tuple of tensors, with {rows} rows in dimension 0."
            )
        return batch

    def step(self, batch: Batch, *, entering: Callable[[Phase], None] = lambda _: None) -> None:
        """Run a batch forward and backward, and step; call `entering` with each phase before."""
        entering("forward")
        context: AbstractContextManager[object] = nullcontext()
        if isinstance(self.autocast, torch.dtype):
            context = torch.autocast(self.device.type, dtype=self.autocast)
        elif self.autocast is not None:
            context = self.autocast()
        with context:
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

    def tensors(self) -> tuple[Sequence[torch.Tensor], ...]:
        """Return parameters, buffers, gradients and optimizer states."""
        parameters = list(self.model.parameters())
        return (
            parameters,
            list(self.model.buffers()),
            [each.grad for each in parameters if each.grad is not None],
            tensors_of([list(each.state.values()) for each in self.optimizers]),
        )

    def state(self) -> StateBytes:
        """Count what the task holds. Call it after a step, when everything has been created."""
        counted: set[int] = set()

        def total(tensors: Sequence[torch.Tensor]) -> int:
            bytes_ = 0
            for storage in storages(tensors, self.device):
                key = storage._cdata  # noqa: SLF001 (its identity)
                if key not in counted:
                    counted.add(key)
                    bytes_ += rounded(storage.nbytes(), self.granule)
            return bytes_

        return StateBytes(*map(total, self.tensors()))


class FakeStep:
    """Runs a task on fake tensors: any shape takes the same time, and no memory.

    What is allocated between kernels is exact. What a kernel allocates for itself is not seen. A
    model that needs values raises an error of its own kind.
    """

    def __init__(self, task: Task, length: int) -> None:
        # A loss function may bring real tensors along.
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        with FakeCopyMode(self._mode):
            self._task = _copied(task, {})
        for optimizer in self._task.optimizers:
            optimizer.state.clear()  # step counters need values, and fake tensors have none
        self._task.clear()
        batch = self._fake(self._task.batch(2, length))
        with self._mode:
            self._task.step(batch)  # creates the optimizer's state
        self.state: StateBytes = self._task.state()

    def __call__(self, rows: int, length: int) -> Timeline:
        """Run a step, and return what it allocated and when."""
        batch = self._fake(self._task.batch(rows, length))
        ledger = Ledger(self._task.device, granule=self._task.granule)
        ledger.ignore(itertools.chain.from_iterable(self._task.tensors()))
        ledger.enter(tensors_of(batch), "batch")

        def entering(phase: Phase) -> None:
            ledger.phase = phase

        collects = gc.isenabled()
        gc.disable()  # or it would free tensors at a different moment each time
        try:
            with self._mode, ledger:
                self._task.step(batch, entering=entering)
        finally:
            if collects:
                gc.enable()
        return ledger.timeline(self._task.model.parameters())

    def _fake(self, batch: object) -> object:
        return mapped(batch, lambda each: self._mode.from_tensor(each, static_shapes=True))


class RealStep:
    """Runs a task for real, on the copy that `real_steps` makes."""

    def __init__(self, task: Task, length: int) -> None:
        self._task = task
        device = task.device
        before = task.state().total
        allocated = 0
        if device.type != "cpu":
            gc.collect()  # what a step frees that was here before would lower its peak
            allocated = _allocator(device).memory_allocated(device)
        # Creates the optimizer's state, and the workspaces that libraries keep.
        task.step(task.batch(2, length))
        self.state: StateBytes = task.state()
        self._floor = allocated + self.state.total - before

    def __call__(self, rows: int, length: int) -> int:
        """Run a step and return its peak in bytes, above the state, the batch included."""
        try:
            if self._task.device.type == "cpu":
                return self._on_cpu(rows, length)
            return self._on_accelerator(rows, length)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise BudgetError(
                f"a step of {rows} rows of length {length}, predicted to stay below the limit, ran "
                "out of memory. Lower the limit, or stop what else uses the device."
            ) from error

    def _on_cpu(self, rows: int, length: int) -> int:
        batch = self._task.batch(rows, length)
        with (
            _silent_profiler(),
            profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace,
        ):
            self._task.step(batch)
        results: Any = trace.profiler.kineto_results if trace.profiler else None
        events = [each for each in results.events() if each.name() == "[memory]"]
        events.sort(key=lambda event: event.start_ns())
        peak = int(np.cumsum([event.nbytes() for event in events]).max(initial=0))
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
    """Run real steps on a copy that shares the task's tensors; restore everything afterwards.

    The device needs no second set of parameters and states: their values are kept on the CPU.
    """
    states = [[*each.state.values(), each.param_groups] for each in task.optimizers]
    held = tensors_of([*task.model.parameters(), *task.model.buffers(), states])
    tensors = {id(each): each for each in held}
    values = [(each, each.detach().to("cpu", copy=True)) for each in tensors.values()]
    twin = _copied(task, {key: _alias(tensor) for key, tensor in tensors.items()})
    with untouched(task.model, *modules_of(task.loss_sum)):
        try:
            yield RealStep(twin, length)
        finally:
            twin.clear()
            with torch.no_grad():
                for tensor, value in values:
                    tensor.copy_(value)


def can_measure(device: torch.device) -> bool:
    """Return whether the device's allocator reports how much it has allocated."""
    return device.type == "cpu" or hasattr(_allocator(device), "max_memory_allocated")


def _copied(task: Task, memo: dict[int, object]) -> Task:
    """Copy a task, in training mode."""
    try:
        model = copy.deepcopy(task.model, memo)
        optimizers = copy.deepcopy(task.optimizers, memo)
        # Optimizers are copied without the attributes that subclasses add. Callables stay with the
        # original: hooks, and a `step` wrapped by a scheduler.
        for optimizer, twin in zip(task.optimizers, optimizers, strict=True):
            for name, value in vars(optimizer).items():
                if name not in vars(twin) and not callable(value):
                    setattr(twin, name, copy.deepcopy(value, memo))
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise BudgetError(
            f"the model or its optimizer cannot be copied ({error}). Pass the plain module, before "
            "it is compiled or wrapped for several devices."
        ) from error
    if not model.training:
        model.train()
    return dataclasses.replace(task, model=model, optimizers=optimizers)


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    shared = tensor.detach()
    if not isinstance(tensor, torch.nn.Parameter):
        return shared.requires_grad_(tensor.requires_grad)
    parameter = torch.nn.Parameter(shared, requires_grad=tensor.requires_grad)
    vars(parameter).update(vars(tensor))
    return parameter


@contextmanager
def _silent_profiler() -> Iterator[None]:
    """Keep torch's profiler from writing to standard error, unless the user set its log level."""
    before = os.environ.get(_LOG_LEVEL)
    os.environ.setdefault(_LOG_LEVEL, "99")
    try:
        yield
    finally:
        if before is None:
            del os.environ[_LOG_LEVEL]


def _allocator(device: torch.device) -> ModuleType:
    module: ModuleType = torch.get_device_module(device)
    return module
