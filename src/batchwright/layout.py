"""How the samples of a batch lie in memory, and what a batch costs."""

import operator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright._checks import budgets, check_choice, keep_whole, takes
from batchwright.errors import BudgetError
from batchwright.lengths import MOST_TOKENS, refuse_uncountable, sums_of_batches
from batchwright.typing import Cost, FloatArray, IntArray, LengthArray

_UNCOUNTED = 2**63 - 1

Shape: TypeAlias = tuple[int, int | tuple[int, ...]]
"""(rows, length) of a padded batch; of several columns (rows, (length, length, …))."""


@dataclass(frozen=True)
class Layout:
    """The shape that batches take, and the budget they keep.

    Attributes:
        kind: ``"padded"``: one row per sample, all as long as the longest. ``"packed"``: the
            samples one after the other in a single row.
        budget: Tokens that a batch may hold in that shape, padding included. None: no limit.
        max_samples: Samples that a batch may hold. None: no limit.
        multiple: Rows (padded) or samples inside a row (packed) are rounded up to this.
        max_length: Longer samples are cut: to this (truncated), or into pieces of it (split).
            Of several columns, what each is cut to.
        area: What a padded row of several columns takes: the ``"sum"`` of its lengths (source and
            target), or their ``"product"`` (the cells of an image).
        caps: The most tokens of each column, padding included, in place of `budget`.
        shapes: (rows, length) of the only shapes that padded batches take, by rising length; or
            (rows, (length, …)) for several columns, by what a row takes of a batch. A batch takes
            the first that holds it, and is filled with empty rows. None: any shape.

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
    max_length: int | tuple[int, ...] | None = None
    shapes: tuple[Shape, ...] | None = None
    area: Literal["sum", "product"] = "sum"
    caps: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the settings, which may come from a file."""
        check_choice("Layout", "kind", self.kind, ("padded", "packed"))
        check_choice("Layout", "area", self.area, ("sum", "product"))
        if self.caps is not None:
            caps = budgets("Layout", "caps", self.caps)
            object.__setattr__(self, "caps", caps if isinstance(caps, tuple) else (caps,))
        if self.max_length is not None:
            most = budgets("Layout", "max_length", self.max_length)
            object.__setattr__(self, "max_length", most)
        keep_whole(self, "multiple", optional=("budget", "max_samples"))
        if self.shapes is not None:
            object.__setattr__(self, "shapes", self._checked(self.shapes))

    @property
    def longest_row(self) -> int | None:
        """The longest sample that fits. None: any does."""
        if self.shapes is not None:
            longest = self.shapes[-1][1]
            return longest if isinstance(longest, int) else None
        return None if self.budget is None else self.budget // self.multiple * self.multiple

    @property
    def longest_columns(self) -> tuple[int, ...] | None:
        """The longest that each column of a packed sample may be, if each has its own limit."""
        if self.kind == "padded" or self.caps is None:
            return None
        return tuple(cap // self.multiple * self.multiple for cap in self.caps)

    def fits(self, lengths: LengthArray) -> npt.NDArray[np.bool_]:
        """Say which samples are alone within the budget: integer[n] or [n, k] → bool[n]."""
        if lengths.ndim == 1:
            limit = self.longest_row
            return np.ones(len(lengths), dtype=np.bool_) if limit is None else lengths <= limit
        columns = lengths.astype(np.int64, copy=False)
        if self.kind == "padded":
            return self.rows_allowed(columns) >= 1
        padded = self.rounded(columns)
        if self.caps is not None:
            return np.asarray((padded <= np.array(self.caps)).all(axis=-1))
        return np.asarray(self._areas(padded) <= self._most)

    def rows_allowed(self, longest: IntArray) -> IntArray:
        """Return how many padded rows of several columns a batch may have.

        Args:
            longest: int64[..., k], the longest of each column.

        Returns:
            int64[...]; 0 where not even one fits, or no shape holds it.
        """
        padded = self.rounded(longest)
        if self.caps is not None:
            rows: IntArray = (np.array(self.caps) // padded).min(axis=-1)
        else:
            area = self._areas(padded)
            rows = np.where(area <= self._most, self._most // area, 0)
        if self.max_samples is not None:
            rows = np.minimum(rows, self.max_samples)
        return rows if self.shapes is None else np.where(self.shape_of(padded) >= 0, rows, 0)

    def areas(self, padded: IntArray) -> IntArray:
        """Return what a padded row of several columns takes: int64[..., k] → int64[...].

        Raises:
            LengthsError: If it is more than 64-bit integers hold.
        """
        refuse_uncountable(self.about_areas(padded))
        return self._areas(padded)

    def _areas(self, padded: IntArray) -> IntArray:
        """Return the areas, at most 2**63 - 1."""
        areas = padded.prod(axis=-1) if self.area == "product" else padded.sum(axis=-1)
        return np.where(self.about_areas(padded) < _UNCOUNTED, areas, _UNCOUNTED)

    def about_areas(self, padded: IntArray) -> FloatArray:
        """Return the areas as float64[...], exact below 2**53."""
        columns = padded.astype(np.float64)
        about: FloatArray = (
            columns.prod(axis=-1) if self.area == "product" else columns.sum(axis=-1)
        )
        return about

    @property
    def _most(self) -> int:
        return min(2**53 if self.budget is None else self.budget, MOST_TOKENS)

    def shape_of(self, lengths: LengthArray) -> IntArray:
        """Return the first of `shapes` that holds each sample, integer[m] or [m, k] → int64[m].

        -1 where none does. O(m log s) for s shapes.

        Raises:
            BudgetError: If the shapes are of another number of columns.
        """
        shapes = self.shapes or ()
        if lengths.ndim == 1 and all(isinstance(length, int) for _, length in shapes):
            place: IntArray = np.searchsorted([length for _, length in shapes], lengths)
            return np.where(place < len(shapes), place, -1)
        edges = _edges(shapes)
        if lengths.shape[1:] != edges.shape[1:]:
            raise BudgetError(
                f"shapes of {edges[:1].size} lengths, for lengths of {lengths[:1].size} columns: "
                "expected as many."
            )
        # A table of the first shape for every combination of edges: boxes, the first on top.
        cuts = [np.unique(column) for column in edges.T]
        table = np.full([cut.size + 1 for cut in cuts], -1, dtype=np.int64)
        for shape in range(len(shapes) - 1, -1, -1):
            corner = [np.searchsorted(*each) for each in zip(cuts, edges[shape], strict=True)]
            table[tuple(slice(int(place) + 1) for place in corner)] = shape
        columns = (np.ascontiguousarray(column) for column in lengths.T)
        return table[tuple(map(np.searchsorted, cuts, columns))]

    def padded_rows(self, lengths: IntArray, offsets: IntArray) -> tuple[IntArray, IntArray]:
        """Return how many rows each padded batch has, empty ones included, and how long they are.

        Args:
            lengths: int64[m] or [m, k], length of each entry of a plan.
            offsets: int64[b + 1], where batches begin and end; no batch is empty.

        Returns:
            int64[b]; int64[b] or [b, k]. O(m).
        """
        longest: IntArray = np.maximum.reduceat(self.rounded(lengths), offsets[:-1])
        if self.shapes is None:
            return np.diff(offsets), longest
        shape = self.shape_of(longest)
        return np.array([rows for rows, _ in self.shapes])[shape], _edges(self.shapes)[shape]

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
            rows = self.rounded(lengths)
            return sums_of_batches(rows if rows.ndim == 1 else self.areas(rows), offsets)
        rows, longest = self.padded_rows(lengths, offsets)
        longest = longest if longest.ndim == 1 else self.areas(longest)
        refuse_uncountable(rows * longest.astype(np.float64))
        return rows * longest

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
            if self.kind == "packed":
                each = (self.rounded(lengths).astype(np.float64) ** 2).sum(axis=1)
                return np.add.reduceat(each, offsets[:-1])
            num_rows, longest = self.padded_rows(lengths, offsets)
            squares: FloatArray = (longest.astype(np.float64) ** 2).sum(axis=1) * num_rows
            return squares
        if self.kind == "padded":
            # The longest row stands for all: a cost grows with length.
            num_rows, longest = self.padded_rows(lengths, offsets)
            longest = longest if longest.ndim == 1 else self.areas(longest)
            return num_rows * _row_costs(longest.astype(np.float64), cost)
        rows = self.rounded(lengths)
        rows = rows if rows.ndim == 1 else self.areas(rows)
        return np.add.reduceat(_row_costs(rows.astype(np.float64), cost), offsets[:-1])

    def _checked(self, given: object) -> tuple[Shape, ...]:
        """Check shapes, which may come from a file, and return them as whole numbers."""
        try:
            shapes = tuple((operator.index(rows), _whole(each)) for rows, each in given)  # type: ignore[attr-defined]
        except (TypeError, ValueError):
            shapes = ()
        expected = "(rows, length) by rising length, or (rows, (length, …)) by what a row takes"
        numbers = [n for rows, each in shapes for n in (rows, *np.atleast_1d(each).tolist())]
        alike = len({np.shape(length) for _, length in shapes}) == 1
        if not alike or not all(1 <= number <= 2**53 for number in numbers):
            raise BudgetError(f"Layout(shapes={given}): expected {expected}.")
        rows, edges = np.array([rows for rows, _ in shapes]), _edges(shapes)
        if edges.ndim == 1:
            in_order = bool((np.diff(edges) > 0).all())
            full = self.budget is not None and bool((rows > self.budget // edges).any())
        else:
            order = [preference(self, shape) for shape in shapes]
            in_order = all(a < b for a, b in pairwise(order))
            one = Layout(self.kind, self.budget, area=self.area, caps=self.caps)
            full = bool((one.rows_allowed(edges) < rows).any())
        if not in_order:
            raise BudgetError(f"Layout(shapes={given}): expected {expected}.")
        if full:
            raise BudgetError(f"Layout(shapes={given}): more than the budget holds.")
        return shapes


def check_cost(cost: Cost | None) -> Cost | None:
    """Return a cost; raise BudgetError if it is neither a known name nor a function."""
    known = cost is None or (isinstance(cost, str) and cost in {"padded", "quadratic"})
    is_function = callable(cost) and not isinstance(cost, type) and takes(cost, None)
    if not known and not is_function:
        raise BudgetError(
            f'cost={cost!r} is unknown, expected "padded", "quadratic" or a function.'
        )
    return cost


def preference(layout: Layout, shape: Shape) -> tuple[int, int, int | tuple[int, ...]]:
    """Return the sort key of a shape: the most rows first, then the smallest area."""
    rows, lengths = shape
    area = lengths if isinstance(lengths, int) else int(layout.areas(np.array(lengths)))
    return -rows, area, lengths


def _whole(lengths: object) -> int | tuple[int, ...]:
    if isinstance(lengths, list | tuple) and lengths:
        return tuple(operator.index(length) for length in lengths)
    return operator.index(lengths)  # type: ignore[arg-type]


def _edges(shapes: tuple[Shape, ...]) -> IntArray:
    return np.array([length for _, length in shapes], dtype=np.int64)


def _row_costs(lengths: FloatArray, cost: Cost) -> FloatArray:
    if cost == "padded":
        return lengths
    if cost == "quadratic":
        return lengths * lengths
    costs = np.asarray(check_cost(cost)(lengths), dtype=np.float64)  # type: ignore[operator,misc]
    if costs.shape != lengths.shape or not (np.isfinite(costs) & (costs > 0)).all():
        raise BudgetError(
            f"cost returned shape {list(costs.shape)} for {list(lengths.shape)} lengths, or "
            "figures that are not finite and positive. Return one positive cost per length."
        )
    return costs
