"""The peak of a step as a function of its shape: the highest of a few curves.

Where a step peaks depends on its shape: at the logits for short rows, in attention's backward
pass for long ones, in the optimizer for tiny batches. But steps of all shapes go through the same
moments, and at one moment bytes are a polynomial in rows and length, so each moment gets a curve.
Where steps differ, as in a loop over positions, the highest moment of each phase takes its place.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright._measuring import nonnegative_fit
from batchwright.torch.memory.ledger import Timeline
from batchwright.typing import FloatArray, IntArray

Curve: TypeAlias = tuple[float, ...]
"""Bytes for B rows of length L: the factors of 1, L, L², B, B·L and B·L². None is negative, so
bytes never fall as a batch grows."""

Shape: TypeAlias = tuple[int, int]
"""Rows, and their length."""

_LIFTS = 16
_CLOSE = 1e-4
_LIFTED = 0.5  # what is too low by more than this is lifted by a constant
_LENGTHS = 3
_SMALL = 0.1  # peaks below this share of the largest say nothing about large batches


def heights(curves: Sequence[Curve], rows: npt.ArrayLike, lengths: npt.ArrayLike) -> FloatArray:
    """Return the bytes of batches by the highest of some curves, float64[...].

    Example:
        >>> heights([(100.0, 0.0, 0.0, 0.0, 8.0, 0.0)], 4, 10).item()
        420.0
    """
    fixed, per_row = _by_length(curves, lengths)
    bytes_: FloatArray = (fixed + np.asarray(rows)[..., None] * per_row).max(axis=-1)
    return bytes_


def rows_within(curves: Sequence[Curve], capacity: float, lengths: npt.ArrayLike) -> FloatArray:
    """Return how many rows of a length stay below a capacity, float64[...]; infinity for any.

    Example:
        >>> rows_within([(100.0, 0.0, 0.0, 0.0, 8.0, 0.0)], 1_000, 10).item()
        11.25
    """
    fixed, per_row = _by_length(curves, lengths)
    room = np.maximum(capacity - fixed, 0.0)
    rows = np.divide(room, per_row, out=np.full(per_row.shape, np.inf), where=per_row > 0)
    fewest: FloatArray = rows.min(axis=-1)
    return fewest


def scaled(curve: Curve, factor: float, more: float = 0.0) -> Curve:
    """Return a curve multiplied by a factor, with more bytes for every batch."""
    return (factor * curve[0] + more, *(factor * each for each in curve[1:]))


def fit(
    rows: npt.ArrayLike, lengths: npt.ArrayLike, bytes_: npt.ArrayLike, scale: npt.ArrayLike
) -> Curve:
    """Fit a curve with few terms by least squares of the errors relative to a scale."""
    over = np.maximum(np.asarray(scale, dtype=np.float64), 1.0)
    powers = np.vander(np.asarray(lengths, dtype=np.float64), 3, increasing=True)
    powers = np.concatenate([powers, np.asarray(rows)[:, None] * powers], axis=1)
    return tuple(nonnegative_fit(powers / over[:, None], np.asarray(bytes_) / over).tolist())


def fit_above(rows: npt.ArrayLike, lengths: npt.ArrayLike, bytes_: npt.ArrayLike) -> Curve:
    """Fit a curve that lies close above all values: exact where six terms can be.

    Elsewhere, as where strides round lengths up, fits aim ever higher where they were too low, so
    that the curve is not lifted as a whole.
    """
    values = np.maximum(np.asarray(bytes_, dtype=np.float64), 1.0)
    aims = values
    for _ in range(_LIFTS):
        curve = fit(rows, lengths, aims, values)
        # A fit may pass through zero where others are millions of times larger.
        lack = values / np.maximum(heights([curve], rows, lengths), values * 1e-3)
        if lack.max() <= 1.0 + _CLOSE:
            break
        aims = aims * np.maximum(lack, 1.0)
    curve = scaled(curve, min(max(1.0, float(lack.max())), 1.0 + _LIFTED))
    return scaled(curve, 1.0, max(0.0, float((values - heights([curve], rows, lengths)).max())))


def curves_of(steps: Mapping[Shape, Timeline]) -> tuple[Curve, ...]:
    """Fit the moments at which phases are highest, so that no step given lies above them all."""
    lines = [*steps.values()]
    if alike := _alike(steps):
        moments = {at for each in alike.values() for at in each.moments.values()}
        at = [[each.levels[moment] for each in alike.values()] for moment in sorted(moments)]
        curves = [fit_above(*_arrays(alike), levels) for levels in at]
    else:
        phases = dict.fromkeys(phase for each in lines for phase in each.moments)
        at = [[each.levels[each.moments.get(phase, 0)] for each in lines] for phase in phases]
        curves = [fit_above(*_arrays(steps), levels) for levels in at]
    # A tiny batch may peak elsewhere, such as in the optimizer. Scaling by what it lies above would
    # multiply the predictions for large batches: it lifts a floor.
    peaks = np.array([each.peak for each in lines])
    over = peaks / heights(curves, *_arrays(steps))
    is_small = peaks < _SMALL * peaks.max()
    factor = max(1.0, float(over[~is_small].max()))
    floor = _floor(peaks[is_small & (over > factor)])
    return (*(scaled(each, factor) for each in curves), *floor)


def curves_through(peaks: Mapping[Shape, int], *, small: float) -> tuple[Curve, ...]:
    """Fit a curve above measured peaks, whose moments are not known.

    Steps below `small` do not bend the curve: they peak elsewhere, and lift a floor.
    """
    rows, lengths = _arrays(peaks)
    values = np.array([*peaks.values()], dtype=np.float64)
    large = values >= small if (values >= small).sum() >= 3 else values > 0
    return (fit_above(rows[large], lengths[large], values[large]), *_floor(values[~large]))


def _floor(values: FloatArray | IntArray) -> list[Curve]:
    return [(float(values.max()), 0.0, 0.0, 0.0, 0.0, 0.0)] if values.size else []


def _alike(steps: Mapping[Shape, Timeline]) -> dict[Shape, Timeline]:
    """Choose the steps with the most common sequence of events.

    None, if only steps of one length are alike, as in a loop over positions.
    """
    sequence = {shape: each.events.tobytes() for shape, each in steps.items()}
    most, _ = Counter(sequence.values()).most_common(1)[0]
    alike = {shape: each for shape, each in steps.items() if sequence[shape] == most}
    lengths, all_lengths = ({length for _, length in group} for group in (alike, steps))
    return alike if len(lengths) >= min(len(all_lengths), _LENGTHS) else {}


def _by_length(curves: Sequence[Curve], lengths: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return the bytes of every batch and of each of its rows by each curve, float64[..., m]."""
    terms = np.array(curves)
    powers = np.asarray(lengths, dtype=np.float64)[..., None] ** np.arange(3)
    return powers @ terms[:, :3].T, powers @ terms[:, 3:].T


def _arrays(shapes: Mapping[Shape, object]) -> tuple[IntArray, IntArray]:
    rows, lengths = np.array([*shapes], dtype=np.int64).T
    return rows, lengths
