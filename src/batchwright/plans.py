"""The plan: which samples share a batch, and in which sequence batches go through the model."""

import dataclasses
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt

from batchwright._checks import check_choice, keep_whole, whole_number
from batchwright._random import BLOCK
from batchwright.errors import PlanError
from batchwright.layout import Layout, Padded
from batchwright.lengths import Lengths
from batchwright.typing import IntArray, IntoLengths, Last, State

if TYPE_CHECKING:
    from batchwright.stats import PlanStats


@dataclass(frozen=True)
class Origin:
    """What a plan was made from, so that a wrong use of it can be refused."""

    num_samples: int | None = None  # how many lengths the plan was made for. None: unknown
    fingerprint: str | None = None  # hash of those lengths. None: unknown
    seed: int = 0
    epoch: int = 0
    world_size: int = 1  # ranks that share the plan
    accumulate: int = 1  # batches of one update on each rank
    # What becomes of samples that are too few for a whole last update; see `Planner`.
    last: Last = "short"
    is_shard: bool = False  # whether it is one rank's part of a plan

    def __post_init__(self) -> None:
        """Check the settings, which may come from a file."""
        keep_whole(self, "world_size", "accumulate", optional=("num_samples",))
        keep_whole(self, "seed", "epoch", least=0, most=2**4096)
        check_choice("Origin", "last", self.last, ("short", "drop", "repeat"))
        if not isinstance(self.fingerprint, str | None):
            raise PlanError(f"Origin(fingerprint={self.fingerprint!r:.60}): expected a string.")
        if not isinstance(self.is_shard, bool):
            raise PlanError(f"Origin(is_shard={self.is_shard!r:.60}): expected True or False.")


