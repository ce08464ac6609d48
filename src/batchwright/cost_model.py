"""What a sample of some length costs: a + b·L + c·L²."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchwright.checks import real_number
from batchwright.errors import BudgetError
from batchwright.typing import FloatArray, IntArray


@dataclass(frozen=True)
class CostModel:
    """The work of a row of some length: ``a + b·L + c·L²``.

    A constant for each row, the part that grows with tokens, and attention, which looks at every
    pair of them. Where a `cost` is asked for, a model of this kind is one.

    Args:
        a: Of each row.
        b: Of each token.
        c: Of each pair of tokens.

    Raises:
        BudgetError: If a coefficient is negative or no number, or all are 0.

    Example:
        >>> cost = CostModel(a=10, b=2, c=0.5)
        >>> cost([1, 10])
        array([12.5, 80. ])
    """

    a: float = 0.0
    b: float = 0.0
    c: float = 0.0

    def __post_init__(self) -> None:
        """Check the coefficients."""
        expected = "finite coefficients of at least 0, not all of them 0"
        for name in ("a", "b", "c"):
            value = real_number(
                "CostModel",
                name,
                getattr(self, name),
                accepts=lambda value: 0 <= value < np.inf,
                expected=expected,
            )
            object.__setattr__(self, name, value)
        if not (self.a or self.b or self.c):
            raise BudgetError(f"{self}: expected coefficients of at least 0, not all of them 0.")

    def __call__(self, lengths: npt.ArrayLike) -> FloatArray:
        """Return the work of a row of each length, float64[m]."""
        tokens = np.asarray(lengths, dtype=np.float64)
        work: FloatArray = self.a + tokens * (self.b + self.c * tokens)
        return work

    def rows_within(self, limit: float) -> Callable[[IntArray], IntArray]:
        """Turn a limit of work into rows for each length: ``TokenBudget(max_samples=…)``.

        Args:
            limit: The work that a batch may be.

        Returns:
            A function of padded lengths, int64[m] → int64[m]: the most rows, at least 1.

        Example:
            >>> rows = CostModel(c=1.0).rows_within(10_000)
            >>> rows(np.array([10, 50, 200]))
            array([100,   4,   1])
        """
        limit = real_number(
            "rows_within",
            "limit",
            limit,
            accepts=lambda value: value > 0,
            expected="a positive limit of work",
        )

        def rows(lengths: IntArray) -> IntArray:
            return np.maximum(np.floor(limit / self(lengths)), 1.0).astype(np.int64)

        return rows
