"""Batches of a few fixed shapes, for compilers that prepare themselves for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np

from batchwright.batching.draft import Draft, Oversize
from batchwright.batching.edges import best_edges
from batchwright.checks import check_choice, check_one_column, check_positive
from batchwright.errors import BudgetError
from batchwright.layout import Layout
from batchwright.lengths import logs, runs
from batchwright.order import Pools
from batchwright.seeding import shuffled
from batchwright.typing import IntArray, LengthArray


@dataclass(frozen=True)
class Buckets:
    """Pad to a few lengths, each with a fixed number of rows: at most `num_shapes` shapes.

    Samples share a bucket if they are padded to the same length. The lengths are those with the
    least padding for that number of shapes, found from the data. A batch that is short of samples
    is filled with empty rows: ``PadCollator(shapes=plan.layout.shapes)`` does that.

    Guarantees that every batch takes one of the shapes in ``plan.layout.shapes``, none above the
    budget, and that no sample is lost. Inside a bucket batches are random samples.

    Args:
        num_shapes: How many shapes there may be. None: as many as there are `edges`.
        max_tokens: The budget of one batch, padding and empty rows included.
        edges: The padded lengths, in place of the best ones; longer samples are oversize.
        max_samples: The most rows in a batch.
        pad_to_multiple_of: Padded lengths are multiples of this.
        batch_size_multiple_of: Rows are a multiple of this, where more than one fits.
        oversize: What becomes of a sample longer than the budget: ``"error"``, ``"drop"``, or
            ``"truncate"``.

    Raises:
        BudgetError: If a setting makes no sense.

    Example:
        >>> import batchwright as bw
        >>> plan = bw.plan([9, 1, 8, 2, 2, 1], batching=Buckets(2, max_tokens=18))
        >>> plan.layout.shapes, len(plan)
        (((9, 2), (2, 9)), 2)
    """

    num_shapes: int | None = None
    _: KW_ONLY
    max_tokens: int
    edges: Sequence[int] | None = None
    max_samples: int | None = None
    pad_to_multiple_of: int = 1
    batch_size_multiple_of: int = 1
    oversize: Oversize = "error"

    def __post_init__(self) -> None:
        """Check the settings."""
        check_positive(
            "Buckets",
            num_shapes=self.num_shapes,
            max_tokens=self.max_tokens,
            max_samples=self.max_samples,
            pad_to_multiple_of=self.pad_to_multiple_of,
            batch_size_multiple_of=self.batch_size_multiple_of,
        )
        check_choice("Buckets", "oversize", self.oversize, ("error", "drop", "truncate"))
        if (self.num_shapes is None) == (self.edges is None):
            raise BudgetError("Buckets: give either num_shapes, to find edges, or edges.")
        if self.edges is not None:
            edges = np.asarray(self.edges)
            rising = edges.ndim == 1 and edges.size and (np.diff(edges, prepend=0) > 0).all()
            if not rising or edges.dtype.kind not in "iu" or edges[-1] > self.max_tokens:
                raise BudgetError(
                    f"Buckets(edges={list(self.edges)[:20]}): expected rising whole numbers of at "
                    f"least 1, the last at most max_tokens={self.max_tokens}."
                )
            if (edges % self.pad_to_multiple_of).any():
                raise BudgetError(
                    f"Buckets(edges={list(self.edges)[:20]}): expected multiples of "
                    f"pad_to_multiple_of={self.pad_to_multiple_of}."
                )
            object.__setattr__(self, "edges", tuple(edges.tolist()))

    @property
    def layout(self) -> Layout:
        """Padded rows within the budget; unless edges are given, shapes hang on the lengths."""
        shapes = None if self.edges is None else self._with_rows(np.asarray(self.edges))
        return Layout(
            "padded", self.max_tokens, self.max_samples, self.pad_to_multiple_of, shapes=shapes
        )

    def shapes(self, lengths: LengthArray) -> tuple[tuple[int, int], ...]:
        """Return the shapes for some data.

        Args:
            lengths: integer[n], none above the budget.

        Returns:
            (rows, length) of each, by rising length.
        """
        if self.edges is not None:
            edges = np.asarray(self.edges, dtype=np.int64)
        else:
            values, counts = runs(lengths, np.arange(lengths.size))
            multiple = self.pad_to_multiple_of
            rounded = -(-values[::-1] // multiple) * multiple
            padded, place = np.unique(rounded, return_inverse=True)
            merged = np.bincount(place, weights=counts[::-1]).astype(np.int64)
            edges = best_edges(padded, merged, self.num_shapes or 1)
        return self._with_rows(edges)

    def _with_rows(self, edges: IntArray) -> tuple[tuple[int, int], ...]:
        rows = np.maximum(self.max_tokens // edges, 1)
        if self.max_samples is not None:
            rows = np.minimum(rows, self.max_samples)
        whole = rows // self.batch_size_multiple_of * self.batch_size_multiple_of
        rows = np.where(whole > 0, whole, rows)
        return tuple(zip(rows.tolist(), edges.tolist(), strict=True))

    def count(
        self, pools: Pools, lengths: LengthArray, *, rng: np.random.Generator, multiple: int
    ) -> int:
        """Return how many batches the buckets of all pools need; see `Batching.count`."""
        check_one_column("Buckets", lengths.ndim)
        if not pools.is_free:
            raise BudgetError(
                "Buckets rearrange samples, and the order binds their sequence. Use TokenBudget, "
                "or another order."
            )
        rows, edges = np.array(self.shapes(lengths)).T
        total = 0
        for pool in pools:
            sizes = np.bincount(_bucket(lengths[pool], edges), minlength=edges.size)
            total += int((-(-sizes // rows)).sum())
        return total

    def draft(
        self,
        pools: Pools,
        lengths: LengthArray,
        *,
        rng: np.random.Generator,
        multiple: int,
        num_batches: int,
    ) -> Draft:
        """Put random samples of a bucket together; see `Batching.draft`. O(m log m)."""
        shapes = self.shapes(lengths)
        rows, edges = np.array(shapes).T
        members, offsets, borders, of_batch = [], [np.zeros(1, dtype=np.int64)], [0], []
        start = 0
        for pool in pools:
            mixed = shuffled(pool, rng)
            bucket = _bucket(lengths[mixed], edges)
            # NumPy sorts 16 bits by radix.
            narrow = bucket.astype(np.uint16) if edges.size < 1 << 16 else bucket
            members.append(mixed[np.argsort(narrow, kind="stable")])
            sizes = np.bincount(bucket, minlength=edges.size)
            many = -(-sizes // rows)
            of_batch.append(np.repeat(np.arange(edges.size), many))
            ends = start + np.cumsum(sizes)
            place = np.arange(int(many.sum())) - np.repeat(np.cumsum(many) - many, many)
            stops = np.repeat(ends - sizes, many) + (place + 1) * np.repeat(rows, many)
            offsets.append(np.minimum(stops, np.repeat(ends, many)))
            borders.append(borders[-1] + int(many.sum()))
            start += pool.size
        keys = logs(edges[np.concatenate(of_batch)].astype(np.float64))
        return Draft(
            np.concatenate(members),
            np.concatenate(offsets),
            np.array(borders),
            keys,
            shapes=shapes,
        )


def _bucket(lengths: LengthArray, edges: IntArray) -> IntArray:
    """Return which bucket each length falls into; beyond the last edge, the last."""
    bucket: IntArray = np.searchsorted(edges, lengths.astype(np.int64, copy=False))
    return np.minimum(bucket, edges.size - 1)