@dataclass(frozen=True, eq=False)
class Plan:
    """A sequence of batches, as two flat arrays.

    Batch `b` is ``indices[offsets[b]:offsets[b + 1]]``. Both arrays are read-only. A plan holds
    no length, no data and no random state; lengths are passed beside it.

    Args:
        indices: int64[m], sample indices, batch after batch.
        offsets: int64[b + 1], from 0 to m, strictly increasing: no batch is empty.
        starts: int64[m], where in its sample each entry begins, in tokens. None: at 0. Only a
            plan that splits long samples has it.
        dropped: Reason → int64 indices of the samples that were left out for it.
        layout: How a batch lies in memory, and the budget it keeps.
        origin: The lengths, seed, epoch and world that the plan was made for.
        repeated: int64[r], samples that were added because there were too few to fill the batches
            that all epochs and ranks have.

    Raises:
        PlanError: If the arrays are not a plan.

    Example:
        >>> plan = Plan(np.array([4, 0, 2]), np.array([0, 2, 3]))
        >>> len(plan), plan[0].tolist(), plan[-1].tolist()
        (2, [4, 0], [2])
        >>> [batch.tolist() for batch in plan.shard(1, world_size=2)]
        [[2]]
    """

    indices: IntArray
    offsets: IntArray
    starts: IntArray | None = None
    dropped: Mapping[str, IntArray] = field(default_factory=dict)
    layout: Layout = field(default_factory=Padded)
    origin: Origin = field(default_factory=Origin)
    repeated: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __post_init__(self) -> None:
        """Check the arrays."""
        for name in ("indices", "offsets", "starts", "repeated"):
            value = getattr(self, name)
            if value is not None or name != "starts":
                object.__setattr__(self, name, _frozen(value, name))
        if not isinstance(self.dropped, Mapping):
            raise PlanError(f"dropped={self.dropped!r:.60}: expected reason → sample indices.")
        parts = (("layout", Layout, "Padded(…) or Packed(…)"), ("origin", Origin, "an Origin"))
        for part, of, expected in parts:
            given = getattr(self, part)
            if not isinstance(given, of):
                raise PlanError(f"{part}={given!r:.60}: expected {expected}.")
        offsets = self.offsets
        if not offsets.size or offsets[0] != 0 or offsets[-1] != self.indices.size:
            ends = f"{offsets[0]} to {offsets[-1]}" if offsets.size else "nothing"
            raise PlanError(
                f"offsets go from {ends}, expected 0 to {self.indices.size} (all indices)."
            )
        if offsets.size == 1:
            raise PlanError("a plan needs at least one batch, got none.")
        empty = offsets[1:] <= offsets[:-1]  # a difference may wrap around
        if empty.any():
            batch = int(np.argmax(empty))
            raise PlanError(f"batch {batch} holds no sample. Offsets must increase strictly.")
        if self.starts is not None and self.starts.size != self.indices.size:
            raise PlanError(
                f"starts has {self.starts.size} entries for {self.indices.size} indices."
            )
        named = {reason: f"dropped[{reason!r}]" for reason in self.dropped}
        frozen = {reason: _frozen(value, named[reason]) for reason, value in self.dropped.items()}
        object.__setattr__(self, "dropped", frozen)
        arrays = {"indices": self.indices, "starts": self.starts, "repeated": self.repeated}
        arrays |= {named[reason]: array for reason, array in frozen.items()}
        for name, array in arrays.items():
            if array is not None and array.size and int(array.min()) < 0:
                place = int(np.argmin(array))
                raise PlanError(f"{name}[{place}] is {array[place]}, expected at least 0.")

    def __setstate__(self, state: State) -> None:
        """Make arrays read-only again, which a pickle forgets."""
        self.__dict__.update(state)
        arrays = (self.indices, self.offsets, self.starts, self.repeated, *self.dropped.values())
        for array in arrays:
            if array is not None:
                array.setflags(write=False)

    def __len__(self) -> int:
        """Count the batches."""
        return self.offsets.size - 1

    @overload
    def __getitem__(self, batch: int) -> IntArray: ...
    @overload
    def __getitem__(self, batch: slice) -> "Plan": ...
    def __getitem__(self, batch: int | slice) -> "IntArray | Plan":
        """Return one batch as int64 sample indices, or a slice of batches as a plan."""
        if isinstance(batch, slice):
            return self.take(np.arange(*batch.indices(len(self))))
        position = operator.index(batch)
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"batch {batch} of a plan of {len(self)} batches.")
        return self.indices[self.offsets[position] : self.offsets[position + 1]]

    def __iter__(self) -> Iterator[IntArray]:
        """Go through the batches as int64 arrays of sample indices."""
        return (self[batch] for batch in range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Compare batches, their sequence and what was dropped."""
        if not isinstance(other, Plan):
            return NotImplemented
        return self.digest() == other.digest()

    def __hash__(self) -> int:
        """Hash what `==` compares."""
        return hash(self.digest())

    def __repr__(self) -> str:
        """Describe the plan in a line."""
        return (
            f"Plan({len(self)} batches of {self.indices.size} samples, "
            f"epoch {self.origin.epoch}, seed {self.origin.seed})"
        )

    @property
    def sizes(self) -> IntArray:
        """Samples in each batch, int64[b]."""
        return np.diff(self.offsets)

    def digest(self) -> str:
        """Hash the batches: plans are equal if and only if their digests are."""
        import hashlib

        known: str | None = self.__dict__.get("_digest")  # of frozen arrays: it stays
        if known is not None:
            return known
        digest = hashlib.sha256()
        arrays = {"indices": self.indices, "offsets": self.offsets}
        if self.starts is not None:
            arrays["starts"] = self.starts
        for name, array in (arrays | dict(sorted(self.dropped.items()))).items():
            digest.update(f"{name}:{array.size}:".encode())
            digest.update(np.ascontiguousarray(array, dtype="<i8").data)
        self.__dict__["_digest"] = digest.hexdigest()[:32]
        return digest.hexdigest()[:32]

    def take(self, batches: IntArray) -> "Plan":
        """Select batches, in the sequence given.

        Returns:
            A plan of k batches. O(samples taken), a contiguous run of batches shares memory.

        Raises:
            PlanError: If no batch is taken, or one that is not there.
        """
        batches = _frozen(batches, "batches")
        if not batches.size:
            raise PlanError("a plan needs at least one batch, got none.")
        if int(batches.min()) < 0 or int(batches.max()) >= len(self):
            raise PlanError(
                f"batches {batches.min()} to {batches.max()} of a plan of {len(self)} batches."
            )
        first, last = int(batches[0]), int(batches[-1])
        is_run = last - first + 1 == batches.size and bool((np.diff(batches) == 1).all())
        begins, offsets = self.offsets[batches], np.append(0, np.cumsum(self.sizes[batches]))

        def taken(values: IntArray) -> IntArray:
            if is_run:
                return values[self.offsets[first] : self.offsets[last + 1]]
            return gathered(values, begins, offsets)

        starts = None if self.starts is None else taken(self.starts)
        return dataclasses.replace(
            self, indices=taken(self.indices), offsets=offsets, starts=starts
        )

    def shard(self, rank: int, world_size: int) -> "Plan":
        """Return the batches of one rank: ``rank, rank + world_size, …``.

        Guarantees that all ranks get the same number of batches, and that together they are
        the plan.

        Args:
            rank: From 0 to `world_size` - 1.
            world_size: Number of ranks; it must divide the number of batches.

        Returns:
            A plan of ``len(plan) // world_size`` batches. O(m / world_size).

        Raises:
            PlanError: If the rank is out of range or the batches cannot be shared equally.
        """
        world_size = whole_number("shard", "world_size", world_size, error=PlanError)
        rank = whole_number("shard", "rank", rank, least=0, error=PlanError)
        if rank >= world_size:
            raise PlanError(f"rank={rank} is not in a world of {world_size}.")
        if len(self) % world_size:
            raise PlanError(
                f"{len(self)} batches cannot be shared equally by {world_size} ranks. Plan with "
                f"world_size={world_size}, or use batchwright.equalize."
            )
        shard = self.take(np.arange(rank, len(self), world_size))
        is_shard = world_size > 1 or self.origin.is_shard
        origin = dataclasses.replace(self.origin, world_size=1, is_shard=is_shard)
        return dataclasses.replace(shard, origin=origin)

    def entry_lengths(self, lengths: IntoLengths) -> IntArray:
        """Return the length of each entry of `indices`, after truncation and splitting.

        Returns:
            int64[m] or [m, k], tokens.

        Raises:
            PlanError: If the plan was made for other lengths.
        """
        checked = Lengths.of(lengths)
        self.check_made_for(len(checked.array), checked.fingerprint)
        entries: IntArray = checked.array[self.indices].astype(np.int64, copy=False)
        if self.starts is not None:
            entries = entries - self.starts
        if self.layout.max_length is not None:
            entries = np.minimum(entries, self.layout.max_length)
        if entries.size and int(entries.min()) < 1:
            raise PlanError("the plan has pieces that begin after the end of a sample.")
        return entries

    def check_made_for(self, num_samples: int, hashed: str | None) -> None:
        """Raise unless the plan was made for these lengths."""
        origin = self.origin
        if origin.num_samples is None and int(self.indices.max()) >= num_samples:
            largest = int(self.indices.max())
            raise PlanError(f"the plan uses sample {largest}, but there are {num_samples} lengths.")
        if origin.num_samples is not None and origin.num_samples != num_samples:
            raise PlanError(
                f"the plan was made for {origin.num_samples} lengths, got {num_samples}. "
                "Pass the lengths it was made for, or plan again."
            )
        if origin.fingerprint is not None and origin.fingerprint != hashed:
            raise PlanError(
                f"the plan was made for other lengths (fingerprint {origin.fingerprint}, got "
                f"{hashed}). Pass the lengths it was made for, in the same order, or plan again."
            )

    def stats(self, lengths: IntoLengths) -> "PlanStats":
        """Measure the plan: padding, budget, mix and balance.

        Returns:
            Every number of the guarantees. O(m).

        Raises:
            PlanError: If the plan was made for other lengths.

        Example:
            >>> Plan(np.array([0, 1, 2]), np.array([0, 2, 3])).stats([3, 1, 2]).efficiency
            0.75
        """
        from batchwright.stats import plan_stats

        return plan_stats(self, lengths)

    def save(self, path: str | Path) -> None:
        """Write the plan as a safetensors file: arrays, and metadata as text. No code."""
        from batchwright.plan_file import save_plan

        save_plan(self, path)

    @staticmethod
    def load(path: str | Path) -> "Plan":
        """Read a plan that `save` wrote; refuse a file that was truncated or changed."""
        from batchwright.plan_file import load_plan

        return load_plan(path, Plan, Origin)


def gathered(values: IntArray, begins: IntArray, offsets: IntArray) -> IntArray:
    """Copy runs of `values` one after the other.

    Returns:
        int64[offsets[-1]]. One pass, in blocks: no temporary as long as the result.
    """
    out = np.empty(int(offsets[-1]), dtype=np.int64)
    edges = np.searchsorted(offsets, np.arange(0, out.size + BLOCK, BLOCK), side="right") - 1
    edges[-1] = begins.size
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if first == last:
            continue
        low, high = int(offsets[first]), int(offsets[last])
        shift = begins[first:last] - offsets[first:last]
        source = np.repeat(shift, np.diff(offsets[first : last + 1]))
        source += np.arange(low, high)
        np.take(values, source, out=out[low:high], mode="clip")  # "clip" writes without a copy
    return out


def _frozen(value: npt.ArrayLike, name: str) -> IntArray:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise PlanError(f"{name} cannot be read as an array of integers ({error}).") from error
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise PlanError(
            f"{name} is {array.dtype}{list(array.shape)}, expected a flat array of integers."
        )
    frozen = np.ascontiguousarray(array, dtype=np.int64).view()
    frozen.setflags(write=False)
    return frozen
