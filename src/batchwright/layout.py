"""How the samples of a batch lie in memory, and so what a batch costs."""

from dataclasses import dataclass
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

    def __post_init__(self) -> None:
        """Check the settings, which may come from a file."""
        check_choice("Layout", "kind", self.kind, ("padded", "packed"))
        check_positive(
            "Layout",
            budget=self.budget,
            max_samples=self.max_samples,
            multiple=self.multiple,
            max_length=self.max_length,
        )

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
        return self._per_batch(self.rounded(lengths), offsets)

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
        rows = self.rounded(lengths).astype(np.float64)
        if self.kind == "padded":
            # The longest row stands for all: a cost grows with length.
            longest = np.maximum.reduceat(rows, offsets[:-1])
            return np.diff(offsets) * _row_costs(longest, cost)
        return np.add.reduceat(_row_costs(rows, cost), offsets[:-1])

    def _per_batch(self, rows: IntArray, offsets: IntArray) -> IntArray:
        if self.kind == "packed":
            return np.add.reduceat(rows, offsets[:-1])
        return np.maximum.reduceat(rows, offsets[:-1]) * np.diff(offsets)


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
