"""One training step, on fake tensors or for real, that leaves the model as it was.

On fake tensors a ledger keeps what the step allocates. PyTorch's
`torch.distributed._tools.mem_tracker` follows storages in the same way, but keeps only peaks; here
the whole step is kept, so that steps of several shapes can be compared.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import itertools
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from batchwright.errors import BudgetError
from batchwright.torch.data.trees import mapped, tensors_of
from batchwright.torch.update.out_of_memory import is_out_of_memory
from batchwright.torch.update.passes import LossSum, modules_of, refuse_other_losses, untouched
from batchwright.typing import Batch, IntArray

Phase: TypeAlias = Literal["batch", "forward", "backward", "optimizer"]
"""Where in a step something happens."""

MakeBatch: TypeAlias = Callable[[int, int], Batch]
"""``(rows, length) → a batch of that shape``, of any values that the model takes."""

Autocast: TypeAlias = torch.dtype | Callable[[], AbstractContextManager[object]] | None
"""What the forward pass runs in: `torch.autocast` to a type, any other context, or nothing."""

_CUDA_GRANULE = 512
_LOG_LEVEL = "KINETO_LOG_LEVEL"


class Allocation(NamedTuple):
    """A storage allocated during a step: by which operator, when, and how large after rounding."""

    op: str
    phase: Phase
    shape: tuple[int, ...]
    dtype: torch.dtype
    bytes: int

    def __str__(self) -> str:
        shape = " × ".join(map(str, self.shape)) or "scalar"
        return f"{self.op}: {str(self.dtype).removeprefix('torch.')} {shape}"


@dataclass(frozen=True, eq=False)
class Timeline:
    """What a step allocated and freed, in order."""

    allocations: tuple[Allocation, ...]
    events: IntArray  # int64[e], i + 1 where allocation i is made, -(i + 1) where it is freed
    weights: frozenset[tuple[int, ...]] = frozenset()  # shapes of parameters
    classes: frozenset[int] = frozenset()  # sizes of log-softmaxes, as cross-entropy takes them
    keys: frozenset[int] = frozenset()  # sizes of softmaxes, as attention takes over keys

    @cached_property
    def levels(self) -> IntArray:
        """Bytes allocated after each event, int64[e]."""
        sizes = np.array([each.bytes for each in self.allocations], dtype=np.int64)
        levels: IntArray = np.cumsum(sizes[np.abs(self.events) - 1] * np.sign(self.events))
        return levels

    @cached_property
    def moments(self) -> Mapping[Phase, int]:
        """Phase → the event after which it holds the most; one of them is the peak."""
        births = np.flatnonzero(self.events > 0)  # a phase is never highest after a free
        phases = np.array([each.phase for each in self.allocations])
        within = {each.phase: births[phases == each.phase] for each in self.allocations}
        return {phase: int(each[self.levels[each].argmax()]) for phase, each in within.items()}

    @property
    def peak(self) -> int:
        """The most bytes allocated at once, above what was there before the step."""
        return int(self.levels.max())

    def live(self, moment: int) -> list[Allocation]:
        """Return the allocations that are live after an event."""
        alive = np.zeros(len(self.allocations), dtype=np.int64)
        past = self.events[: moment + 1]
        np.add.at(alive, np.abs(past) - 1, np.sign(past))
        return [self.allocations[index] for index in np.flatnonzero(alive)]

    def kind(self, made: Allocation) -> str:
        """Return what an allocation is for."""
        backward = made.phase == "backward"
        if made.phase in {"batch", "optimizer"}:
            return "batch" if made.phase == "batch" else "optimizer step"
        if made.shape in self.weights and (backward or made.op == "_to_copy"):
            return "gradients" if backward else "copies of weights"
        if not self.classes.isdisjoint(made.shape[1:]):
            return "logits"
        *_, queries, keys = (0, 0, *made.shape)
        if len(made.shape) > 2 and queries == keys and keys in self.keys:
            return "attention scores"
        return "backward pass" if backward else "activations"


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the storages that operators allocate on one device, until they are freed.

    Sizes are rounded up to a multiple of the granule, as the device's allocator does. It does not
    see what kernels allocate for themselves.
    """

    phase: Phase = "batch"

    def __init__(self, device: torch.device, *, granule: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device
        self._granule = granule
        self._known: dict[int, int] = {}  # storage → its allocation; -1: there before
        self._allocations: list[Allocation] = []
        self._events: list[int] = []
        self._classes: set[int] = set()
        self._keys: set[int] = set()

    def ignore(self, tensors: Iterable[torch.Tensor]) -> None:
        """Ignore tensors that were there before the step."""
        for storage in storages(tensors, self._device):
            key = storage._cdata  # noqa: SLF001 (its identity)
            if key not in self._known:
                self._known[key] = -1
                # If it is freed nevertheless, another storage may take its place.
                weakref.finalize(storage, self._known.pop, key, None).atexit = False

    def enter(self, tensors: Iterable[torch.Tensor], op: str) -> None:
        """Record the storages that are not known yet."""
        for tensor in tensors:
            for storage in storages([tensor], self._device):
                key = storage._cdata  # noqa: SLF001
                if key in self._known:
                    continue
                index = len(self._allocations)
                size = rounded(storage.nbytes(), self._granule)
                made = Allocation(op, self.phase, tuple(tensor.shape), tensor.dtype, size)
                self._known[key] = index
                self._allocations.append(made)
                self._events.append(index + 1)
                weakref.finalize(storage, self._freed, key, index).atexit = False

    def timeline(self, weights: Iterable[torch.Tensor] = ()) -> Timeline:
        """Return what was recorded so far, in a step of a model with some parameters."""
        return Timeline(
            tuple(self._allocations),
            np.array(self._events, dtype=np.int64),
            frozenset(tuple(each.shape) for each in weights),
            frozenset(self._classes),
            frozenset(self._keys),
        )

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator and record what it returns."""
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in {"_log_softmax", "_softmax", "_safe_softmax"}:
            sizes = self._classes if name == "_log_softmax" else self._keys
            sizes.add(args[0].shape[args[1]])
        self.enter(tensors_of(result), name)
        return result

    def _freed(self, key: int, index: int) -> None:
        if self._known.get(key) == index:
            del self._known[key]
        self._events.append(-(index + 1))


def storages(
    tensors: Iterable[torch.Tensor], device: torch.device
) -> Iterator[torch.UntypedStorage]:
    """Yield the storages of tensors on a type of device: two for each sparse tensor."""
    for tensor in tensors:
        if tensor.device.type != device.type:
            continue
        if tensor.layout == torch.strided:
            yield tensor.untyped_storage()
        elif tensor.layout == torch.sparse_coo:
            parts = tensor._indices(), tensor._values()  # noqa: SLF001 (public ones coalesce)
            yield from (each.untyped_storage() for each in parts)
        else:
            raise NotImplementedError(f"cannot find the storages of layout {tensor.layout}")


def rounded(size: int, granule: int) -> int:
    """Round a size up to a multiple of a granule."""
    return -(-size // granule) * granule


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
        allocated = 0 if device.type == "cpu" else _allocator(device).memory_allocated(device)
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
