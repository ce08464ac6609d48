"""What a training step allocates and frees, kept in full.

PyTorch's `torch.distributed._tools.mem_tracker` follows storages in the same way, but keeps only
peaks; here the whole step is kept, so that steps of several shapes can be compared.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from batchwright.torch.data.trees import tensors_of
from batchwright.typing import IntArray

Phase: TypeAlias = Literal["batch", "forward", "backward", "optimizer"]
"""Where in a step something happens."""


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
