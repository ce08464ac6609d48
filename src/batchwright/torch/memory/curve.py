"""How bytes grow with the rows of a batch and their length: six terms, none of them negative."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright.typing import FloatArray

Terms: TypeAlias = tuple[float, float, float]
"""Bytes for 1, for each unit of length, and for each square of it."""

_LIFTS = 16
_CLOSE = 1e-4
_LIFTED = 0.5  # what is lower than that is lifted by a constant
_ENOUGH = 1e-10  # another term has to lower the sum of squared relative errors by this much


@dataclass(frozen=True)
class Curve:
    """Bytes as a function of a batch's shape: ``a + b·B·L + c·B·L²``, and three smaller terms.

    With B rows of length L, ``fixed`` counts what is there however many rows there are (workspace,
    a mask), ``per_row`` what each row adds. No term is negative, so bytes never fall as a batch
    grows.

    Attributes:
        fixed: Bytes × (1, L, L²).
        per_row: Bytes × (B, B·L, B·L²).

    Example:
        >>> curve = Curve((100.0, 0.0, 0.0), (0.0, 8.0, 0.0))
        >>> curve(4, 10).item(), curve.rows_within(1_000, 10).item()
        (420.0, 11.25)
    """

    fixed: Terms = (0.0, 0.0, 0.0)
    per_row: Terms = (0.0, 0.0, 0.0)

    @property
    def a(self) -> float:
        """Bytes whatever the batch."""
        return self.fixed[0]

    @property
    def b(self) -> float:
        """Bytes a token."""
        return self.per_row[1]

    @property
    def c(self) -> float:
        """Bytes a token and unit of length: 0 where attention keeps no score."""
        return self.per_row[2]

    def __call__(self, rows: npt.ArrayLike, lengths: npt.ArrayLike) -> FloatArray:
        """Return the bytes of batches of these shapes, float64[...]."""
        bytes_: FloatArray = _grown(self.fixed, lengths) + np.asarray(rows) * _grown(
            self.per_row, lengths
        )
        return bytes_

    def rows_within(self, capacity: float, lengths: npt.ArrayLike) -> FloatArray:
        """Return how many rows of a length fit, float64[...]: infinite if rows take nothing."""
        room = np.maximum(capacity - _grown(self.fixed, lengths), 0.0)
        row = _grown(self.per_row, lengths)
        rows: FloatArray = np.divide(room, row, out=np.full(row.shape, np.inf), where=row > 0)
        return rows

    def scaled(self, factor: float) -> Curve:
        """Return the curve with every term multiplied by a factor."""
        terms = [*self.fixed, *self.per_row]
        return _curve([factor * term for term in terms])

    @classmethod
    def fit(
        cls,
        rows: npt.ArrayLike,
        lengths: npt.ArrayLike,
        bytes_: npt.ArrayLike,
        *,
        scale: npt.ArrayLike | None = None,
    ) -> Curve:
        """Find the curve of the least squared errors, relative to `scale`.

        Of curves as good as one another, the one with the fewest terms is taken.

        Args:
            rows: integer[p], rows of each probe.
            lengths: integer[p], their length.
            bytes_: number[p], what it took.
            scale: number[p], what errors are measured against; None: the bytes themselves.

        Returns:
            The curve. All 63 sets of terms are tried: there are only that many.
        """
        values = np.asarray(bytes_, dtype=np.float64)
        over = np.maximum(values if scale is None else np.asarray(scale, dtype=np.float64), 1.0)
        columns = _columns(np.asarray(rows), np.asarray(lengths)) / over[:, None]
        target = values / over
        size = np.linalg.norm(columns, axis=0)  # brings 1 and B·L² to one order
        best, least = np.zeros(6), float(target @ target)
        for many in range(1, 7):
            for chosen in itertools.combinations(range(6), many):
                terms = list(chosen)
                found = np.linalg.lstsq(columns[:, terms] / size[terms], target, rcond=None)[0]
                if (found < 0).any():
                    continue
                error = target - columns[:, terms] @ (found / size[terms])
                if error @ error < least - _ENOUGH:
                    best, least = np.zeros(6), float(error @ error)
                    best[terms] = found / size[terms]
        return _curve(best.tolist())

    @classmethod
    def above(cls, rows: npt.ArrayLike, lengths: npt.ArrayLike, bytes_: npt.ArrayLike) -> Curve:
        """Find a curve that lies close above all values, by fits that aim ever higher.

        Args:
            rows: integer[p], rows of each probe.
            lengths: integer[p], their length.
            bytes_: number[p], what it took.

        Returns:
            The curve: exact where six terms can be. Else, as where strides round lengths up, it is
            lifted where it was too low, and not all along.
        """
        values = np.maximum(np.asarray(bytes_, dtype=np.float64), 1.0)
        aims = values
        for _ in range(_LIFTS):
            curve = cls.fit(rows, lengths, aims, scale=values)
            # A fit may pass through zero where others are millions of times larger.
            lack = values / np.maximum(curve(rows, lengths), values * 1e-3)
            if lack.max() <= 1.0 + _CLOSE:
                break
            aims = aims * np.maximum(lack, 1.0)
        curve = curve.scaled(min(max(1.0, float(lack.max())), 1.0 + _LIFTED))
        missing = max(0.0, float((values - curve(rows, lengths)).max()))
        return cls((curve.fixed[0] + missing, *curve.fixed[1:]), curve.per_row)


def _columns(rows: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> FloatArray:
    rows, lengths = rows.astype(np.float64), lengths.astype(np.float64)
    powers = np.stack([np.ones_like(lengths), lengths, lengths * lengths], axis=1)
    return np.concatenate([powers, rows[:, None] * powers], axis=1)


def _grown(terms: Terms, lengths: npt.ArrayLike) -> FloatArray:
    length = np.asarray(lengths, dtype=np.float64)
    grown: FloatArray = np.asarray(terms[0] + length * (terms[1] + length * terms[2]))
    return grown


def _curve(terms: list[float]) -> Curve:
    one, two, three, four, five, six = terms
    return Curve((one, two, three), (four, five, six))
