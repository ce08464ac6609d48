"""Ratios and differences over seeds, with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from batchwright.errors import MissingExtraError
from batchwright.seeding import generator

LEVEL = 0.95

_ROUNDING = 1e-12
_RESAMPLES = 2_000


@dataclass(frozen=True)
class Interval:
    """A figure over seeds, and where it lies.

    Attributes:
        mean: Geometric for ratios, arithmetic for differences.
        low: Lower end of the mean's 95 % interval, by Student's t. None: of one seed only.
        high: The upper one.
        values: Of each seed.
    """

    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...]


def ratio(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Compare positive figures seed by seed: their geometric mean ratio.

    The interval is of the mean logarithm, so that a ratio and its inverse say the same.

    Example:
        >>> ratio([2.0, 8.0], [1.0, 2.0]).mean
        2.83
    """
    logs = _interval(np.log(values) - np.log(others))
    low = None if logs.low is None else float(np.exp(logs.low))
    high = None if logs.high is None else float(np.exp(logs.high))
    return Interval(float(np.exp(logs.mean)), low, high, tuple(np.exp(logs.values).tolist()))


def difference(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Compare figures seed by seed: their mean difference.

    Example:
        >>> difference([2.0, 4.0], [1.0, 2.0]).mean
        1.5
    """
    return _interval(np.asarray(values) - np.asarray(others))


def ratio_of_sums(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Compare what positive figures make together, pair by pair: a bootstrap interval over pairs.

    Example:
        >>> ratio_of_sums([2.0, 1.0, 3.0], [1.0, 0.5, 1.5]).mean
        2.0
    """
    top, bottom = np.asarray(values, dtype=float), np.asarray(others, dtype=float)
    mean, ratios = float(top.sum() / bottom.sum()), top / bottom
    kept = tuple(ratios.tolist())
    if ratios.size < 2:
        return Interval(mean, None, None, kept)
    if np.ptp(ratios) <= _ROUNDING * ratios.max():  # of which a bootstrap makes no interval
        return Interval(mean, mean, mean, kept)
    found = (
        _statistics()
        .bootstrap(
            (top, bottom),
            lambda above, below, axis: above.sum(axis=axis) / below.sum(axis=axis),
            paired=True,
            n_resamples=_RESAMPLES,
            confidence_level=LEVEL,
            method="percentile",
            rng=generator(0, "intervals of sums"),
        )
        .confidence_interval
    )
    return Interval(mean, float(found.low), float(found.high), kept)


def _interval(values: np.ndarray) -> Interval:
    kept = tuple(values.tolist())
    mean = float(values.mean())
    if values.size < 2:
        return Interval(mean, None, None, kept)
    if np.ptp(values) <= _ROUNDING * np.abs(values).max():  # no number, or none to trust, in scipy
        return Interval(mean, mean, mean, kept)
    low, high = _statistics().ttest_1samp(values, 0).confidence_interval(LEVEL)
    return Interval(mean, float(low), float(high), kept)


def _statistics() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingExtraError(
            "Intervals need the package scipy, which is not installed. "
            "Run: pip install 'batchwright[compare]'."
        ) from error
    return stats
