"""The types that pass between the parts of the library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    Protocol,
    TypeAlias,
    runtime_checkable,
)

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from batchwright.batches import Entries
    from batchwright.batching.cut import Cut
    from batchwright.batching.draft import Draft, Request
    from batchwright.batching.fixed_size import Even
    from batchwright.layout import Layout, Packed, Padded
    from batchwright.order.pools import Pools

__all__ = [
    "Batching",
    "Cuts",
    "IndexOfLengths",
    "LengthPacing",
    "Order",
    "Pacing",
    "Parts",
    "PartsOf",
    "Sorted",
    "SortedBatching",
    "SortedOrder",
    "SortedShards",
    "VaryingOrder",
    "Wanted",
]

IntArray: TypeAlias = npt.NDArray[np.int64]
"""int64[m]: sample indices, offsets or sizes."""

LengthArray: TypeAlias = npt.NDArray[np.integer[Any]]
"""integer[n]: one length per sample, in whatever integer type the user keeps them."""

IntoLengths: TypeAlias = npt.ArrayLike | Sequence[int]
"""Anything NumPy can read as lengths: a list, an array, a tensor on the CPU."""

FloatArray: TypeAlias = npt.NDArray[np.float64]
"""float64[b]: one figure per batch."""

Last: TypeAlias = Literal["short", "drop", "repeat"]
"""What becomes of samples that are too few for a whole last update."""

Empty: TypeAlias = Literal["error", "drop", "one"]
"""What becomes of samples of length 0: an error, left out of all plans, or counted as length 1."""

Cost: TypeAlias = Literal["padded", "quadratic"] | Callable[[FloatArray], FloatArray]
"""What balance is measured in: a name, or a function of lengths, per row."""

Batch: TypeAlias = Any
"""A batch as the user's collate function makes it: a tensor, or a dict, tuple or dataclass of row
fields."""

Sample: TypeAlias = Any
"""A sample as the user's data set returns it."""

Field: TypeAlias = Any
"""What a sample or a batch has under one name: a tensor, an array, a number, a list."""

State: TypeAlias = dict[str, Any]
"""What `state_dict` returns: strings, numbers, lists and arrays."""

Oversize: TypeAlias = Literal["error", "drop", "truncate", "split"]
"""What becomes of a sample that alone exceeds the budget."""


class Order(Protocol):
    """Which samples an epoch visits, and in what sequence.

    A pure function: the same lengths, seed and epoch give the same samples.
    """

    def __call__(self, lengths: LengthArray, *, seed: int, epoch: int) -> Pools | IntArray:
        """Return the samples of an epoch; a plain int64[m] is a binding sequence."""
        ...


@runtime_checkable
class VaryingOrder(Order, Protocol):
    """An order that says how its epochs differ in how many batches they need."""

    @property
    def probes(self) -> Sequence[int] | IntArray:
        """The epochs that are counted to find a number of batches for all."""
        ...

    @property
    def varies(self) -> bool:
        """Whether other epochs may need more batches than those."""
        ...


@runtime_checkable
class IndexOfLengths(Protocol):
    """An index that stands where lengths do, and knows their hash."""

    @property
    def num_samples(self) -> int:
        """How many samples there are."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of the lengths."""
        ...

    def __array__(
        self, dtype: npt.DTypeLike | None = None, *, copy: bool | None = None
    ) -> npt.NDArray[np.generic]:
        """Return the lengths, integer[n]."""
        ...


class Sorted(Protocol):
    """The samples of an epoch, or of a part of it, sorted from long to short."""

    @property
    def values(self) -> IntArray:
        """Distinct lengths, int64[r], from long to short."""
        ...

    @property
    def counts(self) -> IntArray:
        """How many samples have each, int64[r]."""
        ...

    def take(self, positions: IntArray) -> npt.NDArray[np.integer[Any]]:
        """Return the samples, or pieces of samples, at some positions, integer[...]."""
        ...

    def entries(self, taken: npt.NDArray[np.integer[Any]]) -> Entries:
        """Return the samples of what was taken, int64[m], and where in them pieces begin."""
        ...

    def identity(self) -> str:
        """Hash what the samples are found by."""
        ...


