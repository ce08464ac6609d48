"""What an order returns: samples in pools, inside which a batching may rearrange them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from batchwright._checks import takes
from batchwright._random import shuffled
from batchwright.errors import PlanError
from batchwright.typing import IntArray, Order, VaryingOrder

_T = TypeVar("_T")

_PROBES = (0, 1, 2, 3, 5, 10, 30, 100)


class Kept:
    """The last few results that epochs share: the only state that planning keeps.

    No plan depends on it. Without it, packing the same histogram again, or drawing the epochs
    before the next, would take seconds. Pickles and copies are empty.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """Return the value of a key, made if it is not there."""
        values = self._values  # read once: threads may share this
        if key not in values:
            self._values = values = dict([*values.items(), (key, make())][-self._most :])
        value: _T = values[key]
        return value

    def __reduce__(self) -> tuple[type[Kept], tuple[int]]:
        return (Kept, (self._most,))


@dataclass(frozen=True, eq=False)
class Pools:
    """The samples of one epoch, and how far a batching may move them.

    Pools come in sequence. A batching may sort or shuffle the samples of one pool.
    """

    members: IntArray  # int64[m], sample indices, pool after pool
    # int64[p + 1], where pools begin and end. None: the sequence of `members` is binding.
    offsets: IntArray | None
    # Samples that the members of a pool were drawn from, where they are fewest. None: not drawn.
    eligible: int | None = None
    # Whether the epoch may leave out the last few samples of each pool, should it need more
    # batches than every other epoch. Only for orders that draw.
    may_defer: bool = False

    @classmethod
    def one(cls, members: IntArray) -> Pools:
        """Return a single pool of all members."""
        return cls(members, np.array([0, members.size]))

    def __iter__(self) -> Iterator[IntArray]:
        edges = [0, self.members.size] if self.offsets is None else self.offsets.tolist()
        return (self.members[a:b] for a, b in pairwise(edges))

    @property
    def is_free(self) -> bool:
        """Whether samples may be rearranged at all."""
        return self.offsets is not None

    @property
    def is_one(self) -> bool:
        """Whether all samples may be rearranged as one pool."""
        return self.offsets is not None and self.offsets.size == 2

    def sequence(self, rng: np.random.Generator) -> IntArray:
        """Draw a sequence, int64[m]: each pool shuffled, or the binding one as it is."""
        if self.offsets is None:
            return self.members
        return shuffled(self.members, rng, pools=self.offsets)

    def with_more(self, added: IntArray) -> Pools:
        """Add samples, int64[r], to the last pool."""
        members, offsets = np.concatenate((self.members, added)), self.offsets
        if offsets is not None:
            offsets = np.unique([0, *offsets[:-1], members.size])
        return replace(self, members=members, offsets=offsets)

    def without(self, share: float, *, at_least: int) -> tuple[Pools, IntArray]:
        """Leave out a share of each pool, its last samples; return those left out, too, int64[r].

        At least one sample of each pool stays, and `at_least` in all.
        """
        offsets = np.array([0, self.members.size]) if self.offsets is None else self.offsets
        sizes = np.diff(offsets)
        kept = np.maximum(np.floor(sizes * (1 - share)).astype(np.int64), 1)
        if kept.sum() < at_least:
            return self.evenly_spaced(at_least)
        place = np.arange(self.members.size) - np.repeat(offsets[:-1], sizes)
        return self._parted(place < np.repeat(kept, sizes))

    def evenly_spaced(self, count: int) -> tuple[Pools, IntArray]:
        """Keep some samples, evenly spaced over all pools; return those left out, too."""
        size = self.members.size
        count = min(count, size)
        stay = np.zeros(size, dtype=np.bool_)
        stay[np.arange(count) * size // count] = True
        return self._parted(stay)

    def _parted(self, stay: npt.NDArray[np.bool_]) -> tuple[Pools, IntArray]:
        ends = None
        if self.offsets is not None:
            ends = np.unique(np.concatenate(([0], np.cumsum(stay)))[self.offsets])
        return Pools(self.members[stay], ends, None, self.may_defer), self.members[~stay]


class Variation(NamedTuple):
    """Which epochs of an order to count, and whether others may need more batches."""

    probes: tuple[int, ...]
    is_declared: bool  # the order names the probes itself
    varies: bool


def variation(order: Order) -> Variation:
    """Read which epochs an order names to be counted."""
    if isinstance(order, VaryingOrder):
        probes = tuple(int(epoch) for epoch in order.probes)
        return Variation(probes, is_declared=True, varies=order.varies)
    return Variation(_PROBES, is_declared=False, varies=True)


def as_order(order: Order) -> Order:
    """Return an order as it is; raise PlanError if it is none, such as a word or a class."""
    if isinstance(order, type) or not callable(order) or not takes(order, None, seed=0, epoch=0):
        raise PlanError(
            f"order={order!r}: expected Shuffle(), Sequential(), another order, or a function "
            "(lengths, *, seed, epoch) → sample indices."
        )
    return order


def as_pools(ordered: Pools | IntArray, num_samples: int, *, may_be_empty: bool = False) -> Pools:
    """Return pools of what an order returned; raise PlanError unless they hold sample indices."""
    try:
        pools = ordered if isinstance(ordered, Pools) else Pools(np.asarray(ordered), None)
    except (TypeError, ValueError) as error:
        raise PlanError(f"the order returned no array of sample indices ({error}).") from error
    members = np.asarray(pools.members)
    if may_be_empty and members.ndim == 1 and not members.size:
        return Pools(np.empty(0, dtype=np.int64), None)
    if members.ndim != 1 or not members.size or members.dtype.kind not in "iu":
        raise PlanError(
            f"the order returned {members.dtype}{list(members.shape)}, expected at least one "
            "sample index, int64[m]."
        )
    low, high = int(members.min()), int(members.max())
    if low < 0 or high >= num_samples:
        raise PlanError(
            f"the order returned samples {low} to {high}, there are 0 to {num_samples - 1}."
        )
    offsets = pools.offsets
    if offsets is not None:
        offsets = np.asarray(offsets)
        is_list = offsets.ndim == 1 and offsets.size > 1 and offsets.dtype.kind in "iu"
        spans = is_list and offsets[0] == 0 and offsets[-1] == members.size
        if not spans or (offsets[1:] < offsets[:-1]).any():
            raise PlanError(
                f"the order returned pools with offsets {offsets!r:.60}, expected rising "
                f"integers from 0 to {members.size}."
            )
        offsets = np.unique(offsets).astype(np.int64, copy=False)  # without empty pools
    return replace(pools, members=members.astype(np.int64, copy=False), offsets=offsets)
