"""Groups of samples that stay in one batch, planned as if each were one sample."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from batchwright._random import sorted_by
from batchwright.batches import Arrays
from batchwright.batching.cut import offsets_of, ranges
from batchwright.constraints import Constraints, is_none
from batchwright.errors import BudgetError, PlanError
from batchwright.layout import Layout
from batchwright.order import Blocks, Pools, Sequential, Shuffle
from batchwright.oversize import Items, named_limit
from batchwright.typing import IntArray, LengthArray, Order, Oversize


@dataclass(frozen=True, eq=False)
class Units(Items):
    """The things that are planned: whole groups. A sample of no group is one of its own.

    `lengths` are those of the longest sample of each; of packed rows, of all its samples.
    """

    group_of: IntArray = field(kw_only=True)  # int64[n], the group of each sample
    samples_by_group: IntArray = field(kw_only=True)  # int64[n]
    edges: IntArray = field(kw_only=True)  # int64[u + 1], where groups begin and end among those
    entries: LengthArray = field(kw_only=True)  # integer[n] or [n, c], lengths as planned
    gone: IntArray = field(kw_only=True)  # int64[d], groups left out because they are too large
    names: npt.NDArray[np.generic] | None = field(kw_only=True)

    @property
    def sizes(self) -> IntArray:
        """Samples of each group, int64[u]."""
        return np.diff(self.edges)

    def of(self, pools: Pools) -> Pools:
        """Turn pools of samples into pools of groups; raise PlanError unless these are whole."""
        if self.dropped.size:
            pools = super().of(pools)
        if pools.offsets is None:
            return self._in_sequence(pools)
        borders, size = pools.offsets, self.group_of.size
        pool = np.repeat(np.arange(borders.size - 1), np.diff(borders))
        codes, times = np.unique(pool * size + pools.members, return_counts=True)
        pool, samples = np.divmod(codes, size)
        order = sorted_by(pool, self.group_of[samples])
        pool, groups, times = pool[order], self.group_of[samples[order]], times[order]
        starts = np.flatnonzero(np.diff(groups, prepend=-1) | np.diff(pool, prepend=-1))
        pool, groups, found = pool[starts], groups[starts], np.diff(starts, append=groups.size)
        often = np.minimum.reduceat(times, starts)
        is_whole = (found == self.sizes[groups]) & (often == np.maximum.reduceat(times, starts))
        self._refuse_parts(groups, ~is_whole)
        edges = offsets_of(np.bincount(pool, often, borders.size - 1).astype(np.int64))
        return replace(pools, members=np.repeat(groups, often), offsets=np.unique(edges))

    def _in_sequence(self, pools: Pools) -> Pools:
        """Read groups from a sequence; the samples of each come in the order of the data."""
        members = pools.members
        groups = self.group_of[members]
        starts = np.flatnonzero(np.diff(groups, prepend=-1))
        runs, found = groups[starts], np.diff(starts, append=groups.size)
        often, rest = np.divmod(found, self.sizes[runs])
        self._refuse_parts(runs, rest > 0)
        items = np.repeat(runs, often)
        block = np.repeat(np.arange(items.size), self.sizes[items])
        differ = members[sorted_by(block, members)] != self.samples(items)[0]
        self._refuse_parts(groups, differ)
        return replace(pools, members=items)

    def _refuse_parts(self, groups: IntArray, is_part: npt.NDArray[np.bool_]) -> None:
        if is_part.any():
            group = int(groups[np.argmax(is_part)])
            raise PlanError(
                f"together=: the order does not keep the {int(self.sizes[group])} samples of "
                f"{self.name(group)} side by side. Shuffle() does; Sequential, Blocks and "
                "Shuffle(window=) do where groups are neighbours in the data and in one block or "
                "window."
            )

    def name(self, group: int) -> str:
        """Describe a group for a message."""
        if self.names is None or is_none(self.names[group : group + 1]).all():
            return f"sample {self.samples_by_group[self.edges[group]]}"
        return f"group {self.names[group].item()!r:.60}"

    def all(self) -> IntArray:
        """Return every group that may be planned."""
        return np.delete(np.arange(len(self.sizes)), self.gone)

    def samples(self, items: IntArray) -> tuple[IntArray, None]:
        """Return the samples of groups, one group after the other."""
        return self.samples_by_group[ranges(self.edges[items], self.sizes[items])], None

    def batches(self, items: IntArray, offsets: IntArray) -> Arrays:
        """Return batches of samples in place of groups."""
        sizes = self.sizes[items]
        groups = np.repeat(items, sizes)
        return Arrays(self.samples(items)[0], offsets_of(sizes)[offsets], groups=groups)

    def lengths_of(self, items: IntArray) -> LengthArray:
        """Return the lengths of the samples of groups, integer[m] or [m, c]."""
        found: LengthArray = self.entries[self.samples(items)[0]]
        return found


_WHOLE = (Sequential, Shuffle, Blocks)
"""Orders that visit every sample once an epoch."""


def refuse_draws(order: Order) -> None:
    """Raise PlanError if an order draws samples one by one: it cannot keep groups whole."""
    is_ours = type(order).__module__.startswith("batchwright.")
    if is_ours and not isinstance(order, _WHOLE):
        raise PlanError(
            f"together=: {type(order).__name__} draws samples one by one, and would not keep "
            "groups whole. Use Shuffle, Sequential or Blocks."
        )


def as_units(items: Items, constraints: Constraints, layout: Layout, oversize: Oversize) -> Units:
    """Return groups as the things to be planned, none above the budget.

    A group that exceeds it, or has a sample that does, is left out whole under ``"drop"``.
    """
    group_of = constraints.together
    assert group_of is not None  # noqa: S101 -- asked for only then
    if items.first is not None:
        raise BudgetError(
            'together= keeps samples whole, and oversize="split" cuts them. Choose "drop" or '
            '"truncate".'
        )
    by_group = np.argsort(group_of, kind="stable")
    edges = offsets_of(np.bincount(group_of))
    entries = items.lengths[by_group].astype(np.int64, copy=False)
    bad = np.zeros(len(items.lengths), dtype=np.bool_)
    bad[items.dropped] = True
    has_dropped = np.logical_or.reduceat(bad[by_group], edges[:-1])
    large = has_dropped | layout.too_large(entries, edges)
    rounded = layout.rounded(entries)
    gather = np.add if layout.kind == "packed" else np.maximum
    units = Units(
        gather.reduceat(rounded, edges[:-1], axis=0),
        dropped=np.sort(by_group[np.repeat(large, np.diff(edges))]),
        max_length=items.max_length,
        group_of=group_of,
        samples_by_group=by_group,
        edges=edges,
        entries=items.lengths,
        gone=np.flatnonzero(large),
        names=constraints.names,
    )
    if large.all() or (oversize != "drop" and large.any()):
        group = int(units.gone[0])
        own = slice(int(edges[group]), int(edges[group + 1]))
        tokens = int(layout.batch_tokens(entries[own], np.array([0, own.stop - own.start]))[0])
        limit = named_limit(layout) if layout.limits or layout.shapes else ""
        if layout.max_samples is not None:
            limit += f"{' and ' if limit else ''}at most {layout.max_samples} samples"
        ways = 'Raise it, or choose oversize="drop"' if layout.limits else "Raise it"
        raise BudgetError(
            f"{limit}: too small for {units.gone.size} of {len(units.sizes)} groups that stay "
            f"together ({units.name(group)}: {own.stop - own.start} samples, {tokens} tokens as "
            f"laid out). {ways}, or make groups smaller."
        )
    return units
