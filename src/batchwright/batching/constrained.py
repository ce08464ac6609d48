"""Batches that keep constraints: of one group, without two samples of a key, of whole groups."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from batchwright._keyed import hash_of
from batchwright._random import random_bits, shuffled, sorted_by
from batchwright.batching.buckets import Buckets
from batchwright.batching.cut import offsets_of, ranges
from batchwright.batching.cuts import cut_sequence, cut_strips
from batchwright.batching.draft import Draft, Request
from batchwright.batching.fixed_size import FixedSize
from batchwright.batching.packers import best_fit_decreasing, next_fit, pack_columns
from batchwright.batching.packing import Packing
from batchwright.batching.stretches import Sizes, spread, spread_sequence
from batchwright.batching.token_budget import TokenBudget
from batchwright.batching.visits import Visits, lists_of, parts_of, stops_of
from batchwright.constraints import Constraints
from batchwright.errors import BudgetError
from batchwright.layout import Layout, Padded, Shape
from batchwright.lengths import logs, totals
from batchwright.order.pools import Kept
from batchwright.oversize import Items
from batchwright.typing import Batching, FloatArray, IntArray, Order, Oversize
from batchwright.units import Units, as_units, refuse_draws

_DRAWS = 2
"""Drafts that are counted where they differ."""

_EPOCHS = 16
"""Epochs whose batches are counted once."""


def constrained(
    batching: Batching, order: Order, items: Items, constraints: Constraints
) -> tuple[Constrained, Items]:
    """Return a batching that keeps constraints, and the things that it is to plan.

    Raises:
        BudgetError: If it cannot keep them, they contradict one another, or a group that stays
            together exceeds the budget.
        PlanError: If the order does not keep such groups whole.
    """
    if constraints.together is not None:
        refuse_draws(order)
        items = as_units(items, constraints, batching.layout, batching.oversize)
    return Constrained.of(batching, constraints, items), items


@dataclass(frozen=True, eq=False)
class Constrained:
    """Make the batches of another batching keep constraints.

    Every batch is within the budget of that batching, and holds each constraint, whatever it
    costs: at worst batches are of one sample, or one group.
    """

    batching: Batching
    within: IntArray | None  # int64[k], the group of each item
    keys: IntArray | None  # int64[k], the key of each item; -1: none
    # Items that have several keys, and these, int64[p] each: all that there are. None: no item has
    several: tuple[IntArray, IntArray] | None
    sizes: IntArray | None  # int64[k], samples of each item. None: one
    counted: Kept = field(default_factory=lambda: Kept(_EPOCHS))  # batches that pools need

    @classmethod
    def of(cls, batching: Batching, constraints: Constraints, items: Items) -> Constrained:
        """Return a batching of items under some constraints.

        Raises:
            BudgetError: If the batching cannot keep them, or they contradict one another.
        """
        if type(batching) not in {Buckets, FixedSize, Packing, TokenBudget}:
            raise BudgetError(
                f"batching={batching!r:.80} makes its own batches, which within=, unique= and "
                "together= cannot change. Use TokenBudget, Packing, Buckets or FixedSize."
            )
        if isinstance(batching, TokenBudget) and batching.mixing != "stratified":
            raise BudgetError(
                f"TokenBudget(mixing={batching.mixing!r}) with within=, unique= or together=: "
                'expected mixing="stratified".'
            )
        samples = items.samples(np.arange(len(items.lengths)))[0]
        if not isinstance(items, Units):
            within, keys = (
                None if each is None else each[samples]
                for each in (constraints.within, constraints.unique)
            )
            return cls(batching, within, keys, None, None)
        first = samples[items.edges[:-1]]
        within = None if constraints.within is None else constraints.within[first]
        of_item = items.group_of[samples]
        if constraints.within is not None and within is not None:
            differ = constraints.within[samples] != within[of_item]
            if differ.any():
                group = int(of_item[np.argmax(differ)])
                raise BudgetError(
                    f"together= and within= contradict each other: {items.name(group)} has samples "
                    "of several groups of within=."
                )
        if constraints.unique is None:
            return cls(batching, within, None, None, items.sizes)
        keys = constraints.unique[samples]
        pairs = np.unique(np.stack((of_item, keys))[:, keys >= 0], axis=1)
        own = np.full(len(items.sizes), -1)
        own[pairs[0, ::-1]] = pairs[1, ::-1]
        many = np.bincount(pairs[0], minlength=own.size) > 1
        several = (pairs[0], pairs[1]) if many.any() else None
        return cls(batching, within, own, several, items.sizes)

    @property
    def layout(self) -> Layout:
        """That of the batching."""
        return self.batching.layout

    @property
    def oversize(self) -> Oversize:
        """That of the batching."""
        return self.batching.oversize

    def count(self, request: Request) -> int:
        """Return how many batches the pools need, with room for sequences that need more.

        Pools are counted once for all sizes of updates: a planner counts with the same `rng`.
        """
        members, borders = request.pools.members, request.pools.offsets
        key = hash_of(members.tobytes()), None if borders is None else hash_of(borders.tobytes())
        return self.counted.get(key, lambda: self._count(request))

    def _count(self, request: Request) -> int:
        batching = self.batching
        is_plain = self.keys is None and self.sizes is None and request.lengths.ndim == 1
        if isinstance(batching, Packing):
            is_plain = is_plain and batching.method == "best_fit"
        if isinstance(batching, TokenBudget):
            is_plain = is_plain and not batching.slack
        is_same = is_plain or not request.pools.is_free  # in every draft
        counts = [len(self.draft(request)) for _ in range(1 if is_same else _DRAWS)]
        return 2 * max(counts) - min(counts)

    def draft(self, request: Request) -> Draft:
        """Make the batches. Near O(m log m), with some steps for each batch or group."""
        pools = request.pools
        if not pools.is_free:
            return self._in_sequence(request)
        borders = pools.offsets
        assert borders is not None  # noqa: S101 -- of free pools
        pool = np.repeat(np.arange(borders.size - 1), np.diff(borders))
        order = shuffled(np.arange(pool.size), request.rng)
        items, pool = pools.members[order], pool[order]
        visits, shapes = self._draws(request, items, pool)
        batch = self._placed(visits, items, request)
        by_batch = sorted_by(pool, batch)
        starts = np.flatnonzero(np.diff(batch[by_batch], prepend=-1))
        offsets = np.append(starts, batch.size)
        borders = np.searchsorted(pool[by_batch[starts]], np.arange(borders.size))
        keys = None
        if not isinstance(self.batching, FixedSize):
            keys = self._keys(visits.take(by_batch), offsets)
        return Draft(items[by_batch], offsets, borders, keys, shapes)

    def _draws(
        self, request: Request, items: IntArray, pool: IntArray
    ) -> tuple[Visits, tuple[Shape, ...] | None]:
        lengths = request.lengths[items].astype(np.int64, copy=False)
        segments, shapes = pool, None
        if self.within is not None:
            segments = pool * (int(self.within.max()) + 1) + self.within[items]
        keys = None if self.keys is None else self.keys[items]
        sizes = None if self.sizes is None else self.sizes[items]
        if request.pools.is_free and np.unique(items).size < items.size:  # drawn more than once
            number = 0 if keys is None else int(keys.max()) + 1
            keys = number + items if keys is None else np.where(keys < 0, number + items, keys)
        if isinstance(self.batching, Buckets):
            layout, _ = self.batching.layout_for(self._whole(request))
            shapes = layout.shapes
        return Visits(lengths, segments, keys, sizes), shapes

    def _whole(self, request: Request) -> Request:
        """Return the request with the length of every sample: one for each of an item's."""
        if self.sizes is None:
            return request
        return replace(request, lengths=np.repeat(request.lengths, self.sizes, axis=0))

    def _keys(self, visits: Visits, offsets: IntArray) -> FloatArray:
        """Return about the token-weighted mean log-length of each batch, float64[b]."""
        tokens = totals(visits.lengths).astype(np.float64)
        if visits.sizes is not None and self.layout.kind == "packed":  # of a sample of the group
            weights, tokens = tokens, tokens / visits.sizes
        else:
            weights = tokens if visits.sizes is None else tokens * visits.sizes
        both = np.stack((weights * logs(tokens), weights))
        sums = np.add.reduceat(both, offsets[:-1], axis=1)
        found: FloatArray = sums[0] / sums[1]
        return found

    # -- Free samples ----------------------------------------------------------------------------

    def _placed(self, visits: Visits, items: IntArray, request: Request) -> IntArray:
        """Return the batch of each visit, int64[m]."""
        batching, rng = self.batching, request.rng
        is_packed = isinstance(batching, Packing)
        lists = visits
        if visits.keys is not None and (is_packed or visits.sizes is not None):
            lists = replace(visits, segments=lists_of(visits, self._shares(visits, request), rng))
        batch = self._packed(lists, request) if is_packed else self._padded(lists, request)
        for again in (True, False):
            clashing = np.flatnonzero(self._clash(batch, visits, items))
            if not clashing.size:
                break
            used = int(batch.max()) + 1
            if not again:  # groups of several keys
                batch[clashing] = used + np.arange(clashing.size)
                break
            rest = visits.take(clashing)
            rest = replace(rest, segments=lists_of(rest, None, rng))
            batch[clashing] = used + (
                self._packed(rest, request) if is_packed else self._padded(rest, request)
            )
        return batch

    def _shares(self, visits: Visits, request: Request) -> FloatArray:
        """Return about what each visit takes of a batch, float64[m]."""
        if isinstance(self.batching, Packing):
            taken, capacities, _ = self._taken(visits)
            shares: FloatArray = taken / capacities
            return shares if shares.ndim == 1 else shares.max(axis=1)
        if visits.lengths.ndim == 1 or isinstance(self.batching, FixedSize | Buckets):
            allowed = self._limits(visits, request)[1]
        else:
            allowed = self.layout.rows_allowed(visits.lengths)  # type: ignore[attr-defined]
        return (1.0 if visits.sizes is None else visits.sizes) / allowed

    def _clash(self, batch: IntArray, visits: Visits, items: IntArray) -> npt.NDArray[np.bool_]:
        """Say which visits have a key that an earlier one in their batch has."""
        clashes = np.zeros(batch.size, dtype=np.bool_)
        if visits.keys is None:
            return clashes
        draw, keys = self._all_keys(items, visits.keys)
        into = batch[draw]
        order = sorted_by(into, keys)
        keys, into = keys[order], into[order]
        same = (keys[1:] == keys[:-1]) & (into[1:] == into[:-1])
        clashes[draw[order[1:][same]]] = True
        return clashes

    def _padded(self, visits: Visits, request: Request) -> IntArray:
        """Cut samples from long to short."""
        batching = self.batching
        if isinstance(batching, TokenBudget) and visits.lengths.ndim == 2:
            return self._in_strips(visits, request)
        like, allowed = self._limits(visits, request)
        segments = visits.segments
        if isinstance(batching, Buckets) and visits.lengths.ndim == 2:  # a shape holds only its own
            segments = segments * (int(like.max()) + 1) + like
        if visits.sizes is not None:
            large = visits.sizes > allowed
            if isinstance(batching, Buckets) and large.any():
                place = int(np.argmax(large))
                raise BudgetError(
                    f"Buckets: no shape holds a group of {visits.sizes[place]} samples, the "
                    f"longest of {visits.lengths[place].tolist()} tokens: its shape has "
                    f"{allowed[place]} rows. Raise max_tokens, use fewer shapes, or TokenBudget."
                )
            allowed = np.maximum(allowed, visits.sizes)
        order = sorted_by(segments, like.max(initial=0) - like)
        found = np.empty_like(order)
        sizes = Sizes(
            like[order],
            allowed[order],
            segments[order],
            None if visits.keys is None else visits.keys[order],
            None if visits.sizes is None else visits.sizes[order],
        )
        found[order] = spread(sizes, request.rng)
        return found

    def _limits(self, visits: Visits, request: Request) -> tuple[IntArray, IntArray]:
        """Return the length that each sample is batched as, and the samples of such a batch."""
        batching, lengths = self.batching, visits.lengths
        if isinstance(batching, FixedSize):
            ones = np.ones(len(lengths), dtype=np.int64)
            return ones, ones * batching.batch_size
        if isinstance(batching, Buckets):
            layout, rows = batching.layout_for(self._whole(request))
            shape = layout.shape_of(lengths)
            return shape, rows[shape]
        assert isinstance(batching, TokenBudget)  # noqa: S101 -- `of` took no other
        phase = int(random_bits(request.rng, 1)[0] % np.uint64(batching.phases))
        like = batching.like(lengths, phase)
        return like, batching.limit(like)

    def _in_strips(self, visits: Visits, request: Request) -> IntArray:
        """Cut samples of several lengths, one segment after the other."""
        layout = self.layout
        assert isinstance(layout, Padded)  # noqa: S101 -- that of a TokenBudget
        multiple = self.batching.batch_size_multiple_of  # type: ignore[attr-defined]
        found, used = np.empty(len(visits), dtype=np.int64), 0
        for own in parts_of(visits.segments):
            ids, sizes = cut_strips(
                visits.lengths, own, layout, request.rng, multiple, sizes=visits.sizes
            )
            if visits.keys is not None and visits.sizes is None:
                near, keys = visits.lengths[ids], visits.keys[ids]
                batch = spread_sequence(near, keys, layout.rows_allowed, request.rng)
            else:
                batch = np.repeat(np.arange(sizes.size), sizes)
            found[ids] = used + batch
            used += int(batch.max()) + 1
        return found

    def _packed(self, visits: Visits, request: Request) -> IntArray:
        """Fill rows, one segment after the other."""
        batching, rng = self.batching, request.rng
        taken, capacities, most = self._taken(visits)
        found, used = np.empty(len(visits), dtype=np.int64), 0
        if batching.method == "next_fit":  # type: ignore[attr-defined]
            order = np.argsort(visits.segments, kind="stable")
            stops = stops_of(visits.segments[order], None)
            ends = next_fit(taken[order], capacities, max_samples=most, stops=stops)
            found[order] = np.repeat(np.arange(ends.size - 1), np.diff(ends))
            return found
        for own in parts_of(visits.segments):
            rows = taken[own]
            if (rows.sum(axis=0) <= capacities).all() and (most is None or own.size <= most):
                found[own] = used
                used += 1
            elif taken.ndim == 1:
                order = own[np.argsort(-rows, kind="stable")]
                values, counts = np.unique(rows, return_counts=True)
                cut = best_fit_decreasing(
                    values[::-1], counts[::-1], int(capacities[0]), max_samples=most
                )
                key = int(random_bits(rng, 1)[0])
                places = np.arange(cut.num_batches)
                into, offsets = cut.all(places, key, order.__getitem__)
                found[into] = used + np.repeat(places, np.diff(offsets))
                used += cut.num_batches
            else:
                shares = rows / capacities
                order = np.lexsort((-shares.max(axis=1), -shares.sum(axis=1)))
                placed = pack_columns(rows[order], capacities, max_samples=most)
                found[own[order]] = used + placed
                used += int(placed.max()) + 1
        return found

    def _taken(self, visits: Visits) -> tuple[IntArray, IntArray, int | None]:
        """Return what visits take of a row, the capacities, and the most samples of a row."""
        batching = self.batching
        assert isinstance(batching, Packing)  # noqa: S101 -- who calls has looked
        taken = batching.layout.rounded(batching.taken(visits.lengths).astype(np.int64))
        capacities, most = batching.whole, batching.max_samples
        if visits.sizes is not None and most is not None:  # samples are counted as tokens are
            taken = np.column_stack((taken, visits.sizes))
            capacities, most = np.append(capacities, most), None
        return taken, capacities, most

    # -- A binding sequence ----------------------------------------------------------------------

    def _in_sequence(self, request: Request) -> Draft:
        """Cut a sequence without changing it: earlier, where a constraint asks for it."""
        items, batching = request.pools.members, self.batching
        if isinstance(batching, Buckets):
            batching.count(request)  # raises: it rearranges samples
        visits, _ = self._draws(request, items, np.zeros_like(items))
        entries = None if visits.keys is None else self._all_keys(items, visits.keys)
        stops = stops_of(visits.segments, entries)
        if isinstance(batching, Packing):
            taken, capacities, most = self._taken(visits)
            offsets = next_fit(taken, capacities, max_samples=most, stops=stops)
            return Draft.of_sequence(request, items, offsets)
        lengths, multiple = visits.lengths, 1
        if isinstance(batching, FixedSize):
            lengths = np.ones_like(items)
        if isinstance(batching, TokenBudget):
            multiple = batching.batch_size_multiple_of
        if isinstance(batching, TokenBudget) and lengths.ndim == 2:
            layout = batching.layout
            sizes = cut_sequence(
                lengths, layout.rows_allowed, multiple, stops=stops, sizes=visits.sizes
            )
        else:
            _, allowed = self._limits(replace(visits, lengths=lengths), request)
            sizes = cut_sequence(
                lengths, lambda _: allowed, multiple, stops=stops, sizes=visits.sizes
            )
        return Draft.of_sequence(request, items, offsets_of(sizes))

    def _all_keys(self, items: IntArray, keys: IntArray) -> tuple[IntArray, IntArray]:
        """Return places among items, and the keys that each has, int64[p] each."""
        place = np.arange(items.size)
        if self.several is not None:
            of_item, listed = self.several
            begins = np.searchsorted(of_item, items)
            many = np.searchsorted(of_item, items, side="right") - begins
            place, keys = np.repeat(place, many), listed[ranges(begins, many)]
        return place[keys >= 0], keys[keys >= 0]
