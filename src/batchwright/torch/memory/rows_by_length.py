"""How many rows of each length fit: a budget of its own for every length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchwright.errors import BudgetError
from batchwright.lengths import as_lengths
from batchwright.typing import IntArray


@dataclass(frozen=True, eq=False, repr=False)
class RowsByLength:
    """The most rows of a batch, as a function of their padded length: int64[m] → int64[m].

    Where attention keeps its scores, a row costs more for each of its tokens the longer it is: a
    budget of tokens that long rows can live with is too small for short ones.

    Args:
        rows: int64[longest + 1], entry L is for rows of length L. Never rises.

    Raises:
        BudgetError: When called with a length beyond the table.

    Example:
        >>> rows = RowsByLength(np.array([9, 9, 4, 2]))
        >>> rows([3, 1]).tolist(), rows
        ([2, 9], RowsByLength(9 rows of length 1 … 2 of length 3))
    """

    rows: IntArray

    def __call__(self, lengths: npt.ArrayLike) -> IntArray:
        """Return the most rows for each length."""
        asked = as_lengths(lengths)
        longest = self.rows.size - 1
        if int(asked.max()) > longest:
            raise BudgetError(
                f"length {int(asked.max())} is above {longest}, up to which the memory model was "
                "fitted. Fit it with such lengths, rounded up if rows are padded to a multiple."
            )
        most: IntArray = self.rows[asked]
        return most

    def __repr__(self) -> str:
        """Show both ends."""
        first, last = int(self.rows[1]), int(self.rows[-1])
        return f"RowsByLength({first} rows of length 1 … {last} of length {self.rows.size - 1})"

    @property
    def max_tokens(self) -> int:
        """The most tokens that a batch may hold at any length, padding included."""
        return int((self.rows * np.arange(self.rows.size)).max())
