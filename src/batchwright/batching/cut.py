"""Where sorted samples are cut into batches: from their lengths alone, the same in every epoch.

Samples are sorted from long to short. A *stretch* of them is spread over a run of batches: in each
*round* every one of these batches gets one of as many consecutive samples. Which one it gets is
computed from a key, so nothing as large as the data is ever made.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright._keyed import PRIMES, hash_of, hashed, scaled
from batchwright._random import BitArray
from batchwright.errors import PlanError
from batchwright.lengths import logs
from batchwright.typing import FloatArray, IntArray

Take: TypeAlias = Callable[[IntArray], npt.NDArray[np.integer[Any]]]
"""Positions among the sorted samples, int64[...] → sample indices, the same shape."""

Steps: TypeAlias = tuple[BitArray, BitArray]
"""How far apart neighbouring batches take samples, and where the first does, in each round."""

_BLOCK = 1 << 16
_LARGEST = 1 << 28
"""Bytes that are unpacked at most."""

_WORTH_A_LOOP = 1 << 11
"""A stretch of more samples than this is quicker to compute alone than together with others."""

_TOP = np.uint64(58)


@dataclass(frozen=True, eq=False)
class Cut:
    """Batches, cut from sorted samples; numbered by `rank`, those of the longest samples first.

    Each batch gets `rounds` samples of every stretch that it is in, or one less from the last
    stretch, if that does not have enough for its last round.
    """

    start: IntArray  # int64[s], the first of the sorted samples of each stretch
    samples: IntArray  # int64[s], how many there are
    first: IntArray  # int64[s], the first batch that gets some of them
    batches: IntArray  # int64[s], how many batches get some
    lengths: IntArray  # int64[s], the longest of them, in tokens
    # int64[2, s], the first of the samples as long as those of each stretch, and how many they
    # are: those change places, so that neighbours in the data are not mates. None: they stay.
    runs: IntArray | None = None
    num_batches: int = field(init=False)
    rounds: IntArray = field(init=False)  # int64[s]
    sizes: IntArray = field(init=False)  # int64[i], the most samples of a batch of each kind
    _before: IntArray = field(init=False)  # rounds of the stretches before
    _has_holes: bool = field(init=False)  # whether the last round of some stretch is short
    _means: FloatArray = field(init=False)  # log-length of batches of each kind
    _is_mixed: bool = field(init=False)  # whether batches get samples of several stretches
    _kinds: tuple[IntArray, IntArray, IntArray] = field(init=False)
    _entries: tuple[IntArray, IntArray, IntArray] = field(init=False)  # by stretch, kind
    _ranks: tuple[IntArray, IntArray, IntArray] = field(init=False)

    def __post_init__(self) -> None:
        """Group batches that get samples of the same stretches, and rank these kinds by length."""
        rounds = -(-self.samples // self.batches)
        edges = np.unique(np.concatenate((self.first, self.first + self.batches)))
        low = np.searchsorted(edges, self.first)
        spans = np.searchsorted(edges, self.first + self.batches) - low
        stretch = np.repeat(np.arange(low.size), spans)
        kind = np.repeat(low - np.cumsum(spans) + spans, spans) + np.arange(stretch.size)
        by_kind = np.argsort(kind, kind="stable")
        begins = np.concatenate(([0], np.cumsum(np.bincount(kind))))
        listed, each = stretch[by_kind], rounds[stretch[by_kind]]
        before = np.cumsum(each) - each
        held = np.empty_like(each)
        held[by_kind] = before - before[begins[:-1]][kind[by_kind]]
        # `bincount` adds up in sequence, on every machine.
        tokens = self.lengths[listed] * each.astype(np.float64)
        logarithms = logs(self.lengths[listed].astype(np.float64))
        kinds = kind[by_kind]
        means = np.bincount(kinds, tokens * logarithms) / np.bincount(kinds, tokens)
        sizes = np.bincount(kinds, each)
        order = np.argsort(-means, kind="stable")
        many = np.diff(edges)[order]
        ends = np.cumsum(many)
        put = object.__setattr__
        put(self, "num_batches", int(edges[-1]))
        put(self, "rounds", rounds)
        put(self, "sizes", sizes.astype(np.int64))
        put(self, "_means", means)
        put(self, "_is_mixed", bool((np.diff(begins) > 1).any()))
        put(self, "_before", np.cumsum(rounds) - rounds)
        put(self, "_has_holes", bool((rounds * self.batches > self.samples).any()))
        put(self, "_kinds", (edges, begins, listed))
        put(self, "_entries", (stretch, kind, held))
        put(self, "_ranks", (order, ends, edges[:-1][order] - ends + many))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without what can be computed again."""
        return Cut.unpacked, (self.packed(),)

    def packed(self) -> bytes:
        """Return what the cut is made from, compressed: a few bytes for a stretch."""
        columns = self._columns
        packed = np.append(len(columns), np.diff(columns, prepend=0))
        return zlib.compress(packed.astype("<i8").tobytes())

    @classmethod
    def unpacked(cls, content: bytes, total: int = 2**62) -> Cut:
        """Return the cut that was `packed`, or raise ValueError: no more than `total` samples."""
        found = np.frombuffer(zlib.decompressobj().decompress(content, _LARGEST), "<i8")
        if not found.size or found[0] not in {5, 7}:
            raise ValueError("these are no stretches of samples")
        columns = np.cumsum(found[1:].reshape(found[0], -1), axis=1, dtype=np.int64)
        start, samples, first, batches = columns[:4]
        is_good = bool((columns[[0, 2]] >= 0).all() and (columns[[1, 3, 4]] >= 1).all())
        is_good = is_good and bool((columns[:4] <= total).all() and (batches <= samples).all())
        if is_good and len(columns) == 7:
            low, many = columns[5:]
            is_good = bool(((low >= 0) & (low <= start) & (many <= total)).all())
            is_good = is_good and bool((start + samples <= low + many).all())
        if not is_good or (np.maximum(start + samples, first + batches) > total).any():
            raise ValueError("these are no stretches of samples")
        return cls._of(columns)

    @classmethod
    def _of(cls, columns: IntArray) -> Cut:
        start, samples, first, batches, lengths = columns[:5]
        return cls(
            start, samples, first, batches, lengths, columns[5:] if len(columns) > 5 else None
        )

    @property
    def _columns(self) -> IntArray:
        runs = () if self.runs is None else self.runs
        return np.stack((self.start, self.samples, self.first, self.batches, self.lengths, *runs))

    @property
    def num_samples(self) -> int:
        """Samples of all batches."""
        return int(self.samples.sum())

    def identity(self) -> str:
        """Hash where the batches are cut."""
        return hash_of(np.delete(self._columns, 4, axis=0).astype("<i8").tobytes())

    def keys(self) -> FloatArray:
        """Return about the mean log-length of each batch by rank, float64[b]."""
        order, ends, _ = self._ranks
        return np.repeat(self._means[order], np.diff(ends, prepend=0))

    def holders(self, positions: IntArray, key: int) -> IntArray:
        """Return which batch, by rank, holds each of some positions, int64[k]: undoes `some`."""
        by_start = np.argsort(self.start)
        starts = self.start[by_start]
        own = by_start[starts.searchsorted(positions, side="right") - 1]
        if self.runs is not None:
            first, many = self.runs[:, own]
            positions = first + _undone(positions - first, ~first.view(np.uint64), key, many)
            own = by_start[starts.searchsorted(positions, side="right") - 1]
        turns, places = np.divmod(positions - self.start[own], self.batches[own])
        turns += self._before[own]
        places = _undone(places, turns.view(np.uint64), key, self.batches[own])
        numbers = self.first[own] + places
        order, _, shifts = self._ranks
        kinds = self._kinds[0].searchsorted(numbers, side="right") - 1
        ranks: IntArray = numbers - shifts[np.argsort(order)[kinds]]
        return ranks

    def only_of(self, positions: IntArray, key: int, shares: int) -> IntArray:
        """Return which batches, by rank, may have nothing else in one of so many shares, int64[k].

        A share has an equal number of the samples, or one more; positions are of sorted samples.
        """
        order, ends, _ = self._ranks
        ranks, many = np.unique(self.holders(positions, key), return_counts=True)
        sizes = self.sizes[order[ends.searchsorted(ranks, side="right")]]
        return ranks[many >= (sizes - 1) // shares]  # of the most that a batch has, one may lack

    def split_to(self, num_batches: int) -> Cut:
        """Split batches in two, those of the most samples first, until there are `num_batches`."""
        if num_batches > self.num_samples:
            raise PlanError(f"{self.num_samples} samples cannot fill {num_batches} batches.")
        cut = self
        while cut.num_batches < num_batches:
            cut = cut._split(num_batches - cut.num_batches)
        return cut

    def _split(self, missing: int) -> Cut:
        """Split up to `missing` batches, all of one kind."""
        edges, begins, stretches = self._kinds
        kind = int(np.argmax(self.sizes))
        low, high = int(edges[kind]), int(edges[kind + 1])
        own = stretches[begins[kind] : begins[kind + 1]]
        holes = self.rounds[own] * self.batches[own] - self.samples[own]
        if holes.any():  # a stretch that is nobody else's: its batches become smaller
            more = min(missing, int(self.samples[own[0]]) - (high - low))
            first = self.first + np.where(self.first >= high, more, 0)
            batches = self.batches.copy()
            batches[own] += more
            return replace(self, first=first, batches=batches)
        split = min(missing, high - low)
        low = high - split
        parts: list[tuple[int, ...]] = []
        is_second = False
        columns = self._columns
        for begin, samples, first, batches, *same in columns[:, own].T.tolist():
            start = begin
            rounds = samples // batches
            # Batches before those that are split, their two halves, and batches after them.
            half = (rounds + is_second) // 2
            is_second ^= rounds % 2 == 1
            for into, many, each in (
                (first, low - first, rounds),
                (low, split, rounds - half),
                (self.num_batches, split, half),
                (high, first + batches - high, rounds),
            ):
                if many and each:
                    parts.append((start, many * each, into, many, *same))
                    start += many * each
        others = np.delete(columns, own, axis=1)
        return Cut._of(np.concatenate((others, np.array(parts, dtype=np.int64).T), axis=1))

    def one(self, rank: int, key: int) -> IntArray:
        """Return the positions of one batch among the sorted samples, int64[size]."""
        order, ends, shifts = self._ranks
        at = int(ends.searchsorted(rank, side="right"))
        kind = int(order[at])
        begins, stretches = self._kinds[1:]
        number = rank + int(shifts[at])
        if self._is_mixed or self.runs is not None:
            own = stretches[begins[kind] : begins[kind + 1]]
            places, _, _, _ = self._spread(own, number, key)
            if self._is_mixed:
                turned = np.empty_like(places)
                turned[_turned(np.arange(places.size), places.size)] = places
                return turned
            return places
        stretch = int(stretches[begins[kind]])
        start, batches = int(self.start[stretch]), int(self.batches[stretch])
        rounds, before = int(self.rounds[stretch]), int(self._before[stretch])
        if batches == 1:
            return np.arange(start, start + int(self.samples[stretch]))
        q = number - int(self.first[stretch])
        turns: BitArray = np.arange(before, before + rounds, dtype=np.uint64)
        steps, shift = _steps(turns, key, np.uint64(batches))
        steps *= np.uint64(q)
        steps += shift
        found: BitArray = steps % np.uint64(batches)
        turns -= np.uint64(before)
        turns *= np.uint64(batches)
        found += turns
        if int(found[-1]) >= int(self.samples[stretch]):
            found = found[:-1]
        found += np.uint64(start)
        return found.view(np.int64)

    def some(self, ranks: IntArray, key: int) -> tuple[IntArray, IntArray]:
        """Return the positions of some batches, int64[m], and where each begins, int64[k + 1]."""
        order, ends, shifts = self._ranks
        at = ends.searchsorted(ranks, side="right")
        kinds, numbers = order[at], ranks + shifts[at]
        _, begins, stretches = self._kinds
        many = begins[kinds + 1] - begins[kinds]
        if many.max() == 1:
            stretch = stretches[begins[kinds]]
        else:
            stretch, numbers = stretches[ranges(begins[kinds], many)], np.repeat(numbers, many)
        found, of, _, good = self._spread(stretch, numbers, key)
        sizes = np.add.reduceat(self.rounds[stretch], np.cumsum(many) - many)
        if self._is_mixed:
            ends = np.cumsum(sizes)
            begins, size = np.repeat(ends - sizes, sizes), np.repeat(sizes, sizes)
            turned = np.empty_like(found)
            turned[begins + _turned(np.arange(found.size) - begins, size)] = found
            found = turned
        elif good is not None and not good.all():
            found = found[good]
            batch = np.repeat(np.arange(many.size), many)
            sizes -= np.bincount(batch[of[~good]], minlength=sizes.size)
        return found, offsets_of(sizes)

    def _spread(
        self, stretch: IntArray, numbers: IntArray | int, key: int, table: Steps | None = None
    ) -> tuple[IntArray, IntArray, IntArray, npt.NDArray[np.bool_] | None]:
        """Spread a stretch over a batch, for each of k pairs of them, int64[k].

        Returns positions, int64[m], the pair and the round of each, and whether there is such a
        sample (None: there always is). A `table` has the steps of all rounds.
        """
        rounds = self.rounds[stretch]
        of = np.arange(stretch.size).repeat(rounds)
        turn = (np.arange(of.size) - (rounds.cumsum() - rounds)[of]).view(np.uint64)
        size = self.batches[stretch].view(np.uint64)[of]
        at = turn + self._before[stretch].view(np.uint64)[of]
        # The words that runs are moved by are hashed together with those of rounds.
        words, sizes = (at, size) if table is None else (at[:0], size[:0])
        if self.runs is not None:
            origin, many = self.runs[:, stretch].view(np.uint64)
            words, sizes = np.concatenate((words, ~origin)), np.concatenate((sizes, many))
        steps, shifts = _steps(words, key, sizes)
        if table is None:
            found, begin = steps[: at.size], shifts[: at.size]
        else:
            found, begin = (each[at] for each in table)
        found *= (numbers - self.first[stretch]).view(np.uint64)[of]
        found += begin
        found %= size
        size *= turn
        found += size
        good = None
        if self._has_holes:
            good = found < self.samples[stretch].view(np.uint64)[of]
        found += self.start[stretch].view(np.uint64)[of]
        if self.runs is not None:
            step, begin = steps[-many.size :], shifts[-many.size :]
            found *= step[of]
            found += (begin - origin * step)[of]  # modulo 2**64, as the product is
            found %= many[of]
            found += origin[of]
        return found.view(np.int64), of, turn.view(np.int64), good

    def all(
        self, ranks: IntArray, key: int, take: Take
    ) -> tuple[npt.NDArray[np.integer[Any]], IntArray]:
        """Return the samples of all batches in the sequence given, int64[m], and offsets."""
        _, ends, shifts = self._ranks
        numbers = ranks + np.repeat(shifts, np.diff(ends, prepend=0))[ranks]
        edges = self._kinds[0]
        sizes = np.repeat(self.sizes, np.diff(edges))
        for stretch in np.flatnonzero(self.rounds * self.batches > self.samples).tolist():
            sizes[self._short(stretch, key)] -= 1
        offsets = offsets_of(sizes[numbers])
        begins = np.empty_like(numbers)
        begins[numbers] = offsets[:-1]
        out = np.empty(int(offsets[-1]), dtype=take(offsets[:0]).dtype)
        is_large = self.samples > _WORTH_A_LOOP
        table = _steps(
            np.arange(int(self.rounds.sum()), dtype=np.uint64),
            key,
            np.repeat(self.batches, self.rounds).view(np.uint64),
        )
        for stretch in np.flatnonzero(is_large).tolist():
            self._write(stretch, key, table, take, begins=begins, out=out)
        entries = np.flatnonzero(~is_large[self._entries[0]])
        stretches, kinds, held = (each[entries] for each in self._entries)
        widths = np.diff(edges)[kinds]
        done = np.cumsum(widths * self.rounds[stretches])
        for own in _blocks(done):
            wide = widths[own]
            number = ranges(edges[kinds[own]], wide)
            found, of, turn, good = self._spread(
                np.repeat(stretches[own], wide), number, key, table
            )
            place = np.repeat(held[own], wide)[of] + turn
            if self._is_mixed:
                place = _turned(place, np.repeat(self.sizes[kinds[own]], wide)[of])
            place += begins[number][of]
            if good is not None and not good.all():
                found, place = found[good], place[good]
            out[place] = take(found)
        return out, offsets

    def _write(
        self,
        stretch: int,
        key: int,
        table: Steps,
        take: Take,
        *,
        begins: IntArray,
        out: npt.NDArray[np.integer[Any]],
    ) -> None:
        """Write the samples of a large stretch to where its batches begin."""
        start, batches = int(self.start[stretch]), int(self.batches[stretch])
        rounds, before = int(self.rounds[stretch]), int(self._before[stretch])
        samples, first = int(self.samples[stretch]), int(self.first[stretch])
        step, begin = (each[before : before + rounds] for each in table)
        base = start + np.arange(rounds) * batches
        if self.runs is not None:
            origin, many = self.runs[:, stretch].tolist()
            words = np.array([origin], dtype=np.uint64)
            move, moves = _steps(~words, key, np.uint64(many))
            moves = (base.view(np.uint64) - words) * move + moves
        own_entries = slice(*np.searchsorted(self._entries[0], (stretch, stretch + 1)).tolist())
        _, kinds, held = (each[own_entries] for each in self._entries)
        # Where the samples of each round go in batches of each kind, [kinds, rounds].
        into = held[:, None] + np.arange(rounds)
        if self._is_mixed:
            into = _turned(into, self.sizes[kinds][:, None])
        which = np.repeat(np.arange(kinds.size), np.diff(self._kinds[0])[kinds])
        begins = begins[first : first + batches]
        together = max(1, _BLOCK // rounds)
        for low in range(0, batches, together):
            numbers = np.arange(low, min(low + together, batches), dtype=np.uint64)[:, None]
            found = _affine(numbers, step, begin, batches)
            if self.runs is None:
                positions = np.add(found, base, dtype=np.int64, casting="unsafe")
            else:
                found = _affine(found, move, moves, many)
                positions = np.add(found, origin, dtype=np.int64, casting="unsafe")
            each = slice(low, low + together)
            places = begins[each, None] + (into if kinds.size == 1 else into[which[each]])
            if samples < rounds * batches:
                good = positions < start + samples
                positions, places = positions[good], places[good]
            out[places] = take(positions)

    def _short(self, stretch: int, key: int) -> IntArray:
        """Return which batches get no sample in the last round of a stretch."""
        batches, turn = int(self.batches[stretch]), int(self.rounds[stretch]) - 1
        which = np.array([self._before[stretch] + turn], dtype=np.uint64)
        step, begin = _steps(which, key, np.uint64(batches))
        entry = (np.arange(batches, dtype=np.uint64) * step + begin) % np.uint64(batches)
        entry += np.uint64(turn * batches)
        return int(self.first[stretch]) + np.flatnonzero(entry >= int(self.samples[stretch]))


def _steps(turns: BitArray, key: int, size: BitArray | np.uint64) -> Steps:
    """Return for each round how far apart neighbouring batches take samples, and where to begin."""
    words = hashed(turns, key)
    return PRIMES[(words >> _TOP).view(np.int64)], scaled(words, size)


def _affine(
    entries: BitArray, steps: BitArray, shifts: BitArray, size: int
) -> npt.NDArray[np.unsignedinteger]:
    """Return ``(entries * steps + shifts) % size``, for entries below `size`."""
    # Products stay below 2**32 or 2**64; NumPy divides by a number much quicker than it takes
    # the rest.
    small: type[np.unsignedinteger] = np.uint32 if size < 1 << 16 else np.uint64
    steps, shifts = ((each % np.uint64(size)).astype(small) for each in (steps, shifts))
    found = entries.astype(small, copy=False) * steps
    found += shifts
    whole = found // small(size)
    whole *= small(size)
    found -= whole
    return found


def _undone(places: IntArray, turns: BitArray, key: int, size: IntArray) -> IntArray:
    """Return which of `size` entries a round puts at each place, int64[k]."""
    steps, begins = _steps(turns, key, size.view(np.uint64))
    rows = zip(
        (places - begins.view(np.int64)).tolist(), steps.tolist(), size.tolist(), strict=True
    )
    found = [place * pow(step, -1, many) % many for place, step, many in rows]
    return np.array(found, dtype=np.int64)


def _turned(place: IntArray, sizes: IntArray | int) -> IntArray:
    """Put samples of a batch at its front and its back in turn.

    So a batch of long and short samples that is split gives two halves of about as many tokens.
    """
    half = place >> 1
    return np.where(place & 1, sizes - 1 - half, half)


def ranges(begins: IntArray, sizes: IntArray) -> IntArray:
    """Concatenate ``begins[i], begins[i] + 1, …`` of `sizes[i]` entries each."""
    ends = np.cumsum(sizes)
    return np.repeat(begins - ends + sizes, sizes) + np.arange(int(ends[-1]) if ends.size else 0)


def _blocks(done: IntArray) -> Iterator[slice]:
    """Go through runs of entries that hold about a block of samples; `done` are running totals."""
    low = 0
    while low < done.size:
        before = int(done[low - 1]) if low else 0
        high = max(low + 1, int(np.searchsorted(done, before + _BLOCK)))
        yield slice(low, high)
        low = high


def offsets_of(sizes: npt.ArrayLike) -> IntArray:
    """Return where parts of these sizes begin and end, int64[b] → int64[b + 1]."""
    return np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
