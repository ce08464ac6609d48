"""Batches of a few fixed shapes, for compilers that compile each shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from batchwright._checks import budgets, check_choice, keep_whole
from batchwright._random import shuffled
from batchwright.batching.cut import Cut
from batchwright.batching.cuts import in_multiples
from batchwright.batching.draft import Draft, Request, single, split_budget
from batchwright.batching.edges import best_edges, best_pairs, counted
from batchwright.errors import BudgetError
from batchwright.layout import Padded, Shape, preference
from batchwright.lengths import logs
from batchwright.typing import Cuts, FloatArray, IntArray, LengthArray, Oversize, Wanted

_Lengths: TypeAlias = int | tuple[int, ...]


@dataclass(frozen=True)
class Buckets:
    """Pad to a few lengths, each with a fixed number of rows: at most `num_shapes` shapes.

    The lengths are those with the least padding, found from the data. A batch that is short of
    samples is filled with empty rows by ``PadCollator(shapes=plan.layout.shapes)``.

    Samples may have two lengths, [n, 2]: source and target, or height and width. A shape is then
    (rows, (length, length)), and a sample goes where it takes the least of a batch, among the
    shapes that hold it. More columns need `edges`.

    Guarantees that every batch takes one of the shapes in ``plan.layout.shapes``, none above the
    budget, and that no sample is lost. Inside a bucket batches are random samples.

    Args:
        num_shapes: How many shapes there may be. None: as many as there are `edges`.
        max_tokens: The budget of one batch, padding and empty rows included. For several
            columns also one budget for each.
        edges: The padded lengths, in place of the best ones; longer samples are oversize. For
            several columns tuples: (length, length).
        max_samples: The most rows in a batch.
        pad_to_multiple_of: Padded lengths are multiples of this.
        batch_size_multiple_of: Rows are a multiple of this, where more than one fits.
        oversize: What becomes of a sample longer than the budget: ``"error"``, ``"drop"``, or
            ``"truncate"``.
        area: What a row of several columns takes: the ``"sum"`` of its lengths, or their
            ``"product"``: the cells of an image of height × width.

    Example:
        >>> import batchwright as bw
        >>> plan = bw.plan([9, 1, 8, 2, 2, 1], batching=Buckets(2, max_tokens=18))
        >>> plan.layout.shapes, len(plan)
        (((9, 2), (2, 9)), 2)
        >>> images = [[9, 2], [8, 2], [2, 9], [2, 8]]
        >>> plan = bw.plan(images, batching=Buckets(2, max_tokens=36, area="product"))
        >>> plan.layout.shapes, len(plan)
        (((2, (2, 9)), (2, (9, 2))), 2)
    """

    num_shapes: int | None = None
    _: KW_ONLY
    max_tokens: _Lengths
    edges: Sequence[_Lengths] | None = None
    max_samples: int | None = None
    pad_to_multiple_of: int = 1
    batch_size_multiple_of: int = 1
    oversize: Oversize = "error"
    area: Literal["sum", "product"] = "sum"

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_tokens", budgets("Buckets", "max_tokens", self.max_tokens))
        keep_whole(self, "pad_to_multiple_of", "batch_size_multiple_of")
        keep_whole(self, optional=("num_shapes", "max_samples"))
        check_choice("Buckets", "oversize", self.oversize, ("error", "drop", "truncate"))
        check_choice("Buckets", "area", self.area, ("sum", "product"))
        if (self.num_shapes is None) == (self.edges is None):
            raise BudgetError("Buckets: give either num_shapes, to find edges, or edges.")
        if self.edges is not None:
            object.__setattr__(self, "edges", tuple(_plain(self._checked_edges())))

    @property
    def layout(self) -> Padded:
        """Padded rows within the budget; without `edges`, shapes depend on the lengths."""
        bare = self._bare_layout
        return bare if self.edges is None else replace(bare, shapes=self._own_shapes())

    def shapes(self, lengths: LengthArray) -> tuple[Shape, ...]:
        """Return the shapes for lengths integer[n] or [n, 2]; those above the budget are ignored.

        Returns:
            (rows, length) of each, by rising length; or (rows, (length, length)), by falling rows.

        Raises:
            BudgetError: If no shapes are found that hold all samples, or lengths have other
                columns.
        """
        if self.edges is not None:
            return self._own_shapes()
        fits = self._bare_layout.fits(lengths)
        within = lengths if fits.all() else lengths[fits]
        if lengths.ndim == 2:
            return self._shapes_of_pairs(within)
        return self._shapes_of(*counted(within))

    def _shapes_of(self, values: IntArray, counts: IntArray) -> tuple[Shape, ...]:
        """Find the shapes for distinct lengths, rising, and how many samples have each."""
        single("Buckets(max_tokens", self.max_tokens)
        padded, place = np.unique(self._bare_layout.rounded(values), return_inverse=True)
        merged = np.bincount(place, weights=counts).astype(np.int64)
        return self._with_rows(best_edges(padded, merged, self.num_shapes or 1))

    def cuts(self, values: IntArray, counts: IntArray) -> Cuts:
        """Return the batching with its edges, found for distinct lengths, int64[r]; see `Cuts`."""
        if self.edges is not None:
            return self
        edges = [length for _, length in self._shapes_of(values[::-1], counts[::-1])]
        return replace(self, num_shapes=None, edges=edges)

    phases: ClassVar[int] = 1

    def cut(self, values: IntArray, counts: IntArray, wanted: Wanted) -> Cut:
        """Cut each bucket into batches; see `Cuts`."""
        shapes = self._own_shapes()
        rows, edges = (np.array(each, dtype=np.int64) for each in zip(*shapes, strict=True))
        bucket = self.layout.shape_of(values)
        starts = np.flatnonzero(np.diff(bucket, prepend=-1))
        own, samples = bucket[starts], np.add.reduceat(counts, starts)
        batches = -(-samples // rows[own])
        ends = np.cumsum(batches)
        cut = Cut(np.cumsum(samples) - samples, samples, ends - batches, batches, edges[own])
        return cut.split_to(max(wanted.num_batches or 0, cut.num_batches))

    def count(self, request: Request) -> int:
        """Return how many batches the buckets of all pools need."""
        if not request.pools.is_free:
            raise BudgetError(
                "Buckets rearrange samples, and the order binds their sequence. Use TokenBudget, "
                "or another order."
            )
        layout, rows = self.layout_for(request)
        total = 0
        for pool in request.pools:
            sizes = np.bincount(_bucket(request.lengths[pool], layout), minlength=rows.size)
            total += int((-(-sizes // rows)).sum())
        return total

    def draft(self, request: Request) -> Draft:
        """Put random samples of a bucket together. O(m log m)."""
        layout, rows = self.layout_for(request)
        parts: list[tuple[IntArray, IntArray]] = []
        buckets: list[IntArray] = []
        for pool in request.pools:
            mixed = shuffled(pool, request.rng)
            bucket = _bucket(request.lengths[mixed], layout)
            # NumPy sorts 16 bits by radix.
            narrow = bucket.astype(np.uint16) if rows.size < 1 << 16 else bucket
            sizes = np.bincount(bucket, minlength=rows.size)
            many = -(-sizes // rows)
            buckets.append(np.repeat(np.arange(rows.size), many))
            full = np.repeat(rows, many)
            full[np.cumsum(many)[many > 0] - 1] -= (many * rows - sizes)[many > 0]
            parts.append((mixed[np.argsort(narrow, kind="stable")], full))
        edges = np.array([length for _, length in layout.shapes or ()])
        keys = logs(layout.areas(edges)[np.concatenate(buckets)].astype(np.float64))
        return replace(Draft.of_pools(parts), keys=keys, shapes=layout.shapes)

    @property
    def _bare_layout(self) -> Padded:
        budget, caps = split_budget(self.max_tokens)
        most, multiple = self.max_samples, self.pad_to_multiple_of
        return Padded(budget, most, multiple, area=self.area, caps=caps)

    def layout_for(self, request: Request) -> tuple[Padded, IntArray]:
        """Return the layout with its shapes, found once for the lengths; and the rows of each."""
        shapes = request.kept.get("shapes", lambda: self.shapes(request.lengths))
        return replace(self._bare_layout, shapes=shapes), np.array([rows for rows, _ in shapes])

    def _own_shapes(self) -> tuple[Shape, ...]:
        return self._with_rows(np.array(self.edges, dtype=np.int64))

    def _with_rows(self, edges: IntArray) -> tuple[Shape, ...]:
        """Give each edge, int64[s] or [s, k], its rows, and sort them as `Padded` wants them."""
        bare = self._bare_layout
        rows = np.maximum(bare.rows_allowed(edges), 1)
        rows = in_multiples(rows, self.batch_size_multiple_of)
        shapes = zip(rows.tolist(), _plain(edges), strict=True)
        return tuple(sorted(shapes, key=lambda shape: preference(bare, shape)))

    def _shapes_of_pairs(self, lengths: LengthArray) -> tuple[Shape, ...]:
        if lengths.shape[1] != 2:
            raise BudgetError(
                f"Buckets(num_shapes={self.num_shapes}) finds shapes for lengths [n] or [n, 2], "
                f"got {lengths.shape[1]} columns. Give edges=[(length, length, …), …] instead."
            )
        bare = self._bare_layout
        pairs = bare.rounded(lengths.astype(np.int64, copy=False))

        def area(padded: IntArray) -> FloatArray:
            taken = bare.about_areas(padded)
            if bare.caps is not None:  # the column that fills its budget first is scarce
                taken = (padded / np.array(bare.caps)).max(axis=-1)
            return np.where(bare.rows_allowed(padded) >= 1, taken, np.inf)

        edges = best_pairs(pairs, self.num_shapes or 1, area)
        if edges is None:
            raise BudgetError(
                f"Buckets(num_shapes={self.num_shapes}, max_tokens={self.max_tokens}): found no so "
                f"few shapes within the budget that hold all samples (the longest lengths are "
                f"{pairs.max(axis=0).tolist()}). Raise max_tokens or num_shapes, or give edges."
            )
        # Samples go to the shape where they take least, which may be another range's: shapes
        # shrink to what they then hold.
        found = replace(bare, shapes=self._with_rows(edges))
        bucket = found.shape_of(pairs)
        order = np.argsort(bucket.astype(np.uint16), kind="stable")
        starts = np.flatnonzero(np.diff(bucket[order], prepend=-1))
        return self._with_rows(np.maximum.reduceat(pairs[order], starts))

    def _checked_edges(self) -> IntArray:
        """Return the user's own edges, int64[s] or [s, k]."""
        try:
            edges = np.asarray(self.edges)
        except ValueError:  # of different widths
            edges = np.empty(0)
        multiple, is_whole = self.pad_to_multiple_of, edges.size and edges.dtype.kind in "iu"
        if not is_whole or not self._are_valid(edges.astype(np.int64)):
            are_joined = edges.ndim == 2 and isinstance(self.max_tokens, int)
            joined = f" as the {self.area} of its lengths" if are_joined else ""
            raise BudgetError(
                f"Buckets(edges={self.edges!r:.120}): expected rising whole numbers, or distinct "
                f"tuples of one for each column, each multiples of pad_to_multiple_of={multiple} "
                f"and within max_tokens={self.max_tokens}{joined}."
            )
        return edges

    def _are_valid(self, edges: IntArray) -> bool:
        bare = self._bare_layout
        if edges.ndim not in {1, 2} or (edges < 1).any() or (edges % bare.multiple).any():
            return False
        if edges.ndim == 1:
            suits = bare.caps is None and bool((np.diff(edges) > 0).all())
        else:
            is_distinct = len(np.unique(edges, axis=0)) == len(edges)
            suits = is_distinct and len(bare.caps or edges[0]) == edges.shape[1] > 1
        return suits and bool(bare.rows_allowed(edges).all())


def _plain(edges: IntArray) -> list[_Lengths]:
    """Return lengths as numbers, or as tuples of them."""
    return edges.tolist() if edges.ndim == 1 else [tuple(each) for each in edges.tolist()]


def _bucket(lengths: LengthArray, layout: Padded) -> IntArray:
    return layout.shape_of(lengths.astype(np.int64, copy=False))
