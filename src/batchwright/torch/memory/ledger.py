"""What is allocated in a step, when, and by what: a ledger of fake tensors' storages.

The idea of following storages under fake tensors is PyTorch's own; see "Memory Tracker" in
`torch.distributed._tools.mem_tracker`. This ledger keeps the whole course of a step, so that
steps of several shapes can be laid side by side.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from batchwright.typing import IntArray

Phase: TypeAlias = Literal["batch", "forward", "backward", "optimizer"]
"""Where in a step something happens."""


@dataclass(frozen=True)
class Allocation:
    """A storage that came to be during a step.

    Attributes:
        op: The operator that returned it.
        phase: When.
        shape: Shape of the tensor it came in.
        dtype: Its type.
        bytes: Its size, as the allocator rounds it.
    """

    op: str
    phase: Phase
    shape: tuple[int, ...]
    dtype: torch.dtype
    bytes: int


@dataclass(frozen=True, eq=False)
class Timeline:
    """The course of a step: what was allocated and freed, one after the other.

    Attributes:
        allocations: In the order of their birth.
        events: int64[e], ``i + 1`` where allocation `i` is born, ``-(i + 1)`` where it is freed.
        class_sizes: Over how many classes a log-softmax was taken, as cross-entropy does.
        score_sizes: Over how many keys a softmax was taken, as attention does.
    """

    allocations: tuple[Allocation, ...]
    events: IntArray
    class_sizes: frozenset[int]
    score_sizes: frozenset[int]

    @cached_property
    def levels(self) -> IntArray:
        """Bytes there are after each event, int64[e]."""
        sizes = np.array([each.bytes for each in self.allocations], dtype=np.int64)
        levels: IntArray = np.cumsum(sizes[np.abs(self.events) - 1] * np.sign(self.events))
        return levels

    @cached_property
    def moments(self) -> dict[Phase, int]:
        """Phase → the event after which there is most in it; one of them is the peak."""
        births = np.flatnonzero(self.events > 0)  # there is never most after something was freed
        phases = np.array([each.phase for each in self.allocations])
        within = {each.phase: births[phases == each.phase] for each in self.allocations}
        return {phase: int(each[self.levels[each].argmax()]) for phase, each in within.items()}

    @property
    def peak(self) -> int:
        """The most bytes there are at once, above what was there before."""
        return int(self.levels.max())

    def live(self, moment: int) -> IntArray:
        """Return the allocations that are there after an event, int64[m]."""
        alive = np.zeros(len(self.allocations), dtype=np.int64)
        past = self.events[: moment + 1]
        np.add.at(alive, np.abs(past) - 1, np.sign(past))
        return np.flatnonzero(alive)


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operators make, on one device, until they are freed.

    Enter it inside of a `FakeTensorMode`; what happens in kernels is not seen.

    Args:
        device: Where storages count.
        granule: Sizes are rounded up to this, as the allocator of the device does.
    """

    phase: Phase = "batch"

    def __init__(self, device: torch.device, *, granule: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device
        self._granule = granule
        self._known: dict[int, int] = {}
        self._allocations: list[Allocation] = []
        self._events: list[int] = []
        self._classes: set[int] = set()
        self._scores: set[int] = set()

    def ignore(self, tensors: Iterable[torch.Tensor]) -> None:
        """Take tensors for known: they were there before."""
        for storage in storages(tensors, self._device):
            key = storage._cdata  # noqa: SLF001 (its identity)
            if key not in self._known:
                self._known[key] = -1
                # Should it be freed all the same, another storage may take its place.
                weakref.finalize(storage, self._known.pop, key, None).atexit = False

    def enter(self, tensors: Iterable[torch.Tensor], op: str) -> None:
        """Write down the storages that are not known yet."""
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

    def timeline(self) -> Timeline:
        """Return what has been written down so far."""
        return Timeline(
            tuple(self._allocations),
            np.array(self._events, dtype=np.int64),
            frozenset(self._classes),
            frozenset(self._scores),
        )

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operator and take note of what it returns."""
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "_log_softmax":
            self._classes.add(args[0].shape[args[1]])
        elif name in {"_softmax", "_safe_softmax"}:
            self._scores.add(args[0].shape[args[1]])
        self.enter(_tensors(result), name)
        return result

    def _freed(self, key: int, index: int) -> None:
        if self._known.get(key) == index:
            del self._known[key]
        self._events.append(-(index + 1))


def storages(
    tensors: Iterable[torch.Tensor], device: torch.device
) -> Iterator[torch.UntypedStorage]:
    """Yield the storages of tensors on a type of device: two each where they are sparse."""
    for tensor in tensors:
        if tensor.device.type != device.type:
            continue
        if tensor.layout == torch.strided:
            yield tensor.untyped_storage()
        elif tensor.layout == torch.sparse_coo:
            parts = tensor._indices(), tensor._values()  # noqa: SLF001 (public ones coalesce)
            yield from (each.untyped_storage() for each in parts)
        else:
            raise NotImplementedError(f"tensors of layout {tensor.layout} have parts unknown here")


def rounded(size: int, granule: int) -> int:
    """Round a size up to a multiple.

    Example:
        >>> rounded(700, 512), rounded(7, 1)
        (1024, 7)
    """
    return -(-size // granule) * granule


def _tensors(result: Any) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, tuple | list):
        return [tensor for each in result for tensor in _tensors(each)]
    return []
