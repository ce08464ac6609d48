"""How the samples of a batch lie in memory, and so what a batch costs."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from batchwright.checks import check_choice, check_positive
from batchwright.errors import BudgetError
from batchwright.typing import Cost, FloatArray, IntArray


@dataclass(frozen=True)
class Layout:
    """The shape that batches take, and the budget they keep.

    Attributes:
        kind: ``"padded"``: one row per sample, all as long as the longest. ``"packed"``: the
            samples one behind the other in a single row.
        budget: Tokens that a batch may hold in that shape, padding included. None: no limit.
        max_samples: Samples that a batch may hold. None: no limit.
        multiple: Rows (padded) or samples inside a row (packed) are rounded up to this.
        max_length: Longer samples are cut: to this (truncated), or into pieces of it (split).
        area: What a padded row of several columns takes: the ``"sum"`` of its lengths (source and
            target), or their ``"product"`` (the cells of an image).
        caps: The most padded tokens of each column, in place of `budget`. None: there is one
            budget for all.
        shapes: (rows, length) of the only shapes that padded batches take, by rising length;
            batches with fewer samples are filled with empty rows. None: any shape.

    Example:
        >>> Layout("padded").batch_tokens(np.array([3, 5, 2]), np.array([0, 2, 3]))
        array([10,  2])
        >>> Layout("packed").batch_tokens(np.array([3, 5, 2]), np.array([0, 2, 3]))
        array([8, 2])
    """

    kind: Literal["padded", "packed"] = "padded"
    budget: int | None = None
    max_samples: int | None = None
    multiple: int = 1
    max_length: int | None = None
    shapes: tuple[tuple[int, int], ...] | None = None
    area: Literal["sum", "product"] = "sum"
    caps: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the settings, which may come from a file."""
        if self.shapes is not None:
            shapes = tuple((int(rows), int(length)) for rows, length in self.shapes)
            rising = all(a < b for (_, a), (_, b) in pairwise(shapes))
            if not shapes or not rising or min(map(min, shapes)) < 1:
                raise BudgetError(
                    f"Layout(shapes={self.shapes}): expected (rows, length) by rising length."
                )
            object.__setattr__(self, "shapes", shapes)
        check_choice("Layout", "kind", self.kind, ("padded", "packed"))
        if self.caps is not None:
            object.__setattr__(self, "caps", tuple(int(cap) for cap in self.caps))
        check_choice("Layout", "area", self.area, ("sum", "product"))
        check_positive(
            "Layout",
            budget=self.budget,
            max_samples=self.max_samples,
            multiple=self.multiple,
            max_length=self.max_length,
        )

    @property
    def longest_row(self) -> int | None:
        """The longest sample that fits. None: any does."""
        if self.shapes is not None:
            return self.shapes[-1][1]
        return None if self.budget is None else self.budget // self.multiple * self.multiple

    def rows_allowed(self, longest: IntArray) -> IntArray:
        """Return how many padded rows of several columns a batch may have.

        Args:
            longest: int64[..., k], the longest of each column.

        Returns:
            int64[...]; 0 where not even one fits.
        """
        padded = self.rounded(longest)
        if self.caps is not None:
            rows: IntArray = (np.array(self.caps) // padded).min(axis=-1)
        else:
            rows = (2**53 if self.budget is None else self.budget) // self.areas(padded)
        return rows if self.max_samples is None else np.minimum(rows, self.max_samples)

    def areas(self, padded: IntArray) -> IntArray:
        """Return what a padded row of several columns takes: int64[..., k] → int64[...]."""
        area: IntArray = padded.prod(axis=-1) if self.area == "product" else padded.sum(axis=-1)
        return area

    def row_lengths(self, lengths: IntArray, offsets: IntArray) -> IntArray:
        """Return the length that each padded batch's rows have: int64[m] → int64[b]. O(m).

        Of several columns, what they take together: int64[m, k] → int64[b].
        """
        longest = np.maximum.reduceat(self.rounded(lengths), offsets[:-1])
        if longest.ndim == 2:
            return self.areas(longest)
        if self.shapes is None:
            return longest
        return np.array([length for _, length in self.shapes])[self._shape_of(longest)]

    def rounded(self, lengths: IntArray) -> IntArray:
        """Round lengths up to the multiple, as they lie in memory: int64[m] → int64[m]."""
        if self.multiple == 1:
            return lengths
        return -(-lengths // self.multiple) * self.multiple

    def batch_tokens(self, lengths: IntArray, offsets: IntArray) -> IntArray:
        """Count the tokens of each batch as laid out, padding included.

        Args:
            lengths: int64[m], length of each entry of a plan.
            offsets: int64[b + 1], where batches begin and end; no batch is empty.

        Returns:
            int64[b]. O(m).
        """
        if self.kind == "packed":
            return np.add.reduceat(self.rounded(lengths), offsets[:-1])
        longest = self.row_lengths(lengths, offsets)
        return longest * self._num_rows(longest, offsets)

    def batch_costs(self, lengths: IntArray, offsets: IntArray, cost: Cost) -> FloatArray:
        """Measure the work of each batch.

        Args:
            lengths: int64[m], length of each entry of a plan.
            offsets: int64[b + 1], where batches begin and end; no batch is empty.
            cost: ``"padded"`` (tokens as laid out), ``"quadratic"`` (their squares, as full
                attention costs), or a function from lengths float64[m] to cost float64[m].

        Returns:
            float64[b]. O(m).

        Raises:
            BudgetError: If the cost is unknown, or not one finite positive figure per length.
        """
        if lengths.ndim == 2 and cost == "quadratic":
            longest = np.maximum.reduceat(self.rounded(lengths), offsets[:-1]).astype(np.float64)
            squares: FloatArray = (longest**2).sum(axis=1) * np.diff(offsets)
            return squares
        if self.kind == "padded":
            # The longest row stands for all: a cost grows with length.
            row_lengths = self.row_lengths(lengths, offsets)
            num_rows = self._num_rows(row_lengths, offsets)
            return num_rows * _row_costs(row_lengths.astype(np.float64), cost)
        rows = self.rounded(lengths).astype(np.float64)
        return np.add.reduceat(_row_costs(rows, cost), offsets[:-1])

    def _num_rows(self, longest: IntArray, offsets: IntArray) -> IntArray:
        """Return the rows of each batch, empty ones included."""
        if self.shapes is None:
            return np.diff(offsets)
        return np.array([rows for rows, _ in self.shapes])[self._shape_of(longest)]

    def _shape_of(self, longest: IntArray) -> IntArray:
        edges = [length for _, length in self.shapes or ()]
        return np.minimum(np.searchsorted(edges, longest), len(edges) - 1)


def _row_costs(lengths: FloatArray, cost: Cost) -> FloatArray:
    if cost == "padded":
        return lengths
    if cost == "quadratic":
        return lengths * lengths
    if not callable(cost):
        raise BudgetError(
            f'cost={cost!r} is unknown, expected "padded", "quadratic" or a function.'
        )
    costs = np.asarray(cost(lengths), dtype=np.float64)
    if costs.shape != lengths.shape or not (np.isfinite(costs) & (costs > 0)).all():
        raise BudgetError(
            f"cost returned shape {list(costs.shape)} for {list(lengths.shape)} lengths, or "
            "figures that are not finite and positive. Return one positive cost per length."
        )
    return costs
