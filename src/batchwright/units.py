"""Groups of samples that stay in one batch, planned as if each were one sample."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from batchwright.batches import Arrays
from batchwright.batching.cut import offsets_of, ranges
from batchwright.constraints import Constraints
from batchwright.errors import BudgetError, PlanError
from batchwright.layout import Layout
from batchwright.order import Pools
from batchwright.oversize import Items, named_limit
from batchwright.typing import IntArray, LengthArray, Oversize


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
        many, size = pools.offsets.size - 1, len(self.sizes)
        pool = np.repeat(np.arange(many), np.diff(pools.offsets))
        codes, counts = np.unique(pool * size + self.group_of[pools.members], return_counts=True)
        groups = codes % size
        self._refuse_parts(groups, counts != self.sizes[groups])
        offsets = np.searchsorted(codes, np.arange(many + 1) * size)
        return replace(pools, members=groups, offsets=np.unique(offsets))

    def _in_sequence(self, pools: Pools) -> Pools:
        groups = self.group_of[pools.members]
        starts = np.flatnonzero(np.diff(groups, prepend=-1))
        runs = groups[starts]
        self._refuse_parts(runs, np.diff(starts, append=groups.size) != self.sizes[runs])
        return replace(pools, members=runs)

    def _refuse_parts(self, groups: IntArray, is_part: npt.NDArray[np.bool_]) -> None:
        if is_part.any():
            raise PlanError(
                f"together=: the order does not keep the {int(self.sizes[groups[is_part][0]])} "
                f"samples of {self.name(int(groups[is_part][0]))} side by side, each once. "
                "Shuffle() does; Sequential, Blocks and Shuffle(window=) do where groups are "
                "neighbours in the data and in one block or window. Orders that draw samples one "
                "by one do not."
            )

    def name(self, group: int) -> str:
        """Describe a group for a message."""
        if self.names is None or group >= self.names.size:
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
