"""How the samples of a batch lie in memory, and what a batch costs."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright._checks import budgets, check_choice, keep_whole, takes
from batchwright.errors import BudgetError
from batchwright.lengths import MOST_TOKENS, refuse_uncountable, sums_of_batches, total_of
from batchwright.typing import Cost, FloatArray, IntArray, LengthArray, State

_UNCOUNTED = 2**63 - 1

Shape: TypeAlias = tuple[int, int | tuple[int, ...]]
"""(rows, length) of a padded batch; of several columns (rows, (length, length, …))."""


@dataclass(frozen=True)
class Layout(ABC):
    """What `Padded` and `Packed` have in common: the budget that a batch keeps.

    Methods take the lengths of samples, int64[m], or [m, k] for k columns; and the offsets of
    batches, int64[b + 1], none of which is empty. All are O(m).

    Attributes:
        budget: Tokens that a batch may hold, padding included. None: no limit.
        max_samples: Samples that a batch may hold. None: no limit.
        multiple: Rows (padded) or samples inside a row (packed) are rounded up to this.
        max_length: Longer samples are cut: to this (truncated), or into pieces of it (split).
            Of several columns, what each is cut to.
        caps: The most tokens of each column, padding included, in place of `budget`.
    """

    budget: int | None = None
    max_samples: int | None = None
    multiple: int = 1
    max_length: int | tuple[int, ...] | None = None
    caps: tuple[int, ...] | None = None

    kind: ClassVar[Literal["padded", "packed"]]
    setting: ClassVar[str]
    """The setting of a batching that gives the budget, for messages."""

    def __post_init__(self) -> None:
        """Check the settings, which may come from a file."""
        name = type(self).__name__
        if self.caps is not None:
            caps = budgets(name, "caps", self.caps)
            object.__setattr__(self, "caps", caps if isinstance(caps, tuple) else (caps,))
        if self.max_length is not None:
            most = budgets(name, "max_length", self.max_length)
            object.__setattr__(self, "max_length", most)
        keep_whole(self, "multiple", optional=("budget", "max_samples"))

    def described(self) -> State:
        """Return the settings as a plan's file names them: of `layout_of`, for JSON."""
        return {name: getattr(self, name) for name in _NAMES}

    @property
    def shapes(self) -> tuple[Shape, ...] | None:
        """The only shapes that batches take. None: any."""
        return None

    @property
    def area(self) -> Literal["sum", "product"]:
        """What a row of several columns takes, of its lengths."""
        return "sum"

    @property
    def limits(self) -> int | tuple[int, ...] | None:
        """The budget, or that of each column."""
        return self.budget if self.caps is None else self.caps

    @property
    def longest_row(self) -> int | None:
        """The longest sample that fits. None: any does."""
        return None if self.budget is None else self.budget // self.multiple * self.multiple

    @property
    def longest_columns(self) -> tuple[int, ...] | None:
        """The longest that each column of a packed sample may be, if each has its own limit."""
        if self.caps is None or self.kind == "padded":
            return None
        return tuple(cap // self.multiple * self.multiple for cap in self.caps)

    def fits(self, lengths: LengthArray) -> npt.NDArray[np.bool_]:
        """Say which samples are alone within the budget: integer[n] or [n, k] → bool[n]."""
        if lengths.ndim == 2:
            return self._columns_fit(lengths.astype(np.int64, copy=False))
        limit = self.longest_row
        return np.ones(len(lengths), dtype=np.bool_) if limit is None else lengths <= limit

    @abstractmethod
    def _columns_fit(self, lengths: IntArray) -> npt.NDArray[np.bool_]: ...

    def rounded(self, lengths: IntArray) -> IntArray:
        """Round lengths up to the multiple, as they lie in memory."""
        return lengths if self.multiple == 1 else -(-lengths // self.multiple) * self.multiple

    def areas(self, padded: IntArray) -> IntArray:
        """Return what rows take of a batch, int64[m]."""
        if len(_columns(padded)) > 1:
            refuse_uncountable(self.about_areas(padded))
        return self._areas(padded)

    def about_areas(self, padded: IntArray) -> FloatArray:
        """Return the areas as float64[m], exact below 2**53."""
        return reduce(self._join, [column.astype(np.float64) for column in _columns(padded)])

    def _areas(self, padded: IntArray) -> IntArray:
        """Return the areas, at most 2**63 - 1."""
        columns = _columns(padded)
        areas: IntArray = reduce(self._join, columns)
        if len(columns) == 1:
            return areas
        return np.where(self.about_areas(padded) < _UNCOUNTED, areas, _UNCOUNTED)

    @property
    def _join(self) -> np.ufunc:
        return np.multiply if self.area == "product" else np.add

    @property
    def _most(self) -> int:
        return min(2**53 if self.budget is None else self.budget, MOST_TOKENS)

    @abstractmethod
    def shapes_of(self, lengths: IntArray, offsets: IntArray) -> tuple[IntArray, IntArray]:
        """Return how many rows each batch has, int64[b], and how long they are, int64[b, k]."""

    @abstractmethod
    def too_large(self, lengths: IntArray, offsets: IntArray) -> npt.NDArray[np.bool_]:
        """Say which batches exceed the budget, or hold too many samples: bool[b]."""

    def lower_bound(self, lengths: IntArray) -> int:
        """Bound from below the batches that any plan of these samples needs.

        Example:
            >>> Packed(10).lower_bound(np.array([6, 6, 4]))
            2
            >>> Padded(10).lower_bound(np.array([6, 6, 4]))
            3
        """
        return 1 if self.max_samples is None else -(-len(lengths) // self.max_samples)

    def batch_tokens(self, lengths: IntArray, offsets: IntArray) -> IntArray:
        """Count the tokens of each batch as laid out, padding included, int64[b]."""
        rows, longest = self.shapes_of(lengths, offsets)
        areas = self.areas(longest)
        refuse_uncountable(rows * areas.astype(np.float64))
        return rows * areas

    def batch_costs(self, lengths: IntArray, offsets: IntArray, cost: Cost) -> FloatArray:
        """Measure the work of each batch, float64[b]; for `cost` see `Planner`."""
        return np.add.reduceat(self._row_costs(self.rounded(lengths), cost), offsets[:-1])

    def _row_costs(self, rows: IntArray, cost: Cost) -> FloatArray:
        if cost == "quadratic":
            return reduce(np.add, [column.astype(np.float64) ** 2 for column in _columns(rows)])
        areas = self.areas(rows).astype(np.float64)
        if cost == "padded":
            return areas
        costs = np.asarray(check_cost(cost)(areas), dtype=np.float64)  # type: ignore[operator,misc]  # words are returned above
        if costs.shape != areas.shape or not (np.isfinite(costs) & (costs > 0)).all():
            raise BudgetError(
                f"cost returned shape {list(costs.shape)} for {list(areas.shape)} lengths, or "
                "figures that are not finite and positive. Return one positive cost per length."
            )
        return costs


@dataclass(frozen=True)
class Padded(Layout):
    """One row per sample, all as long as the longest.

    Attributes:
        shapes: (rows, length) of the only shapes that batches take, by rising length; or
            (rows, (length, …)) for several columns, by what a row takes of a batch. A batch takes
            the first that holds it, and is filled with empty rows. None: any shape.
        area: What a row of several columns takes: the ``"sum"`` of its lengths (source and
            target), or their ``"product"`` (the cells of an image).

    Example:
        >>> Padded().batch_tokens(np.array([3, 5, 2]), np.array([0, 2, 3]))
        array([10,  2])
    """

    shapes: tuple[Shape, ...] | None = None
    area: Literal["sum", "product"] = "sum"

    kind = "padded"
    setting = "max_tokens"

    def __post_init__(self) -> None:
        """Check the settings, which may come from a file."""
        super().__post_init__()
        check_choice("Padded", "area", self.area, ("sum", "product"))
        if self.shapes is not None:
            object.__setattr__(self, "shapes", self._checked(self.shapes))

    @property
    def longest_row(self) -> int | None:
        """The longest sample that fits. None: any does."""
        if self.shapes is None:
            return super().longest_row
        longest = self.shapes[-1][1]
        return longest if isinstance(longest, int) else None

    def _columns_fit(self, lengths: IntArray) -> npt.NDArray[np.bool_]:
        return self.rows_allowed(lengths) >= 1

    def rows_allowed(self, longest: IntArray) -> IntArray:
        """Return how many rows a batch may have, for the longest of it in each column.

        Returns:
            int64[m]; 0 where not even one fits, or no shape holds it.
        """
        padded = self.rounded(longest)
        if self.caps is None:
            rows: IntArray = self._most // self._areas(padded)
        else:
            columns = zip(self.caps, _columns(padded), strict=True)
            rows = reduce(np.minimum, [cap // column for cap, column in columns])
        if self.max_samples is not None:
            rows = np.minimum(rows, self.max_samples)
        return rows if self.shapes is None else np.where(self.shape_of(padded) >= 0, rows, 0)

    def shape_of(self, lengths: IntArray) -> IntArray:
        """Return the first of `shapes` that holds each sample, int64[m]; -1 where none does.

        O(m log s) for s shapes.
        """
        shapes = self.shapes or ()
        edges, columns = _edges(shapes), _columns(lengths)
        if len(columns) != edges.shape[1]:
            raise BudgetError(
                f"shapes of {edges.shape[1]} lengths, for lengths of {len(columns)} columns: "
                "expected as many."
            )
        # A table of the first shape for every combination of edges: boxes, the first on top.
        cuts = [np.unique(column) for column in edges.T]
        table = np.full([cut.size + 1 for cut in cuts], -1, dtype=np.int64)
        if len(cuts) == 1:
            table[:-1] = np.arange(len(shapes))
        for shape in range(len(shapes) - 1, -1, -1) if len(cuts) > 1 else ():
            corner = [np.searchsorted(*each) for each in zip(cuts, edges[shape], strict=True)]
            table[tuple(slice(int(place) + 1) for place in corner)] = shape
        return table[tuple(map(np.searchsorted, cuts, map(np.ascontiguousarray, columns)))]

    def _longest(self, lengths: IntArray, offsets: IntArray) -> IntArray:
        rows = _columns(self.rounded(lengths))
        return np.stack([np.maximum.reduceat(row, offsets[:-1]) for row in rows], axis=1)

    def shapes_of(self, lengths: IntArray, offsets: IntArray) -> tuple[IntArray, IntArray]:
        """Return how many rows each batch has, empty ones included, and how long they are."""
        longest = self._longest(lengths, offsets)
        if self.shapes is None:
            return np.diff(offsets), longest
        shape = self.shape_of(longest)
        return _rows(self.shapes)[shape], _edges(self.shapes)[shape]

    def too_large(self, lengths: IntArray, offsets: IntArray) -> npt.NDArray[np.bool_]:
        """Say which batches exceed the budget, or hold too many samples: bool[b]."""
        longest = self._longest(lengths, offsets)
        rows = self.rows_allowed(longest)
        if self.shapes is not None:
            rows = np.minimum(rows, _rows(self.shapes)[self.shape_of(longest)])
        return np.diff(offsets) > rows

    def lower_bound(self, lengths: IntArray) -> int:
        """Bound the batches: one whose longest row allows r rows holds at most r samples."""
        shares = 1 / np.maximum(replace(self, shapes=None).rows_allowed(lengths), 1)
        # Sums of r r-ths may come out a hair above a whole number.
        return max(super().lower_bound(lengths), int(np.ceil(shares.sum() * (1 - 1e-12) - 1e-9)), 1)

    def batch_costs(self, lengths: IntArray, offsets: IntArray, cost: Cost) -> FloatArray:
        """Measure the work of each batch: the longest row stands for all."""
        rows, longest = self.shapes_of(lengths, offsets)
        return rows * self._row_costs(longest, cost)

    def _checked(self, given: object) -> tuple[Shape, ...]:
        """Check shapes, which may come from a file, and return them as whole numbers."""
        try:
            shapes = tuple((operator.index(rows), _whole(each)) for rows, each in given)  # type: ignore[attr-defined]
        except (TypeError, ValueError):
            shapes = ()
        numbers = [n for rows, each in shapes for n in (rows, *np.atleast_1d(each).tolist())]
        is_valid = len({np.shape(length) for _, length in shapes}) == 1
        is_valid = is_valid and all(1 <= number <= 2**53 for number in numbers)
        if is_valid:
            order = [preference(self, shape) for shape in shapes]
            is_valid = all(a < b for a, b in pairwise(order))
        if not is_valid:
            raise BudgetError(
                f"Padded(shapes={given}): expected (rows, length) by rising length, or (rows, "
                "(length, …)) by what a row takes."
            )
        one = Padded(self.budget, area=self.area, caps=self.caps)
        if (one.rows_allowed(_edges(shapes)) < _rows(shapes)).any():
            raise BudgetError(f"Padded(shapes={given}): more than the budget holds.")
        return shapes


@dataclass(frozen=True)
class Packed(Layout):
    """The samples one after the other in a single row.

    Example:
        >>> Packed().batch_tokens(np.array([3, 5, 2]), np.array([0, 2, 3]))
        array([8, 2])
    """

    kind = "packed"
    setting = "capacity"

    def _columns_fit(self, lengths: IntArray) -> npt.NDArray[np.bool_]:
        padded = self.rounded(lengths)
        if self.caps is not None:
            return np.asarray((padded <= np.array(self.caps)).all(axis=-1))
        return self._areas(padded) <= self._most

    def shapes_of(self, lengths: IntArray, offsets: IntArray) -> tuple[IntArray, IntArray]:
        """Return 1 for each batch, and the tokens of its row, or of each column with a budget."""
        rows = self.rounded(lengths)
        columns = [self.areas(rows)] if self.caps is None else _columns(rows)
        held = np.stack([sums_of_batches(column, offsets) for column in columns], axis=1)
        return np.ones(len(held), dtype=np.int64), held

    def too_large(self, lengths: IntArray, offsets: IntArray) -> npt.NDArray[np.bool_]:
        """Say which batches exceed the budget, or hold too many samples: bool[b]."""
        _, held = self.shapes_of(lengths, offsets)
        most = self._most if self.limits is None else np.array(self.limits)
        large = np.asarray((held > most).any(axis=1))
        return large if self.max_samples is None else large | (np.diff(offsets) > self.max_samples)

    def lower_bound(self, lengths: IntArray) -> int:
        """Bound the batches: none holds more than its capacity, in every column that has one."""
        bound, rows = super().lower_bound(lengths), self.rounded(lengths)
        if self.caps is not None:
            columns = zip(_columns(rows), self.caps, strict=True)
            return max(bound, *(-(-total_of(column) // cap) for column, cap in columns))
        if self.budget is not None:
            bound = max(bound, -(-total_of(self.areas(rows)) // self.budget))
        return bound


_NAMES = ("kind", "budget", "max_samples", "multiple", "max_length", "shapes", "area", "caps")
_OF_PADDED = {"shapes": None, "area": "sum"}


def layout_of(kind: str = "padded", **settings: Any) -> Layout:
    """Make a layout of what `Layout.described` returned; defaults may be missing."""
    check_choice("Layout", "kind", kind, ("padded", "packed"))
    if kind == "padded":
        return Padded(**settings)
    return Packed(
        **{
            name: value
            for name, value in settings.items()
            if name not in _OF_PADDED or value != _OF_PADDED[name]
        }
    )


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
    """Return the sort key of a shape: its length; of several columns the most rows first."""
    rows, lengths = shape
    if isinstance(lengths, int):
        return 0, lengths, lengths
    return -rows, int(layout.areas(np.array([lengths]))[0]), lengths


def _columns(lengths: IntArray) -> list[IntArray]:
    """Return the columns of integer[m] or [..., k]."""
    return [lengths] if lengths.ndim == 1 else [lengths[..., c] for c in range(lengths.shape[-1])]


def _whole(lengths: object) -> int | tuple[int, ...]:
    if isinstance(lengths, list | tuple) and lengths:
        return tuple(operator.index(length) for length in lengths)
    return operator.index(lengths)  # type: ignore[arg-type]


def _edges(shapes: tuple[Shape, ...]) -> IntArray:
    """Return the lengths of shapes, int64[s, k]."""
    return np.array([length for _, length in shapes], dtype=np.int64).reshape(len(shapes), -1)


def _rows(shapes: tuple[Shape, ...]) -> IntArray:
    return np.array([rows for rows, _ in shapes])
