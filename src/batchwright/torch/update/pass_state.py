"""What a pass through a model changes besides gradients: random states and buffers."""

from __future__ import annotations

import random
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from batchwright._records import kept_back
from batchwright.errors import UpdateError


@dataclass(frozen=True, eq=False)
class TorchRandomState:
    """The states of torch's generators.

    Attributes:
        cpu: State of the generator on the CPU.
        devices: Device → state of its generator.
    """

    cpu: torch.Tensor
    devices: dict[torch.device, torch.Tensor]

    @classmethod
    def capture(cls, devices: frozenset[torch.device]) -> Self:
        """Copy the present states; `devices` are those of the model."""
        states = {each: _generator(each).get_rng_state(each) for each in devices}
        return cls(torch.get_rng_state(), states)

    def restore(self) -> None:
        """Put the copied states back."""
        torch.set_rng_state(self.cpu)
        for device, state in self.devices.items():
            _generator(device).set_rng_state(state, device)

    def moved(self) -> bool:
        """Return whether the generators have been drawn from since."""
        return not torch.equal(self.cpu, torch.get_rng_state()) or any(
            not torch.equal(state, _generator(device).get_rng_state(device))
            for device, state in self.devices.items()
        )


@dataclass(frozen=True, eq=False)
class RandomState:
    """The states of all global generators that a pass may draw from.

    Attributes:
        generators: Of torch.
        python: Of Python's `random`.
        numpy: Of NumPy's legacy functions.
    """

    generators: TorchRandomState
    python: Any
    numpy: Any

    @classmethod
    def capture(cls, devices: frozenset[torch.device]) -> Self:
        """Copy the present states; `devices` are those of the model."""
        # NumPy's global generator is the user's to use; here it is only read.
        numpy = np.random.get_state()  # noqa: NPY002
        return cls(TorchRandomState.capture(devices), random.getstate(), numpy)

    def restore(self) -> None:
        """Put the copied states back."""
        self.generators.restore()
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002


_NO_COPY = (
    "out of memory, and the update cannot start again: the buffer {} changed in this update for "
    "the first time, and there is no copy of it. From the next update on there is."
)


@dataclass(frozen=True, eq=False)
class _Slot:
    """Where a buffer is.

    Attributes:
        module: The module that holds it; weak, so that no trace keeps a model alive.
        name: Its name there.
        path: Its name in the model.
    """

    module: weakref.ref[torch.nn.Module]
    name: str
    path: str

    @property
    def buffer(self) -> torch.Tensor | None:
        """The tensor that is there now."""
        return getattr(self.module(), self.name, None)


@dataclass(frozen=True, eq=False)
class _Saved:
    """A buffer as it was.

    Attributes:
        place: Its number among the model's.
        buffer: The tensor that the module held.
        version: How often it had been changed in place.
        copy: Its values; None where no pass has been seen to change it.
    """

    place: int
    buffer: torch.Tensor
    version: int
    copy: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class PassState:
    """Random states and buffers of a model, as they were before a pass. Made by `PassTrace`."""

    trace: PassTrace
    random: RandomState
    buffers: tuple[_Saved, ...]

    def refuse_late_buffers(self) -> None:
        """Raise if passes have registered a buffer since: there is no copy of it to go back to.

        Raises:
            UpdateError: Naming it.
        """
        self.trace.add_slots()
        copied = {saved.place for saved in self.buffers}
        for place, slot in enumerate(self.trace.slots):
            if place not in copied and slot.buffer is not None:
                raise UpdateError(_NO_COPY.format(slot.path))

    def restore(self) -> None:
        """Put everything back; buffers that passes have registered since stay.

        Raises:
            UpdateError: If a buffer changed that no pass had changed before: it was not copied.
        """
        self.random.restore()
        for saved in self.buffers:
            slot = self.trace.slots[saved.place]
            if slot.buffer is not saved.buffer:
                setattr(slot.module(), slot.name, saved.buffer)
            if saved.copy is not None:
                _overwrite(saved.buffer, saved.copy)
            elif _version(saved.buffer) != saved.version:
                self.trace.changing.add(saved.place)
                raise UpdateError(_NO_COPY.format(slot.path))

    def learn(self) -> None:
        """Note which buffers the first pass has changed, so that later states copy those."""
        if self.trace.learned:
            return
        self.trace.learned = True
        self.trace.add_slots()
        for saved in self.buffers:
            present = self.trace.slots[saved.place].buffer
            if present is not saved.buffer or (
                saved.copy is not None and not _same(present, saved.copy)
            ):
                self.trace.changing.add(saved.place)


