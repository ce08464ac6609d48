"""Passes through a model: what they change, how it is undone, how they run alone and repeatably."""

from __future__ import annotations

import enum
import functools
import inspect
import random
import types
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, TypeAlias, cast

import numpy as np
import torch
from torch import distributed
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from batchwright._records import kept_back
from batchwright.errors import LossError, UpdateError
from batchwright.typing import Batch

LossSum: TypeAlias = Callable[[Any, Batch], torch.Tensor]
"""``(model, batch) → the sum of the loss``, a scalar."""


def refuse_other_functions(loss_sum: object) -> None:
    """Raise unless an object can be called as ``loss_sum(model, batch)``."""
    if not callable(loss_sum):
        given = "a loss" if isinstance(loss_sum, torch.Tensor) else repr(loss_sum)
        raise LossError(
            f"update.backward got {given}, expected a function and a batch: loss_sum(model, batch) "
            "→ the sum of the loss. Only then can the batch be split and run again."
        )
    try:
        inspect.signature(loss_sum).bind(None, None)
    except TypeError as error:
        raise LossError(
            f"loss_sum cannot be called as loss_sum(model, batch): {error}. A closure over the "
            "batch cannot be split; take model and batch as arguments."
        ) from error
    except ValueError:
        return  # a builtin without a signature: calling it will show


