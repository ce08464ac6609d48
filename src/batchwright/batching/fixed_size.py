"""Batches of a fixed number of samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from batchwright._checks import keep_whole
from batchwright._keyed import all_permuted
from batchwright.batching.cut import Take, offsets_of, ranges
from batchwright.batching.draft import Draft, Request
from batchwright.layout import Padded
from batchwright.lengths import totals
from batchwright.typing import Cuts, FloatArray, IntArray, Oversize, Wanted

MEGABATCH = 50
"""Batches whose samples `LengthGrouped` sorts together."""


@dataclass(frozen=True, eq=False)
class Even:
    """Batches of a fixed size, of samples in a random order: the last few share what is left."""

    num_samples: int
    num_batches: int
    batch_size: int

    @property
    def _full(self) -> int:
        """Batches that are full."""
        least = -(-self.num_samples // self.batch_size)
        return max(0, self.num_samples // self.batch_size - self.num_batches + least)

    def begins(self, numbers: IntArray) -> IntArray:
        """Return where batches begin in the random order, int64[k]."""
        full = self._full
        rest = self.num_samples - full * self.batch_size
        beyond = np.maximum(numbers - full, 0)
        shared = beyond * rest // max(1, self.num_batches - full)
        begins: IntArray = np.minimum(numbers, full) * self.batch_size + shared
        return begins

    def identity(self) -> str:
        """See `Cut.identity`."""
        return repr(self)

    def keys(self) -> FloatArray:
        """See `Cut.keys`: all batches are random samples."""
        return np.zeros(self.num_batches)

    def only_of(self, positions: IntArray, key: int, shares: int) -> IntArray:
        """See `Cut.only_of`: all batches that are small enough."""
        sizes = np.diff(self.begins(np.arange(self.num_batches + 1)))
        return np.flatnonzero(positions.size >= np.maximum(sizes // shares, 1))

    def split_to(self, num_batches: int) -> Even:
        """Return as many batches, where the last few are smaller."""
        return replace(self, num_batches=num_batches)

    def one(self, rank: int, key: int) -> IntArray:
        """See `Cut.one`."""
        low, high = (int(begin) for begin in self.begins(np.array([rank, rank + 1])))
        return all_permuted(np.arange(low, high, dtype=np.uint64), self.num_samples, key).view(
            np.int64
        )

    def some(self, ranks: IntArray, key: int) -> tuple[IntArray, IntArray]:
        """See `Cut.some`."""
        begins = self.begins(ranks)
        sizes = self.begins(ranks + 1) - begins
        places = ranges(begins, sizes).view(np.uint64)
        return all_permuted(places, self.num_samples, key).view(np.int64), offsets_of(sizes)

    def all(
        self, ranks: IntArray, key: int, take: Take
    ) -> tuple[npt.NDArray[np.integer[Any]], IntArray]:
        """See `Cut.all`."""
        found, offsets = self.some(ranks, key)
        return take(found), offsets


@dataclass(frozen=True)
class FixedSize:
    """Put a fixed number of samples into each batch, in the sequence of the order.

    The last batch takes what is left, and a few are split where ranks need equal counts; none
    is dropped. The baseline, and the control for every other batching.

    Args:
        batch_size: Samples in a batch.
        pad_to_multiple_of: Rows are padded to a multiple of this.

    Example:
        >>> import batchwright as bw
        >>> plan = bw.plan([3, 5, 2, 4, 1], batching=FixedSize(2), order=bw.Sequential())
        >>> [batch.tolist() for batch in plan]
        [[0, 1], [2, 3], [4]]
    """

    batch_size: int
    pad_to_multiple_of: int = 1

    oversize: ClassVar[Oversize] = "error"  # no sample is too long: samples are counted

    def __post_init__(self) -> None:
        keep_whole(self, "batch_size", "pad_to_multiple_of")

    @property
    def layout(self) -> Padded:
        """Padded rows, a limited number of them."""
        return Padded(max_samples=self.batch_size, multiple=self.pad_to_multiple_of)

    def cuts(self, values: IntArray, counts: IntArray) -> Cuts | None:
        """Return itself: see `Cuts`."""
        return self

    phases: ClassVar[int] = 1

    def cut(self, values: IntArray, counts: IntArray, wanted: Wanted) -> Even:
        """Cut a random sequence; see `Cuts`."""
        size = int(counts.sum())
        return Even(
            size, max(wanted.num_batches or 0, -(-size // self.batch_size)), self.batch_size
        )

    def count(self, request: Request) -> int:
        """Return the number of samples over the batch size, rounded up."""
        return -(-request.pools.members.size // self.batch_size)

    def draft(self, request: Request) -> Draft:
        """Cut the sequence of the order every `batch_size` samples. O(m)."""
        sequence = request.pools.sequence(request.rng)
        edges = np.append(np.arange(0, sequence.size, self.batch_size), sequence.size)
        return Draft.of_sequence(request, sequence, edges)


@dataclass(frozen=True)
class LengthGrouped(FixedSize):
    """Sort the samples of every 50 batches by length, and keep that sequence: a control.

    Updates descend from long samples to short ones, again and again, as under ``group_by_length``
    of Hugging Face Transformers. Takes the arguments of `FixedSize`.
    """

    def cuts(self, values: IntArray, counts: IntArray) -> None:
        """Return None: its sequence is sorted, stretch by stretch, from a random one."""

    def draft(self, request: Request) -> Draft:
        """Sort within megabatches, and cut. O(m log m)."""
        plain = super().draft(request)
        sequence = plain.indices
        group = np.arange(sequence.size) // (MEGABATCH * self.batch_size)
        lengths = totals(request.lengths)[sequence].astype(np.int64)
        return Draft(sequence[np.lexsort((-lengths, group))], plain.offsets)
