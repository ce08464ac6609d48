"""A plan without some of its samples: every other one stays where it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from batchwright._keyed import hash_of
from batchwright.batches import (
    Arrays,
    Batches,
    Entries,
    Halved,
    Numbers,
    OnDemand,
    chosen,
    counted,
    halved,
    in_blocks,
    joined,
    text_of,
)
from batchwright.batching.cut import offsets_of, ranges
from batchwright.errors import PlanError
from batchwright.index import LengthIndex
from batchwright.indexed import Indexed
from batchwright.order.pools import Kept
from batchwright.plans import Plan, replaced
from batchwright.typing import IntArray

_TOGETHER = 1 << 10
_BLOCK = 1 << 16
_KEPT = Kept(4)


@dataclass(frozen=True, eq=False)
class Without:
    """Batches without some samples, none of them empty."""

    inner: Batches
    gone: IntArray  # int64[g], rising: the samples that are left out
    fixed: Mapping[int, Entries]  # batches that would be empty, and those that give them a sample
    places: Numbers

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, number: int) -> Entries:
        """Return what is left of a batch."""
        place = int(self.places[number])
        return (
            self.fixed[place] if place in self.fixed else _left(self.inner.batch(place), self.gone)
        )

    def select(self, numbers: Numbers) -> Without:
        """Return a view."""
        return replace(self, places=chosen(self.places, numbers))

    def arrays(self) -> Arrays:
        """Make all whole, and leave the samples out."""
        found = self.inner.select(self.places).arrays()
        kept = ~_is_in(found.indices, self.gone)
        samples, starts = _taken(Entries(found.indices, found.starts), kept)
        arrays = Arrays(samples, np.append(0, np.cumsum(kept))[found.offsets], starts)
        parts, done, places = [], 0, np.asarray(self.places)
        for number in np.flatnonzero(np.isin(places, list(self.fixed))).tolist():
            if done < number:
                parts.append(arrays.select(range(done, number)))
            own = self.fixed[int(places[number])]
            parts.append(Arrays(own.samples, np.array([0, own.samples.size]), own.starts))
            done = number + 1
        if not parts:
            return arrays
        return joined(
            [*parts, *([arrays.select(range(done, len(self)))] if done < len(self) else [])]
        )

    def blocks(self) -> Iterator[Arrays]:
        """Compute a thousand batches at a time."""
        return in_blocks(self)

    def split_to(self, num_batches: int) -> Batches:
        """Split the largest of some evenly spaced ones."""
        return halved(self, num_batches)

    def count(self, most: int | None = None) -> int:
        """Count the samples, a block of batches at a time."""
        return counted(self, most)

    def identity(self) -> str:
        """Hash the identity of the whole batches, and what is left out of them."""
        text = f"{self.inner.identity()} {text_of(self.gone)} {sorted(self.fixed)}"
        return hash_of(f"{text} {text_of(self.places)}".encode())


def without_samples(plan: Plan, gone: IntArray, update: int) -> Plan:
    """Leave samples out of a plan, for updates of so many batches.

    A batch that would be empty takes a sample of the largest batch of its update; where none has
    two, it repeats one of a later update.

    Example:
        >>> plan = Plan(np.arange(5), np.array([0, 1, 4, 5]))
        >>> left = without_samples(plan, np.array([0, 4]), 2)
        >>> [batch.tolist() for batch in left], left.repeated.tolist()
        ([[3], [1, 2], [1]], [1])
    """
    batches, fixed, repeated = plan.batches, dict[int, Entries](), [plan.repeated]
    emptied = list(_emptied(batches, gone))
    if len(emptied) == len(plan):
        raise PlanError(f"without {gone.size} samples epoch {plan.origin.epoch} would hold none.")
    left: Batches = Without(batches, gone, fixed, range(len(plan)))
    if isinstance(batches, Arrays) and batches.groups is not None:
        left, again = _without_of_groups(plan, batches, gone, update)
        repeated.append(again)
        emptied = []
    for first in sorted({place - place % update for place in emptied}):
        last = min(first + update, len(plan))
        held = {place: _left(batches.batch(place), gone) for place in range(first, last)}
        spare = None
        for place in [place for place in held if not held[place].samples.size]:
            giver = max(held, key=lambda place: held[place].samples.size)
            if held[giver].samples.size > 1:
                held[place], held[giver] = (
                    _taken(held[giver], slice(-1, None)),
                    _taken(held[giver], slice(-1)),
                )
                fixed[giver] = held[giver]
            else:
                spare = spare or _next(batches, gone, last)
                held[place] = _taken(spare, slice(1))
                repeated.append(held[place].samples)
            fixed[place] = held[place]
    others = [gone[:0], *plan.dropped.values()]
    named = np.setdiff1d(gone, np.concatenate(others))
    again = np.concatenate(repeated)
    return replaced(
        plan,
        batches=left,
        dropped={**plan.dropped, "without": named},
        repeated=again[~_is_in(again, gone)],
    )


def _without_of_groups(
    plan: Plan, arrays: Arrays, gone: IntArray, update: int
) -> tuple[Arrays, IntArray]:
    """Leave samples out where groups stay together: what is left of one is given, or repeated.

    Returns the batches, and the samples that are repeated.
    """
    stay = ~_is_in(arrays.indices, gone)
    offsets = np.append(0, np.cumsum(stay))[arrays.offsets]
    kept = arrays.of_entries(np.flatnonzero(stay), np.unique(offsets))
    units = kept.units()
    edges = np.searchsorted(units, offsets)  # the groups of each batch
    begins, ends = edges[:-1].copy(), edges[1:].copy()
    repeated = [arrays.indices[:0]]
    for place in np.flatnonzero(begins == ends).tolist():
        own = slice(place - place % update, min(place - place % update + update, len(plan)))
        giver = own.start + int(np.argmax((ends - begins)[own]))
        if ends[giver] - begins[giver] > 1:
            ends[giver] -= 1
            begins[place], ends[place] = ends[giver], ends[giver] + 1
        else:
            spare = int(edges[own.stop]) % (units.size - 1)  # of the next update
            begins[place], ends[place] = spare, spare + 1
            repeated.append(kept.indices[units[spare] : units[spare + 1]])
    listed = ranges(begins, ends - begins)
    sizes = np.diff(units)[listed]
    entries, many = ranges(units[listed], sizes), offsets_of(ends - begins)
    return kept.of_entries(entries, offsets_of(sizes)[many]), np.concatenate(repeated)


def holds_none(plan: Plan, gone: IntArray) -> bool:
    """Say whether a plan has no other samples.

    Example:
        >>> holds_none(Plan(np.arange(2), np.arange(3)), np.array([0, 1]))
        True
    """
    return gone.size > 0 and sum(1 for _ in _emptied(plan.batches, gone)) == len(plan)


def empties_a_batch(plan: Plan, gone: IntArray) -> bool:
    """Say whether a batch of a plan has no other samples.

    Example:
        >>> empties_a_batch(Plan(np.arange(3), np.array([0, 2, 3])), np.array([2]))
        True
    """
    return gone.size > 0 and next(_emptied(plan.batches, gone), None) is not None


def _emptied(batches: Batches, gone: IntArray) -> Iterator[int]:
    """Find the batches that hold nothing else."""
    numbers = _suspects(batches, gone)
    for low in range(0, numbers.size, _TOGETHER):
        some = numbers[low : low + _TOGETHER]
        found = batches.select(some).arrays()
        is_left = np.add.reduceat(~_is_in(found.indices, gone), found.offsets[:-1], dtype=np.int64)
        yield from some[is_left == 0].tolist()


def _suspects(batches: Batches, gone: IntArray, shares: int = 1) -> IntArray:
    """Return which batches, or one of so many shares of them, may hold nothing else, int64[k]."""
    if isinstance(batches, Halved):
        inner, _ = batches.of(np.asarray(batches.places))
        return np.flatnonzero(np.isin(inner, _suspects(batches.inner, gone, 2 * shares)))
    if not isinstance(batches, OnDemand) or len(batches.parts) > 1:
        return np.arange(len(batches))
    part = batches.parts[0]
    samples = part.samples
    if not isinstance(samples, Indexed) or samples.items is not None:  # some may be there twice
        return np.arange(len(batches))
    positions = _positions(samples.index, gone) - samples.skip
    ranks = part.cut.only_of(positions[positions >= 0], part.key, shares)
    if not ranks.size:
        return ranks
    places = np.asarray(batches.places)
    found = np.isin(places if part.placement is None else part.placement.ranks(places), ranks)
    return np.flatnonzero(found)


def _positions(index: LengthIndex, gone: IntArray) -> IntArray:
    """Return where samples are in an index, int64[k]. O(n), once for all epochs."""

    def find() -> IntArray:
        # Few have the low bits of one of them: only those are looked up.
        low_bits = (1 << max(16, gone.size.bit_length() + 4)) - 1
        may_be = np.zeros(low_bits + 1, dtype=np.bool_)
        may_be[gone & low_bits] = True
        found = [gone[:0]]
        for low in range(0, index.num_samples, _BLOCK):
            ids = index.ids[low : low + _BLOCK]
            places = np.flatnonzero(may_be.take(ids & ids.dtype.type(low_bits)))
            found.append(low + places[_is_in(ids[places].astype(np.int64), gone)])
        return np.concatenate(found)

    return _KEPT.get((index.fingerprint, hash_of(gone.tobytes())), find)


def _next(batches: Batches, gone: IntArray, place: int) -> Entries:
    """Return what is left of the next batch, round to the first, that holds anything."""
    for number in range(place, place + len(batches)):
        found = _left(batches.batch(number % len(batches)), gone)
        if found.samples.size:
            return found
    raise AssertionError


def _left(entries: Entries, gone: IntArray) -> Entries:
    return _taken(entries, ~_is_in(entries.samples, gone))


def _taken(entries: Entries, which: slice | npt.NDArray[np.bool_]) -> Entries:
    samples, starts = entries
    taken = Entries(samples[which], None if starts is None else starts[which])
    for array in taken:
        if array is not None:
            array.setflags(write=False)
    return taken


def _is_in(samples: IntArray, gone: IntArray) -> npt.NDArray[np.bool_]:
    """Check which samples are among rising ones."""
    places = np.minimum(np.searchsorted(gone, samples), gone.size - 1)
    found: npt.NDArray[np.bool_] = gone[places] == samples
    return found
