"""The plan: which samples share a batch, and in which sequence batches go through the model."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt

from batchwright._checks import check_choice, keep_whole, whole_number
from batchwright.batches import Arrays, Batches, Entries, digest_of
from batchwright.errors import PlanError
from batchwright.layout import Layout, Padded
from batchwright.lengths import Lengths
from batchwright.typing import IntArray, IntoLengths, Last, LengthArray, State

if TYPE_CHECKING:
    from pathlib import Path

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


_NOTHING: Mapping[str, npt.ArrayLike] = MappingProxyType({})
_NO_SAMPLES = np.empty(0, dtype=np.int64)
_ANY_LAYOUT = Padded()
_UNKNOWN = Origin()


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Plan:
    """A sequence of batches: ``plan[b]`` are the samples of batch `b`.

    Batches come from two flat arrays, or are computed when they are asked for: then a plan is as
    large as its settings, whatever the size of the data. A plan holds no length, no data and no
    random state; lengths are passed beside it. Arrays are read-only.

    Args:
        indices: int64[m], sample indices, batch after batch.
        offsets: int64[b + 1], from 0 to m, strictly increasing: no batch is empty.
        starts: int64[m], where in its sample each entry begins, in tokens. None: at 0. Only a
            plan that splits long samples has it.
        groups: int64[m], a number for each entry. Neighbours with the same one are never split
            into two batches. None: any batch may be split anywhere.
        dropped: Reason → int64 indices of the samples that were left out for it.
        layout: How a batch lies in memory, and the budget it keeps.
        origin: The lengths, seed, epoch and world that the plan was made for.
        repeated: int64[r], samples that were added because there were too few to fill the batches
            that all epochs and ranks have.

    Attributes:
        batches: Where the batches come from: see `batches.Batches`.

    Raises:
        PlanError: If the arrays are not a plan.

    Example:
        >>> plan = Plan(np.array([4, 0, 2]), np.array([0, 2, 3]))
        >>> len(plan), plan[0].tolist(), plan[-1].tolist()
        (2, [4, 0], [2])
        >>> [batch.tolist() for batch in plan.shard(1, world_size=2)]
        [[2]]
    """

    batches: Batches
    dropped: Mapping[str, IntArray]
    layout: Layout
    origin: Origin
    repeated: IntArray

    def __init__(
        self,
        indices: npt.ArrayLike,
        offsets: npt.ArrayLike,
        starts: npt.ArrayLike | None = None,
        *,
        groups: npt.ArrayLike | None = None,
        dropped: Mapping[str, npt.ArrayLike] = _NOTHING,
        layout: Layout = _ANY_LAYOUT,
        origin: Origin = _UNKNOWN,
        repeated: npt.ArrayLike = _NO_SAMPLES,
    ) -> None:
        arrays = Arrays(
            frozen(indices, "indices"),
            frozen(offsets, "offsets"),
            None if starts is None else frozen(starts, "starts"),
            None if groups is None else frozen(groups, "groups"),
        )
        _check(arrays)
        self._set(arrays, dropped, layout, origin, repeated)

    def _set(
        self,
        batches: Batches,
        dropped: Mapping[str, npt.ArrayLike],
        layout: Layout,
        origin: Origin,
        repeated: npt.ArrayLike,
    ) -> None:
        if not isinstance(dropped, Mapping):
            raise PlanError(f"dropped={dropped!r:.60}: expected reason → sample indices.")
        if not isinstance(layout, Layout):
            raise PlanError(f"layout={layout!r:.60}: expected Padded(…) or Packed(…).")
        if not isinstance(origin, Origin):
            raise PlanError(f"origin={origin!r:.60}: expected an Origin.")
        named = {reason: f"dropped[{reason!r}]" for reason in dropped}
        lists = {reason: frozen(value, named[reason]) for reason, value in dropped.items()}
        extra = frozen(repeated, "repeated")
        for reason, array in lists.items():
            _check_signs(named[reason], array)
        _check_signs("repeated", extra)
        for name, value in (
            ("batches", batches),
            ("dropped", lists),
            ("layout", layout),
            ("origin", origin),
            ("repeated", extra),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def of(
        cls,
        batches: Batches,
        *,
        dropped: Mapping[str, npt.ArrayLike] = _NOTHING,
        layout: Layout = _ANY_LAYOUT,
        origin: Origin = _UNKNOWN,
        repeated: npt.ArrayLike = _NO_SAMPLES,
    ) -> Plan:
        """Make a plan of batches from elsewhere than two arrays."""
        plan = cls.__new__(cls)
        plan._set(batches, dropped, layout, origin, repeated)  # noqa: SLF001 -- made here
        return plan

    def __getstate__(self) -> State:
        """Pickle without arrays that can be made again."""
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: State) -> None:
        """Make arrays read-only again, which a pickle forgets."""
        self.__dict__.update(state)
        for array in (self.repeated, *self.dropped.values()):
            array.setflags(write=False)

    def __len__(self) -> int:
        """Count the batches."""
        return len(self.batches)

    @overload
    def __getitem__(self, batch: int) -> IntArray: ...
    @overload
    def __getitem__(self, batch: slice) -> Plan: ...
    def __getitem__(self, batch: int | slice) -> IntArray | Plan:
        """Return one batch as int64 sample indices, or a slice of batches as a plan."""
        if isinstance(batch, slice):
            return self._selected(range(*batch.indices(len(self))))
        return self.entries(batch).samples

    def __iter__(self) -> Iterator[IntArray]:
        """Go through the batches as int64 arrays of sample indices."""
        for block in self.batches.blocks():
            for number in range(len(block)):
                yield block.batch(number).samples

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
            f"Plan({len(self)} batches of {self.num_samples} samples, "
            f"epoch {self.origin.epoch}, seed {self.origin.seed})"
        )

    @property
    def num_samples(self) -> int:
        """How many samples there are in all batches, each as often as it comes."""
        return self.batches.count()

    @property
    def indices(self) -> IntArray:
        """Sample indices, batch after batch, int64[m]: made when first asked for, then kept."""
        return self._arrays.indices

    @property
    def offsets(self) -> IntArray:
        """Where batches begin and end in `indices`, int64[b + 1]; see there."""
        return self._arrays.offsets

    @property
    def starts(self) -> IntArray | None:
        """Where in its sample each entry begins, int64[m]; None: at 0. See `indices`."""
        return self._arrays.starts if has_pieces(self) else None

    @property
    def groups(self) -> IntArray | None:
        """A number for each entry, int64[m]: neighbours with the same one stay in one batch."""
        return self.batches.groups if isinstance(self.batches, Arrays) else None

    @property
    def sizes(self) -> IntArray:
        """Samples in each batch, int64[b]."""
        return np.diff(self.offsets)

    @cached_property
    def _arrays(self) -> Arrays:
        return self.batches.arrays()

    def entries(self, batch: int) -> Entries:
        """Return one batch: its samples, int64[m], and where in them pieces of samples begin."""
        position = operator.index(batch)
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"batch {batch} of a plan of {len(self)} batches.")
        return self.batches.batch(position)

    def digest(self) -> str:
        """Hash the batches: plans are equal if and only if their digests are."""
        known: str | None = self.__dict__.get("_digest")  # of frozen values: it stays
        if known is None:
            known = digest_of(self.batches, self.dropped)
            self.__dict__["_digest"] = known
        return known

    def identity(self) -> str:
        """Hash what batches are made from: plans are equal where it is. No batch is made.

        Returns:
            32 hexadecimal digits; of arrays, the hash of their content.
        """
        return self.batches.identity()

    def take(self, batches: IntArray) -> Plan:
        """Select batches, in the sequence given.

        Returns:
            A plan of k batches. O(samples taken); a contiguous run of batches shares memory.

        Raises:
            PlanError: If no batch is taken, or one that is not there.
        """
        return self._selected(frozen(batches, "batches"))

    def _selected(self, numbers: range | IntArray) -> Plan:
        if not len(numbers):
            raise PlanError("a plan needs at least one batch, got none.")
        if isinstance(numbers, np.ndarray) and not 0 <= int(numbers.min()) <= int(
            numbers.max()
        ) < len(self):
            raise PlanError(
                f"batches {numbers.min()} to {numbers.max()} of a plan of {len(self)} batches."
            )
        return replaced(self, batches=self.batches.select(numbers))

    def shard(self, rank: int, world_size: int) -> Plan:
        """Return the batches of one rank: ``rank, rank + world_size, …``.

        Guarantees that all ranks get the same number of batches, and that together they are
        the plan.

        Args:
            rank: From 0 to `world_size` - 1.
            world_size: Number of ranks; it must divide the number of batches.

        Returns:
            A plan of ``len(plan) // world_size`` batches. O(m / world_size), or O(1) where batches
            are computed when they are asked for.

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
        is_shard = world_size > 1 or self.origin.is_shard
        origin = dataclasses.replace(self.origin, world_size=1, is_shard=is_shard)
        return replaced(self[rank::world_size], origin=origin)

    def entry_lengths(self, lengths: IntoLengths) -> IntArray:
        """Return the length of each entry of `indices`, after truncation and splitting.

        Returns:
            int64[m] or [m, k], tokens.

        Raises:
            PlanError: If the plan was made for other lengths.
        """
        checked = Lengths.of(lengths)
        self.check_made_for(len(checked.array), checked.fingerprint)
        entries = lengths_of_entries(self, checked.array)
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

    def stats(self, lengths: IntoLengths) -> PlanStats:
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

    def save(self, path: str | Path, *, arrays: bool = False) -> None:
        """Write the plan as a safetensors file: arrays, and metadata as text. No code.

        Args:
            path: The file to write, whole or not at all.
            arrays: Write all batches. Else a plan that is computed from a `LengthIndex` with a
                path is written as what it is computed from: a few kilobytes, of use with that
                index only.
        """
        from batchwright.plan_file import save_plan

        save_plan(self, path, as_arrays=arrays)

    @staticmethod
    def load(path: str | Path, *, index: str | Path | None = None) -> Plan:
        """Read a plan that `save` wrote; refuse a file that was truncated or changed.

        Args:
            path: The file.
            index: Where the index is that the plan is computed from. None: where it was, or beside
                the file.

        Raises:
            SourceNotFoundError: If the file or the index is not there.
            PlanError: If the file is damaged or no plan, or the index is of other lengths.
        """
        from batchwright.plan_file import load_plan

        return load_plan(path, Plan, Origin, index)


