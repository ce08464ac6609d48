"""What a step allocates, when, and what for: a ledger of the storages of fake tensors.

PyTorch's `torch.distributed._tools.mem_tracker` follows storages in the same way, but keeps only
peaks. Here the whole step is kept, so that steps of several shapes can be compared.
"""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from batchwright.torch.data.trees import tensors_of
from batchwright.typing import IntArray

Phase: TypeAlias = Literal["batch", "forward", "backward", "optimizer"]
"""Where in a step something happens."""


@dataclass(frozen=True)
class Allocation:
    """A storage allocated during a step: by which operator, when, and how large after rounding."""

    op: str
    phase: Phase
    shape: tuple[int, ...]
    dtype: torch.dtype
    bytes: int


@dataclass(frozen=True, eq=False)
class Timeline:
    """What a step allocated and freed, in order."""

    allocations: tuple[Allocation, ...]
    events: IntArray  # int64[e], i + 1 where allocation i is made, -(i + 1) where it is freed
    class_sizes: frozenset[int]  # of log-softmaxes, as cross-entropy takes over classes
    score_sizes: frozenset[int]  # of softmaxes, as attention takes over keys

    @cached_property
    def levels(self) -> IntArray:
        """Bytes allocated after each event, int64[e]."""
        sizes = np.array([each.bytes for each in self.allocations], dtype=np.int64)
        levels: IntArray = np.cumsum(sizes[np.abs(self.events) - 1] * np.sign(self.events))
        return levels

    @cached_property
    def moments(self) -> dict[Phase, int]:
        """Phase → the event after which it holds the most; one of them is the peak."""
        births = np.flatnonzero(self.events > 0)  # a phase is never highest after a free
        phases = np.array([each.phase for each in self.allocations])
        within = {each.phase: births[phases == each.phase] for each in self.allocations}
        return {phase: int(each[self.levels[each].argmax()]) for phase, each in within.items()}

    @property
    def peak(self) -> int:
        """The most bytes allocated at once, above what was there before the step."""
        return int(self.levels.max())

    def live(self, moment: int) -> IntArray:
        """Return the indices of the allocations that are live after an event, int64[m]."""
        alive = np.zeros(len(self.allocations), dtype=np.int64)
        past = self.events[: moment + 1]
        np.add.at(alive, np.abs(past) - 1, np.sign(past))
        return np.flatnonzero(alive)


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
        self._known: dict[int, int] = {}
        self._allocations: list[Allocation] = []
        self._events: list[int] = []
        self._classes: set[int] = set()
        self._scores: set[int] = set()

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

    def timeline(self) -> Timeline:
        """Return what was recorded so far."""
        return Timeline(
            tuple(self._allocations),
            np.array(self._events, dtype=np.int64),
            frozenset(self._classes),
            frozenset(self._scores),
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator and record what it returns."""
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "_log_softmax":
            self._classes.add(args[0].shape[args[1]])
        elif name in {"_softmax", "_safe_softmax"}:
            self._scores.add(args[0].shape[args[1]])
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


def kinds_of(timelines: Sequence[Timeline]) -> list[str]:
    """Return what each allocation is for, given the same step at several shapes.

    A coincidence at one shape, such as a width that equals the length, is none at the others.
    """
    classes = frozenset.intersection(*(each.class_sizes for each in timelines))
    scores = [each.score_sizes for each in timelines]
    alike = zip(*(each.allocations for each in timelines), strict=True)
    return [_kind(same, classes, scores) for same in alike]


def _kind(
    same: Sequence[Allocation], classes: frozenset[int], scores: Sequence[frozenset[int]]
) -> str:
    phase = same[0].phase
    if phase == "batch":
        return "batch"
    if phase == "optimizer":
        return "optimizer step"
    if len({each.bytes for each in same}) == 1 and len(same) > 1:
        return "gradients" if phase == "backward" else "copies of weights"
    if all(any(size in each.shape for size in classes) for each in same):
        return "logits"
    if all(_is_score(each.shape, sizes) for each, sizes in zip(same, scores, strict=True)):
        return "attention scores"
    return "activations" if phase == "forward" else "backward pass"


def _is_score(shape: tuple[int, ...], sizes: frozenset[int]) -> bool:
    """Return whether a shape ends in queries × keys, over which a softmax was taken."""
    return len(shape) > 2 and shape[-1] == shape[-2] and shape[-1] in sizes