class PassTrace:
    """The buffers and devices of a model, and which buffers passes change.

    Which buffers change is learned from the first pass: copying all of them before every update
    would cost more than the update where masks and tables are buffers.

    Args:
        model: The model.

    Attributes:
        slots: Where its buffers are.
        changing: Numbers of the buffers that some pass has changed.
        learned: Whether a pass has been looked at.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Dropout())
        >>> state = PassTrace(model).capture()
        >>> _ = model(torch.randn(4, 2))
        >>> state.restore()
        >>> model[0].running_mean.tolist(), int(model[0].num_batches_tracked)
        ([0.0, 0.0], 0)
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = weakref.ref(model)
        self.changing: set[int] = set()
        self.slots: list[_Slot] = []
        self.add_slots()
        self.devices = devices_of(model)
        self.learned = False

    def add_slots(self) -> None:
        """Look for buffers that have been registered since."""
        model = self.model()
        known = {(id(slot.module()), slot.name) for slot in self.slots}
        added = [
            _Slot(weakref.ref(module), name, f"{prefix}.{name}" if prefix else name)
            for prefix, module in ([] if model is None else model.named_modules())
            for name, buffer in module.named_buffers(recurse=False)
            if not isinstance(buffer, torch.nn.parameter.UninitializedBuffer)
            and (id(module), name) not in known
        ]
        self.changing.update(range(len(self.slots), len(self.slots) + len(added)))
        self.slots += added

    def capture(self, *, every_buffer: bool = False) -> PassState:
        """Copy random states, and the buffers that passes change.

        Args:
            every_buffer: Copy all buffers, as is done until a pass has been looked at.
        """
        every_buffer = every_buffer or not self.learned
        if every_buffer:
            self.add_slots()
        saved = []
        for place, slot in enumerate(self.slots):
            buffer = slot.buffer
            if buffer is not None:
                copied = every_buffer or place in self.changing
                copy = buffer.detach().clone() if copied else None
                saved.append(_Saved(place, buffer, _version(buffer), copy))
        return PassState(self, RandomState.capture(self.devices), tuple(saved))


@contextmanager
def untouched(model: torch.nn.Module) -> Iterator[None]:
    """Undo what passes do meanwhile: to gradients, buffers, random states and records of losses.

    Gradients are None inside, and what they were afterwards.

    Args:
        model: The model.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> with untouched(model):
        ...     model(torch.rand(3, 2)).sum().backward()
        >>> model.weight.grad is None
        True
    """
    state = PassTrace(model).capture()
    gradients = [(each, each.grad) for each in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with kept_back(on_trial=True):
            yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        state.restore()


def devices_of(model: torch.nn.Module) -> frozenset[torch.device]:
    """Return the devices besides the CPU that hold parameters of a model."""
    devices = {each.device for each in model.parameters()}
    return frozenset(each for each in devices if each.type not in {"cpu", "meta"})


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # noqa: SLF001


def _same(tensor: torch.Tensor, copy: torch.Tensor) -> bool:
    if tensor.shape != copy.shape:
        return False
    if tensor.is_floating_point():
        return bool(((tensor == copy) | (tensor.isnan() & copy.isnan())).all())
    return torch.equal(tensor, copy)


@torch.no_grad()
def _overwrite(buffer: torch.Tensor, copy: torch.Tensor) -> None:
    if buffer.shape == copy.shape:
        buffer.copy_(copy)
    else:  # observers of a quantization change the shape
        buffer.set_(copy.clone())  # type: ignore[call-overload]


def _generator(device: torch.device) -> Any:
    """Return the module with the random state of a kind of device: `torch.cuda` and the like."""
    return torch.get_device_module(device)