def refuse_other_losses(loss: object) -> None:
    """Raise unless a loss is one number with a gradient."""
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        shape = list(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise LossError(
            f"loss_sum returned {shape}, expected a tensor of one number: the loss summed over "
            'the batch (reduction="sum").'
        )
    if not loss.requires_grad:
        raise LossError("loss_sum returned a loss without a gradient. Is the model frozen?")


def modules_of(loss_sum: LossSum) -> list[torch.nn.Module]:
    """Return the modules that a loss function uses besides the model."""
    held: list[object] = []
    waiting: list[object] = [loss_sum]
    while waiting:
        value = waiting.pop()
        held.append(value)
        if isinstance(value, functools.partial):
            waiting += _held(value)
        elif isinstance(value, types.MethodType):
            waiting.append(value.__func__)
            held += _held(value)
        elif isinstance(value, types.FunctionType):
            known = value.__globals__
            held += [known[name] for name in value.__code__.co_names if name in known]
            held += _held(value)
        elif value is loss_sum and not isinstance(value, torch.nn.Module):
            held += _held(value)
    return [each for each in held if isinstance(each, torch.nn.Module)]


def identity(loss_sum: LossSum) -> tuple[Hashable, Hashable]:
    """Return what stays the same when a loop makes its loss function anew for every update."""
    function: Any = loss_sum
    while isinstance(function, functools.partial):
        function = function.func
    kind: Any = type(function)
    return getattr(function, "__code__", kind), _parts(loss_sum, 3)


def _held(value: object) -> list[object]:
    """Return what a callable holds: arguments, attributes, closed-over variables."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        owner = value.__self__
        return [value.__func__, *([owner] if isinstance(owner, torch.nn.Module) else _held(owner))]
    if not isinstance(value, types.FunctionType):
        return [*getattr(value, "__dict__", {}).values()]
    held = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    for cell in value.__closure__ or ():
        with suppress(ValueError):  # not assigned yet
            held.append(cell.cell_contents)
    return held


def _parts(value: object, depth: int) -> Hashable:
    """Return what distinguishes a value from others of its code or class."""
    kind: Hashable = cast("Hashable", type(value))
    if value is None or isinstance(
        value, str | bool | enum.Enum | type | types.CodeType | types.BuiltinFunctionType
    ):
        same: Hashable = value
        return same
    if not depth or isinstance(value, torch.Tensor):
        return kind
    held: list[object]
    if isinstance(value, tuple):
        held = [*value]
    elif isinstance(value, torch.nn.Module):
        settings = (each for name, each in vars(value).items() if name != "training")
        held = [kind, *(each for each in settings if isinstance(each, str | bool))]
        held += value.children()
    elif callable(value):
        held = [getattr(value, "__code__", kind), *_held(value)]
    else:
        return kind
    return tuple(_parts(each, depth - 1) for each in held)


_NO_COPY = (
    "out of memory, and the update cannot start again: the buffer {} changed in this update for "
    "the first time, and there is no copy of it. From the next update on there is."
)


@dataclass(frozen=True, eq=False)
class TorchRandomState:
    """The states of torch's generators: on the CPU, and on the devices of a model."""

    cpu: torch.Tensor
    devices: dict[torch.device, torch.Tensor]

    @classmethod
    def capture(cls, devices: Iterable[torch.device]) -> Self:
        """Copy the present states."""
        states = {each: torch.get_device_module(each).get_rng_state(each) for each in devices}
        return cls(torch.get_rng_state(), states)

    def restore(self) -> None:
        """Put the copied states back."""
        torch.set_rng_state(self.cpu)
        for device, state in self.devices.items():
            torch.get_device_module(device).set_rng_state(state, device)

    def moved(self) -> bool:
        """Return whether numbers have been drawn since."""
        now = TorchRandomState.capture(self.devices)
        same = (torch.equal(state, now.devices[device]) for device, state in self.devices.items())
        return not (torch.equal(self.cpu, now.cpu) and all(same))


@dataclass(frozen=True, eq=False)
class RandomState(TorchRandomState):
    """The states of all global generators that a pass may draw from, Python's and NumPy's too."""

    # NumPy's global generator is the user's; here it is only read.
    numpy: Any = field(default_factory=np.random.get_state)
    python: Any = field(default_factory=random.getstate)

    def restore(self) -> None:
        """Put the copied states back."""
        super().restore()
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002


@dataclass(eq=False)
class _Slot:
    """A place for a buffer, without keeping its module alive."""

    module: weakref.ref[torch.nn.Module]
    name: str
    path: str
    changes: bool = True  # until a pass has shown that it does not

    @property
    def buffer(self) -> torch.Tensor | None:
        return getattr(self.module(), self.name, None)


class _Saved(NamedTuple):
    """A buffer before a pass. `copy` is None where no pass has changed it so far."""

    slot: _Slot
    buffer: torch.Tensor
    version: int
    copy: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class PassState:
    """Random states and buffers of a model before a pass. Made by `PassTrace.capture`."""

    trace: PassTrace
    random: RandomState
    buffers: tuple[_Saved, ...]

    def restore(self) -> None:
        """Put everything back; buffers that were registered since stay."""
        self.random.restore()
        for slot, buffer, version, copy in self.buffers:
            if slot.buffer is not buffer:
                setattr(slot.module(), slot.name, buffer)
            if copy is not None:
                _overwrite(buffer, copy)
            elif _version(buffer) != version:
                slot.changes = True
                raise UpdateError(_NO_COPY.format(slot.path))

    def refuse_late_buffers(self) -> None:
        """Raise if passes have registered a buffer since: there is no copy of it to go back to."""
        self.trace.add_slots()
        saved = {id(slot) for slot, *_ in self.buffers}
        for slot in self.trace.slots:
            if id(slot) not in saved and slot.buffer is not None:
                raise UpdateError(_NO_COPY.format(slot.path))

    def learn(self) -> None:
        """Note which buffers the first pass has left alone: later states do not copy those."""
        if self.trace.learned:
            return
        self.trace.learned = True
        self.trace.add_slots()
        for slot, buffer, _, copy in self.buffers:
            # In evaluation these do not change, and in training torch leaves their version alone.
            slot.changes = (
                isinstance(slot.module(), _NormBase)
                or slot.buffer is not buffer
                or (copy is not None and not _same(buffer, copy))
            )


class PassTrace:
    """The buffers of a model, and which of them passes change, learned from the first pass.

    Copying masks and tables before every update would cost more than the update.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = weakref.ref(model)
        self.slots: list[_Slot] = []
        self.add_slots()
        self.devices = devices_of(model)
        self.learned = False

    def add_slots(self) -> None:
        """Look for buffers that have been registered since."""
        model = self.model()
        known = {(id(slot.module()), slot.name) for slot in self.slots}
        self.slots += [
            _Slot(weakref.ref(module), name, f"{prefix}.{name}" if prefix else name)
            for prefix, module in ([] if model is None else model.named_modules())
            for name, buffer in module.named_buffers(recurse=False)
            if not isinstance(buffer, torch.nn.parameter.UninitializedBuffer)
            and (id(module), name) not in known
        ]

    def capture(self) -> PassState:
        """Copy random states, and the buffers that passes change: at first, all."""
        if not self.learned:
            self.add_slots()
        saved = []
        for slot in self.slots:
            buffer = slot.buffer
            if buffer is not None:
                copy = buffer.detach().clone() if slot.changes else None
                saved.append(_Saved(slot, buffer, _version(buffer), copy))
        return PassState(self, RandomState.capture(self.devices), tuple(saved))


@contextmanager
def untouched(*modules: torch.nn.Module) -> Iterator[PassState]:
    """Undo what passes change meanwhile: gradients, buffers, random states, records of losses.

    Gradients are None inside. Yields the state of the first module.
    """
    states = [PassTrace(each).capture() for each in dict.fromkeys(modules)]
    parameters = dict.fromkeys(each for module in modules for each in module.parameters())
    gradients = {each: each.grad for each in parameters}
    for parameter in parameters:
        parameter.grad = None
    try:
        with kept_back(on_trial=True):
            yield states[0]
    finally:
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        for state in reversed(states):
            state.restore()


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode; afterwards each module is in its mode of before."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def devices_of(model: torch.nn.Module) -> frozenset[torch.device]:
    """Return the devices besides the CPU that hold parameters of a model."""
    devices = {each.device for each in model.parameters()}
    return frozenset(each for each in devices if each.type not in {"cpu", "meta"})


class ExchangeError(UpdateError):
    """A loss exchanges tensors with other ranks."""


def refused_exchange() -> TorchDispatchMode | nullcontext[None]:
    """Refuse operations that would wait for other ranks, by `ExchangeError`."""
    if not distributed.is_available() or not distributed.is_initialized():
        return nullcontext()
    return _RefusedExchange()  # type: ignore[no-untyped-call]


class _RefusedExchange(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if func.namespace.lstrip("_").startswith("c10d"):
            raise ExchangeError("the loss exchanges tensors with other ranks")
        return func(*args, **(kwargs or {}))


class FixedRandomness(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes random operations deterministic, each row alike, in forward and in backward.

    Dropout keeps everything; other draws give one constant; a permutation shifts by one, so that
    losses that pair rows at random still pair different rows.

    Example:
        >>> with FixedRandomness():
        ...     torch.nn.functional.dropout(torch.ones(3), 0.5).tolist(), torch.randperm(3).tolist()
        ([2.0, 2.0, 2.0], [1, 2, 0])
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run an operation, or what stands in for it."""
        kwargs = dict(kwargs or {})
        schema = func._schema  # noqa: SLF001 (there is no other way to a schema)
        name = schema.name.removeprefix("aten::")
        dropout = {"dropout_p", "dropout", "p"} if name == "native_dropout" else _DROPOUT
        names = [argument.name for argument in schema.arguments]
        given: dict[str, Any] = dict(zip(names, args, strict=False)) | kwargs
        args = tuple(0.0 if name in dropout else given[name] for name in names[: len(args)])
        kwargs |= dict.fromkeys(kwargs.keys() & dropout, 0.0)
        drawn = func(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return drawn
        if name.startswith("randperm"):
            return drawn.copy_(torch.arange(drawn.numel(), device=drawn.device).roll(-1))
        if not name.startswith(_DRAWS):
            return drawn
        one = name.startswith("bernoulli")
        low = int(given.get("low", given.get("from")) or 0)
        return tree_map_only(
            torch.Tensor,
            lambda each: each.fill_(1 if one else 0.5 if each.is_floating_point() else low),
            drawn,
        )


_DROPOUT = frozenset({"dropout_p", "dropout"})
_DRAWS = (
    *("bernoulli", "cauchy", "exponential", "geometric", "log_normal", "multinomial", "normal"),
    *("poisson", "rand", "uniform"),
)


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # noqa: SLF001


def _same(tensor: torch.Tensor, copy: torch.Tensor) -> bool:
    if tensor.shape != copy.shape:
        return False
    return bool(((tensor == copy) | (tensor.isnan() & copy.isnan())).all())


def _overwrite(buffer: torch.Tensor, copy: torch.Tensor) -> None:
    if buffer.shape == copy.shape:
        buffer.data.copy_(copy)  # leaves the version alone, which other states compare
    else:  # observers of a quantization change the shape
        with torch.no_grad():
            buffer.set_(copy.clone())  # type: ignore[call-overload]
