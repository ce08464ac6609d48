"""The peak of a step as a function of its shape: the highest of a few curves.

Where a step peaks depends on its shape: at the logits for short rows, in attention's backward
pass for long ones, in the optimizer for tiny batches. One curve through all of them is up to 10 %
off in between. But steps of all shapes go through the same moments, and at one moment bytes are a
polynomial in rows and length, so each moment gets its own curve. Where steps differ, as in a loop
over positions, the highest moment of each phase takes its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright._measuring import nonnegative_fit
from batchwright.torch.memory.ledger import Allocation, Timeline, kinds_of
from batchwright.typing import FloatArray, IntArray

Terms: TypeAlias = tuple[float, float, float]
"""Bytes × (1, L, L²)."""

_LIFTS = 16
_CLOSE = 1e-4
_LIFTED = 0.5  # what is too low by more than this is lifted by a constant
_LARGEST = 5
_LENGTHS = 3
_SMALL = 0.1  # peaks below this share of the largest say nothing about large batches


@dataclass(frozen=True)
class Curve:
    """Bytes as a function of a batch's shape: ``a + b·B·L + c·B·L²``, and three smaller terms.

    For B rows of length L, `fixed` has the factors of (1, L, L²), such as workspace and masks, and
    `per_row` those of (B, B·L, B·L²). None is negative: bytes never fall as a batch grows.

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
        """Bytes per token."""
        return self.per_row[1]

    @property
    def c(self) -> float:
        """Bytes per token and unit of length: 0 where attention keeps no scores."""
        return self.per_row[2]

    def __call__(self, rows: npt.ArrayLike, lengths: npt.ArrayLike) -> FloatArray:
        """Return the bytes of batches of these shapes, float64[...]."""
        per_row = np.asarray(rows) * _grown(self.per_row, lengths)
        bytes_: FloatArray = _grown(self.fixed, lengths) + per_row
        return bytes_

    def rows_within(self, capacity: float, lengths: npt.ArrayLike) -> FloatArray:
        """Return how many rows of a length fit, float64[...]: infinite if rows take nothing."""
        room = np.maximum(capacity - _grown(self.fixed, lengths), 0.0)
        row = _grown(self.per_row, lengths)
        rows: FloatArray = np.divide(room, row, out=np.full(row.shape, np.inf), where=row > 0)
        return rows

    def scaled(self, factor: float) -> Curve:
        """Return the curve with every term multiplied by a factor."""
        return _curve(factor * np.array([*self.fixed, *self.per_row]))

    @classmethod
    def fit(
        cls,
        rows: npt.ArrayLike,
        lengths: npt.ArrayLike,
        bytes_: npt.ArrayLike,
        *,
        scale: npt.ArrayLike | None = None,
    ) -> Curve:
        """Fit a curve by least squares of the errors relative to `scale`, by default `bytes_`.

        Of curves that fit equally well, the one with the fewest terms is chosen.
        """
        values = np.asarray(bytes_, dtype=np.float64)
        over = np.maximum(values if scale is None else np.asarray(scale, dtype=np.float64), 1.0)
        powers = np.vander(np.asarray(lengths, dtype=np.float64), 3, increasing=True)
        powers = np.concatenate([powers, np.asarray(rows)[:, None] * powers], axis=1)
        return _curve(nonnegative_fit(powers / over[:, None], values / over))

    @classmethod
    def above(cls, rows: npt.ArrayLike, lengths: npt.ArrayLike, bytes_: npt.ArrayLike) -> Curve:
        """Fit a curve that lies close above all values.

        It is exact where six terms can be. Elsewhere, as where strides round lengths up, fits aim
        ever higher where they were too low, so that the curve is not lifted as a whole.
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


@dataclass(frozen=True)
class Tensors:
    """Storages that are live at a peak and alike in operator, type and shape."""

    op: str
    dtype: str
    shape: tuple[int, ...]
    count: int
    bytes: int


@dataclass(frozen=True)
class Moment:
    """A moment of a step that is its peak for some shapes."""

    curve: Curve  # bytes above the state
    parts: tuple[tuple[str, Curve], ...] = ()  # by kind; empty where only totals are known
    tensors: tuple[Tensors, ...] = ()  # the largest, at the largest shape that was tried


def height(moments: Sequence[Moment], rows: npt.ArrayLike, lengths: npt.ArrayLike) -> FloatArray:
    """Return the peak in bytes above the state, float64[...]."""
    heights: FloatArray = np.max([each.curve(rows, lengths) for each in moments], axis=0)
    return heights


def rows_within(moments: Sequence[Moment], capacity: float, lengths: npt.ArrayLike) -> FloatArray:
    """Return how many rows of a length fit below a capacity, float64[...]."""
    fitting = [each.curve.rows_within(capacity, lengths) for each in moments]
    rows: FloatArray = np.min(fitting, axis=0)
    return rows


def moments_of(
    steps: Mapping[tuple[int, int], Timeline], *, explained: bool = True
) -> tuple[Moment, ...]:
    """Fit the moments at which phases are highest, so that no step given lies above them all.

    If `explained`, also fit what is live at each moment, kind by kind.
    """
    lines = list(steps.values())
    kinds: list[list[str]] = []
    if alike := _alike(steps):
        same = list(alike.values())
        kinds = [kinds_of(same)] * len(same) if explained else []
        highest = sorted({at for each in same for at in each.moments.values()})
        found = [_moment(alike, kinds, [at] * len(same)) for at in highest]
    else:
        kinds = [kinds_of([each]) for each in lines] if explained else []
        phases = dict.fromkeys(phase for each in lines for phase in each.moments)
        at = ([each.moments.get(phase, 0) for each in lines] for phase in phases)
        found = [_moment(steps, kinds, moments) for moments in at]
    return _raised(found, *_shapes(steps), np.array([each.peak for each in lines]))


def moments_through(peaks: Mapping[tuple[int, int], int], *, small: float) -> tuple[Moment, ...]:
    """Fit a curve above measured peaks, whose moments are not known.

    Steps below `small` do not bend the curve: they peak elsewhere, and lift a floor.
    """
    rows, lengths = _shapes(peaks)
    values = np.array(list(peaks.values()), dtype=np.float64)
    large = values >= small if (values >= small).sum() >= 3 else values > 0
    curve = Moment(Curve.above(rows[large], lengths[large], values[large]))
    return (curve,) if large.all() else (curve, _floor(values[~large]))


def _floor(values: FloatArray) -> Moment:
    return Moment(Curve((float(values.max()), 0.0, 0.0)))


def _raised(
    moments: Sequence[Moment], rows: IntArray, lengths: IntArray, peaks: IntArray
) -> tuple[Moment, ...]:
    """Scale moments up until no large peak lies above them; for small ones, add a floor.

    A tiny batch may peak elsewhere, such as in the optimizer. Scaling by what it lies above would
    multiply the predictions for large batches.
    """
    over = peaks / height(moments, rows, lengths)
    is_small = peaks < _SMALL * peaks.max()
    factor = max(1.0, float(over[~is_small].max()))
    raised = tuple(replace(each, curve=each.curve.scaled(factor)) for each in moments)
    above = is_small & (over > factor)
    return (*raised, _floor(peaks[above])) if above.any() else raised


def _alike(steps: Mapping[tuple[int, int], Timeline]) -> dict[tuple[int, int], Timeline]:
    """Choose the steps with the most common sequence of events.

    None, if only steps of one length are alike, as in a loop over positions.
    """
    sequence = {shape: each.events.tobytes() for shape, each in steps.items()}
    most, _ = Counter(sequence.values()).most_common(1)[0]
    alike = {shape: each for shape, each in steps.items() if sequence[shape] == most}
    lengths, all_lengths = ({length for _, length in group} for group in (alike, steps))
    return alike if len(lengths) >= min(len(all_lengths), _LENGTHS) else {}


def _moment(
    steps: Mapping[tuple[int, int], Timeline],
    kinds: Sequence[Sequence[str]],
    moments: Sequence[int],
) -> Moment:
    """Fit one moment, given the event and the kinds of allocations in each step."""
    shapes = _shapes(steps)
    lines = list(steps.values())
    totals = [int(line.levels[at]) for line, at in zip(lines, moments, strict=True)]
    curve = Curve.above(*shapes, totals)
    if not kinds:
        return Moment(curve)
    bytes_of: dict[str, IntArray] = {}
    for step, (line, at, names) in enumerate(zip(lines, moments, kinds, strict=True)):
        for index in line.live(at):
            of_kind = bytes_of.setdefault(names[index], np.zeros(len(lines), dtype=np.int64))
            of_kind[step] += line.allocations[index].bytes
    parts = tuple(
        (kind, Curve.fit(*shapes, sizes, scale=totals)) for kind, sizes in bytes_of.items()
    )
    top = int(np.argmax(totals))
    live = [lines[top].allocations[index] for index in lines[top].live(moments[top])]
    return Moment(curve, parts, _largest(live))


def _largest(allocations: Sequence[Allocation]) -> tuple[Tensors, ...]:
    count: Counter[tuple[str, str, tuple[int, ...]]] = Counter()
    bytes_of: Counter[tuple[str, str, tuple[int, ...]]] = Counter()
    for each in allocations:
        make = (each.op, str(each.dtype).removeprefix("torch."), each.shape)
        count[make] += 1
        bytes_of[make] += each.bytes
    largest = bytes_of.most_common(_LARGEST)
    return tuple(Tensors(*make, count=count[make], bytes=size) for make, size in largest)


def _shapes(shapes: Mapping[tuple[int, int], object]) -> tuple[IntArray, IntArray]:
    rows, lengths = np.array(list(shapes), dtype=np.int64).T
    return rows, lengths


def _grown(terms: Terms, lengths: npt.ArrayLike) -> FloatArray:
    length = np.asarray(lengths, dtype=np.float64)
    grown: FloatArray = np.asarray(terms[0] + length * (terms[1] + length * terms[2]))
    return grown


def _curve(terms: FloatArray) -> Curve:
    one, two, three, four, five, six = terms.tolist()
    return Curve((one, two, three), (four, five, six))
