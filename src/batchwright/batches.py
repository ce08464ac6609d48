"""Where the batches of a plan come from: two flat arrays, or a function of their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from batchwright._keyed import hash_of
from batchwright._random import BLOCK
from batchwright.batching.cut import Cut
from batchwright.batching.fixed_size import Even
from batchwright.errors import PlanError
from batchwright.placement import Placement, Spanning
from batchwright.typing import IntArray, Sorted
from batchwright.updates import split_offsets

Numbers: TypeAlias = range | IntArray
"""Which batches, in what sequence."""

_TOGETHER = 1 << 10
"""Batches that are computed together."""

TOGETHER = 64
"""Batches that loaders compute together: many are quicker, few are soon ready."""


class Entries(NamedTuple):
    """The samples of a batch, or of several, one after the other."""

    samples: IntArray  # int64[m]
    starts: IntArray | None = None  # int64[m], where in its sample each begins. None: at 0


class Batches(Protocol):
    """A sequence of batches. Frozen: selecting and splitting make others."""

    def __len__(self) -> int: ...
    def batch(self, number: int) -> Entries:
        """Return one batch."""

    def select(self, numbers: Numbers) -> Batches:
        """Return some batches, in the sequence given."""

    def arrays(self) -> Arrays:
        """Return all of them as flat arrays."""

    def blocks(self) -> Iterator[Arrays]:
        """Go through all of them as arrays, a block at a time."""

    def split_to(self, num_batches: int) -> Batches:
        """Split batches in two until there are so many: no batch is larger, none loses a sample."""

    def count(self, most: int | None = None) -> int:
        """Count the samples; stop where there are more than `most`."""

    def identity(self) -> str:
        """Hash what the batches are made from: as far as that is equal, they are."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """Batch `b` is ``indices[offsets[b]:offsets[b + 1]]``."""

    indices: IntArray  # int64[m]
    offsets: IntArray  # int64[b + 1]
    starts: IntArray | None = None  # int64[m]
    # int64[m], a number for each entry: neighbours with the same one stay in one batch. None: none
    groups: IntArray | None = None

    def __post_init__(self) -> None:
        for array in (self.indices, self.offsets, self.starts, self.groups):
            if array is not None:
                array.setflags(write=False)

    def __setstate__(self, state: dict[str, IntArray | None]) -> None:
        """Make arrays read-only again, which a pickle forgets."""
        self.__dict__.update(state)
        Arrays.__post_init__(self)

    def __len__(self) -> int:
        return self.offsets.size - 1

    def batch(self, number: int) -> Entries:
        """Return views of the arrays."""
        span = slice(self.offsets[number], self.offsets[number + 1])
        return Entries(self.indices[span], None if self.starts is None else self.starts[span])

    def select(self, numbers: Numbers) -> Arrays:
        """Copy some batches; those of a contiguous run share memory."""
        numbers = numbers_of(numbers)
        first, last = int(numbers[0]), int(numbers[-1])
        sizes = np.diff(self.offsets)[numbers]
        offsets = np.concatenate(([0], np.cumsum(sizes)))
        if last - first + 1 == numbers.size and bool((np.diff(numbers) == 1).all()):
            span = slice(self.offsets[first], self.offsets[last + 1])
            return self._with(lambda array: array[span], offsets)
        begins = self.offsets[numbers]
        return self._with(lambda array: gathered(array, begins, offsets), offsets)

    def _with(self, taken: Callable[[IntArray], IntArray], offsets: IntArray) -> Arrays:
        """Take the same entries of every array."""
        starts = None if self.starts is None else taken(self.starts)
        groups = None if self.groups is None else taken(self.groups)
        return Arrays(taken(self.indices), offsets, starts, groups)

    def of_entries(self, which: IntArray, offsets: IntArray) -> Arrays:
        """Return batches of some entries, int64[k]."""
        return self._with(lambda array: array[which], offsets)

    def units(self) -> IntArray:
        """Return where what stays in one batch begins and ends, int64[u + 1]: groups, or entries.

        Every offset is among them.
        """
        if self.groups is None:
            return np.arange(self.indices.size + 1)
        begins = np.diff(self.groups, prepend=-1) != 0
        begins[self.offsets[:-1]] = True
        return np.append(np.flatnonzero(begins), self.indices.size)

    def arrays(self) -> Arrays:
        """Return itself."""
        return self

    def blocks(self) -> Iterator[Arrays]:
        """Return itself as one block."""
        yield self

    def split_to(self, num_batches: int) -> Arrays:
        """Split those of the most samples first, between groups."""
        if self.groups is None:
            return replace(self, offsets=split_offsets(self.offsets, num_batches))
        units = self.units()
        weights = np.diff(self.offsets).astype(np.float64)
        offsets = np.searchsorted(units, self.offsets)
        return replace(self, offsets=units[split_offsets(offsets, num_batches, weights=weights)])

    def count(self, most: int | None = None) -> int:
        """Return the number of indices."""
        return self.indices.size

    def identity(self) -> str:
        """Hash the arrays."""
        return digest_of(self, {})


@dataclass(frozen=True, eq=False)
class Part:
    """Consecutive batches of an epoch that are cut from the same samples."""

    samples: Sorted
    cut: Cut | Even
    placement: Placement | Spanning | None  # None: batches stay where they are
    key: int

    def batch(self, place: int) -> Entries:
        """Compute the batch at a place."""
        rank = place if self.placement is None else self.placement.rank(place)
        entries = self.samples.entries(self.samples.take(self.cut.one(rank, self.key)))
        for array in entries:
            if array is not None:
                array.setflags(write=False)
        return entries

    def arrays(self, places: IntArray, *, are_all: bool) -> Arrays:
        """Compute the batches at some places, or at all of them, in whatever sequence."""
        ranks = places if self.placement is None else self.placement.ranks(places)
        if are_all:
            taken, offsets = self.cut.all(ranks, self.key, self.samples.take)
        else:
            positions, offsets = self.cut.some(ranks, self.key)
            taken = self.samples.take(positions)
        samples, starts = self.samples.entries(taken)
        return Arrays(samples, offsets, starts)

    def described(self) -> str:
        """Describe what the batches are made from."""
        return f"{self.samples.identity()} {self.cut.identity()} {self.placement} {self.key}"


@dataclass(frozen=True, eq=False)
class OnDemand:
    """Batches that are computed when they are asked for, from sorted samples and a key."""

    parts: tuple[Part, ...]
    places: Numbers
    _ends: IntArray = field(init=False, repr=False)  # int64[p], where parts end

    def __post_init__(self) -> None:
        many = [part.cut.num_batches for part in self.parts]
        object.__setattr__(self, "_ends", np.cumsum(many))

    @classmethod
    def of(cls, parts: tuple[Part, ...]) -> OnDemand:
        """Return all batches of some parts."""
        return cls(parts, range(sum(part.cut.num_batches for part in parts)))

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, number: int) -> Entries:
        """Compute one batch. O(samples of it)."""
        place = int(self.places[number])
        part = int(self._ends.searchsorted(place, side="right"))
        return self.parts[part].batch(place - (int(self._ends[part - 1]) if part else 0))

    def select(self, numbers: Numbers) -> OnDemand:
        """Return a view. A range of a range is O(1)."""
        return replace(self, places=chosen(self.places, numbers))

    def arrays(self) -> Arrays:
        """Compute all of them."""
        places = numbers_of(self.places)
        is_whole = self._is_whole
        if len(self.parts) == 1:
            return self.parts[0].arrays(places, are_all=is_whole)
        ends = self._ends
        of = np.searchsorted(ends, places, side="right")
        order = np.argsort(of, kind="stable")
        found = [
            self.parts[part].arrays(
                places[of == part] - (ends[part - 1] if part else 0), are_all=is_whole
            )
            for part in np.unique(of).tolist()
        ]
        both = joined(found)
        return both if bool((np.diff(order) == 1).all()) else both.select(np.argsort(order))

    def blocks(self) -> Iterator[Arrays]:
        """Compute a thousand batches at a time."""
        return in_blocks(self)

    def split_to(self, num_batches: int) -> Batches:
        """Split the largest of some evenly spaced ones."""
        return halved(self, num_batches)

    def count(self, most: int | None = None) -> int:
        """Count the samples, a block of batches at a time; of whole epochs at once."""
        if self._is_whole:
            return sum(part.cut.num_samples for part in self.parts)
        return counted(self, most)

    def tokens(self) -> int | None:
        """Count the tokens of a whole epoch. None: of a part of one they are not known."""
        samples = [part.samples for part in self.parts]
        return sum(int(each.values @ each.counts) for each in samples) if self._is_whole else None

    @property
    def _is_whole(self) -> bool:
        """Whether these are all batches of all parts."""
        return isinstance(self.places, range) and len(self.places) == int(self._ends[-1])

    def identity(self) -> str:
        """Hash the settings of all parts. O(distinct lengths)."""
        text = f"{[part.described() for part in self.parts]} {text_of(self.places)}"
        return hash_of(text.encode())


@dataclass(frozen=True, eq=False)
class Halved:
    """Batches of which some are split in two, in the same sequence of samples."""

    inner: Batches
    split: IntArray  # int64[s], which of them, rising
    places: Numbers

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, number: int) -> Entries:
        """Return a batch, or half of one."""
        inner, half = self.of(np.array([self.places[number]]))
        samples, starts = self.inner.batch(int(inner[0]))
        middle = samples.size >> 1
        part = (slice(None), slice(middle), slice(middle, None))[int(half[0]) + 1]
        return Entries(samples[part], None if starts is None else starts[part])

    def of(self, places: IntArray) -> tuple[IntArray, IntArray]:
        """Return the batch that each place is of, and which half of it: -1 where it is whole."""
        seconds = self.split + np.arange(1, self.split.size + 1)
        before = np.searchsorted(seconds, places, side="right")
        inner = places - before
        is_split = np.isin(inner, self.split)
        return inner, np.where(is_split, np.isin(places, seconds), -1)

    def select(self, numbers: Numbers) -> Halved:
        """Return a view."""
        return replace(self, places=chosen(self.places, numbers))

    def arrays(self) -> Arrays:
        """Compute the whole ones together, and leave out the other halves."""
        inner, half = self.of(numbers_of(self.places))
        found = self.inner.select(inner).arrays()
        sizes = np.diff(found.offsets)
        place = np.arange(found.indices.size) - np.repeat(found.offsets[:-1], sizes)
        is_second = place >= np.repeat(sizes >> 1, sizes)
        of = np.repeat(half, sizes)
        kept = (of < 0) | (is_second == of)
        sizes = np.add.reduceat(kept, found.offsets[:-1], dtype=np.int64)
        starts = None if found.starts is None else found.starts[kept]
        return Arrays(found.indices[kept], np.concatenate(([0], np.cumsum(sizes))), starts)

    def blocks(self) -> Iterator[Arrays]:
        """Compute a thousand batches at a time."""
        return in_blocks(self)

    def split_to(self, num_batches: int) -> Batches:
        """Split the largest of some evenly spaced ones."""
        return halved(self, num_batches)

    def count(self, most: int | None = None) -> int:
        """Count the samples, a block of batches at a time."""
        if isinstance(self.places, range) and len(self) == len(self.inner) + self.split.size:
            return self.inner.count(most)
        return counted(self, most)

    def identity(self) -> str:
        """Hash the identity of the whole batches, and which are split."""
        text = f"{self.inner.identity()} {text_of(self.split)} {text_of(self.places)}"
        return hash_of(text.encode())


def halved(batches: Batches, num_batches: int) -> Batches:
    """Split batches in two, the largest of some evenly spaced ones, until there are so many."""
    while len(batches) < num_batches:
        missing = min(num_batches - len(batches), len(batches))
        tried = np.linspace(0, len(batches) - 1, min(len(batches), 4 * missing + 64))
        while True:
            numbers = np.unique(tried.astype(np.int64))
            sizes = np.diff(batches.select(numbers).arrays().offsets)
            largest = np.argsort(-sizes, kind="stable")[:missing]
            largest = largest[sizes[largest] > 1]
            if largest.size == missing or numbers.size == len(batches):
                break
            tried = np.linspace(0, len(batches) - 1, min(len(batches), 4 * numbers.size))
        if not largest.size:
            raise PlanError(
                f"{batches.count()} samples cannot fill {num_batches} batches: none may be empty."
            )
        split = np.sort(numbers[largest])
        batches = Halved(batches, split, range(len(batches) + split.size))
    return batches


def digest_of(batches: Batches, others: Mapping[str, IntArray]) -> str:
    """Hash the samples of all batches, where these begin, and other arrays: block by block."""
    import hashlib

    digest = hashlib.sha256()

    def begin(name: str, size: int) -> None:
        digest.update(f"{name}:{size}:".encode())

    def add(array: IntArray) -> None:
        digest.update(np.ascontiguousarray(array, dtype="<i8").data)

    count = batches.count()
    begin("indices", count)
    sizes, has_starts, groups = [np.zeros(1, dtype=np.int64)], False, None
    for block in batches.blocks():
        add(block.indices)
        sizes.append(np.diff(block.offsets))
        has_starts, groups = block.starts is not None, block.groups
    begin("offsets", len(batches) + 1)
    add(np.cumsum(np.concatenate(sizes)))
    if has_starts:
        begin("starts", count)
        for block in batches.blocks():
            if block.starts is not None:
                add(block.starts)
    if groups is not None:  # only arrays have them, which are one block
        begin("groups", count)
        add(groups)
    for name, array in sorted(others.items()):
        begin(name, array.size)
        add(array)
    return digest.hexdigest()[:32]


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


def text_of(places: Numbers) -> str:
    """Describe places: a range in O(1), whatever number it stops at."""
    if isinstance(places, range):
        return f"{places.start} {places.step} {len(places)}"
    return hash_of(places.astype("<i8").tobytes())


def numbers_of(numbers: Numbers) -> IntArray:
    """Return numbers as an array, int64[k]."""
    if isinstance(numbers, range):  # NumPy would go through it number by number
        return np.arange(numbers.start, numbers.stop, numbers.step)
    return np.asarray(numbers, dtype=np.int64)


def chosen(places: Numbers, numbers: Numbers) -> Numbers:
    """Return some of some numbers: a range of a range is a range."""
    if not isinstance(places, range):
        return places[numbers_of(numbers)]
    if isinstance(numbers, range):
        first, step = places[numbers[0]], numbers.step * places.step
        return range(first, first + step * len(numbers), step)
    return places.start + numbers_of(numbers) * places.step


def in_blocks(batches: Batches) -> Iterator[Arrays]:
    """Compute a thousand batches at a time."""
    for low in range(0, len(batches), _TOGETHER):
        yield batches.select(range(low, min(low + _TOGETHER, len(batches)))).arrays()


def counted(batches: Batches, most: int | None) -> int:
    """Count samples, a block at a time; stop where there are more than `most`."""
    total, done = 0, 0
    for block in batches.blocks():
        total, done = total + block.indices.size, done + len(block)
        if most is not None and total + len(batches) - done > most:  # no batch is empty
            return total + len(batches) - done
    return total


def joined(found: list[Arrays]) -> Arrays:
    """Concatenate batches."""
    sizes = np.concatenate([np.diff(each.offsets) for each in found])
    starts = [each.starts for each in found if each.starts is not None]
    groups = [each.groups for each in found if each.groups is not None]
    return Arrays(
        np.concatenate([each.indices for each in found]),
        np.concatenate(([0], np.cumsum(sizes))),
        np.concatenate(starts) if starts else None,
        np.concatenate(groups) if groups else None,
    )