def lengths_of_entries(plan: Plan, lengths: LengthArray) -> IntArray:
    """Return the length of each entry, int64[m] or [m, k], after truncation and splitting."""
    entries: IntArray = lengths[plan.indices].astype(np.int64, copy=False)
    if plan.starts is not None:
        entries = entries - plan.starts
    most = plan.layout.max_length
    return entries if most is None else np.minimum(entries, most)


def has_pieces(plan: Plan) -> bool:
    """Say whether a plan splits samples, as its first batch shows."""
    return plan.batches.batch(0).starts is not None


def replaced(
    plan: Plan,
    *,
    batches: Batches | None = None,
    dropped: Mapping[str, npt.ArrayLike] | None = None,
    layout: Layout | None = None,
    origin: Origin | None = None,
    repeated: npt.ArrayLike | None = None,
) -> Plan:
    """Return a plan with other batches, or another of its settings; None: as it is."""
    if dropped is None and layout is None and repeated is None:  # checked already
        made = Plan.__new__(Plan)
        made.__dict__.update(plan.__getstate__())
        made.__dict__["batches"] = plan.batches if batches is None else batches
        made.__dict__["origin"] = plan.origin if origin is None else origin
        return made
    return Plan.of(
        plan.batches if batches is None else batches,
        dropped=plan.dropped if dropped is None else dropped,
        layout=plan.layout if layout is None else layout,
        origin=plan.origin if origin is None else origin,
        repeated=plan.repeated if repeated is None else repeated,
    )