@runtime_checkable
class SortedShards(Sorted, Protocol):
    """Sorted samples of shards, of which some can be taken."""

    @property
    def shards(self) -> IntArray:
        """Which shards, int64[k]."""
        ...

    def surplus(self) -> FloatArray:
        """Return how much longer the samples of each shard are than the mean, float64[k]."""
        ...

    def some(self, shards: IntArray) -> Sorted:
        """Return the samples of some of the shards."""
        ...


class Parts(NamedTuple):
    """The samples of an epoch: batches of different parts are never mixed."""

    each: Sequence[Sorted]  # in sequence, none empty
    # Samples that the members of a part were drawn from, where they are fewest. None: not drawn.
    eligible: int | None = None
    deferred: IntArray | None = None  # int64[d], what was drawn and left out. None: nothing
    sequence: IntArray | None = None  # in which parts come in this epoch. None: as they are
    ranks_per_node: int | None = None  # that read the same parts. None: all ranks


class PartsOf(Protocol):
    """The parts of any epoch, a pure function."""

    def __call__(self, epoch: int, *, attempt: int = 0, most: int | None = None) -> Parts:
        """Return the parts of an epoch.

        Args:
            epoch: Zero or larger.
            attempt: From 1 on, in place of parts that need too many batches: other parts of the
                same samples, if there are any.
            most: As many samples at most, if the order can leave some out. None: all.
        """
        ...


@runtime_checkable
class SortedOrder(Protocol):
    """An order whose epochs can be read from samples sorted by length, without a list of them."""

    def by_length(self, samples: Sorted, num_samples: int, *, seed: int) -> PartsOf | None:
        """Return the parts of any epoch. None: not with these settings.

        Args:
            samples: All of them within the budget, or pieces of them.
            num_samples: How many there are in the data.
            seed: Zero or larger.
        """
        ...


class Wanted(NamedTuple):
    """Which cut of sorted samples is wanted."""

    strata: int  # batches of one update, over all ranks
    num_batches: int | None = None  # None: as few as the budget allows
    phase: int = 0  # which of the cuts that epochs take turns with


class Cuts(Protocol):
    """A batching that looks only at how many samples have each length: its cut suits all epochs."""

    @property
    def layout(self) -> Padded | Packed:
        """How a batch lies in memory, and its budget."""

    @property
    def phases(self) -> int:
        """How many cuts epochs take turns with."""

    def cut(self, values: IntArray, counts: IntArray, wanted: Wanted) -> Cut | Even:
        """Cut sorted samples into batches.

        Args:
            values: int64[r], distinct lengths from long to short, none above the budget.
            counts: int64[r], how many samples have each.
            wanted: How many batches to make, and for how large updates.

        Returns:
            The cut; of more batches than wanted, where the budget needs more.
        """


@runtime_checkable
class SortedBatching(Protocol):
    """A batching that needs to know only how many samples have each length."""

    def cuts(self, values: IntArray, counts: IntArray) -> Cuts | None:
        """Return how to cut samples of these lengths, int64[r]. None: not with these settings."""
        ...


@runtime_checkable
class Batching(Protocol):
    """How the samples of an epoch become batches.

    Pure functions of the request. No batch may exceed the budget, no sample may be left out, and
    none may be in a batch twice.
    """

    @property
    def layout(self) -> Layout:
        """How a batch lies in memory, and its budget."""
        ...

    @property
    def oversize(self) -> Oversize:
        """What becomes of a sample that alone exceeds the budget."""
        ...

    def count(self, request: Request) -> int:
        """Return a number of batches that every epoch of this order can keep."""
        ...

    def draft(self, request: Request) -> Draft:
        """Make the batches."""
        ...


class Pacing(Protocol):
    """Says how much of the data is eligible as training goes on, as a pure function of progress."""

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share of the samples that are eligible, in (0, 1].

        Args:
            progress: float[m], 0 or more; more than 1 counts as 1.

        Returns:
            float64[m]: one share for each progress; a number gives float64[].
        """
        ...


class LengthPacing(Protocol):
    """Says how long a sequence may be as training goes on: a `Pacing`, in tokens."""

    def __call__(self, progress: npt.ArrayLike) -> IntArray:
        """Return the longest sequence allowed at each progress, int64[m], in tokens."""
        ...