def _check(arrays: Arrays) -> None:
    """Raise PlanError unless arrays are a sequence of batches."""
    indices, offsets = arrays.indices, arrays.offsets
    if not offsets.size or offsets[0] != 0 or offsets[-1] != indices.size:
        ends = f"{offsets[0]} to {offsets[-1]}" if offsets.size else "nothing"
        raise PlanError(f"offsets go from {ends}, expected 0 to {indices.size} (all indices).")
    if offsets.size == 1:
        raise PlanError("a plan needs at least one batch, got none.")
    empty = offsets[1:] <= offsets[:-1]  # a difference may wrap around
    if empty.any():
        batch = int(np.argmax(empty))
        raise PlanError(f"batch {batch} holds no sample. Offsets must increase strictly.")
    _check_signs("indices", indices)
    for name, array in (("starts", arrays.starts), ("groups", arrays.groups)):
        if array is not None:
            if array.size != indices.size:
                raise PlanError(f"{name} has {array.size} entries for {indices.size} indices.")
            _check_signs(name, array)


def _check_signs(name: str, array: IntArray) -> None:
    if array.size and int(array.min()) < 0:
        place = int(np.argmin(array))
        raise PlanError(f"{name}[{place}] is {array[place]}, expected at least 0.")


def frozen(value: npt.ArrayLike, name: str) -> IntArray:
    """Return a flat array of integers, read-only; raise PlanError if it is none."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise PlanError(f"{name} cannot be read as an array of integers ({error}).") from error
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise PlanError(
            f"{name} is {array.dtype}{list(array.shape)}, expected a flat array of integers."
        )
    flat = np.ascontiguousarray(array, dtype=np.int64).view()
    flat.setflags(write=False)
    return flat
