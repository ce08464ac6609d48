"""The peak of a step as the highest of a few curves: one for each moment that can be the peak.

Where a step peaks depends on its shape: at the logits for short rows, in attention's backward
pass for long ones, in the optimizer for tiny batches. A single curve through all of them is off
by up to ten per cent in between. But fake steps of all shapes go through the same moments, and
at one moment bytes *are* a polynomial of rows and length: so each is fitted by itself. Where they
do not, as in a loop over positions, the highest moment of each phase takes its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from batchwright.torch.memory.curve import Curve
from batchwright.torch.memory.kinds import kinds_of
from batchwright.torch.memory.ledger import Allocation, Timeline
from batchwright.typing import FloatArray, IntArray

_LARGEST = 5
_LENGTHS = 3

_SMALL = 0.1
"""Peaks below this share of the largest say nothing of those of large batches."""


@dataclass(frozen=True)
class Tensors:
    """Storages of one make that are there at a peak.

    Attributes:
        op: The operator that returned them.
        dtype: Their type.
        shape: Their shape.
        count: How many there are.
        bytes: What they take together.
    """

    op: str
    dtype: str
    shape: tuple[int, ...]
    count: int
    bytes: int


@dataclass(frozen=True)
class Moment:
    """A moment of a step that is its peak for some shapes.

    Attributes:
        curve: Bytes that are there at that moment, above the state.
        parts: Kind → the bytes of that kind. Empty where only totals are known.
        tensors: The largest of them, at the largest shape that was tried.
    """

    curve: Curve
    parts: tuple[tuple[str, Curve], ...] = ()
    tensors: tuple[Tensors, ...] = ()


@dataclass(frozen=True, eq=False)
class Course:
    """A step of one shape, and its timeline."""

    rows: int
    length: int
    timeline: Timeline


def height(moments: Sequence[Moment], rows: npt.ArrayLike, lengths: npt.ArrayLike) -> FloatArray:
    """Return the peak in bytes above the state, float64[...]."""
    heights: FloatArray = np.max([each.curve(rows, lengths) for each in moments], axis=0)
    return heights


def rows_within(moments: Sequence[Moment], capacity: float, lengths: npt.ArrayLike) -> FloatArray:
    """Return how many rows of a length fit below a capacity, float64[...]."""
    fitting = [each.curve.rows_within(capacity, lengths) for each in moments]
    rows: FloatArray = np.min(fitting, axis=0)
    return rows


def moments_of(courses: Sequence[Course], *, explained: bool = True) -> tuple[Moment, ...]:
    """Fit the moments at which phases of steps of several shapes are highest.

    Guarantees that none of the steps given lies above the envelope.

    Args:
        courses: Steps of different shapes.
        explained: Also fit what is there at each moment, kind by kind.

    Returns:
        At least one moment.
    """
    alike = _alike(courses)
    if alike:
        kinds = [kinds_of([each.timeline for each in alike])] * len(alike) if explained else []
        highest = sorted({at for each in alike for at in each.timeline.moments.values()})
        found = [_moment(alike, kinds, [at] * len(alike)) for at in highest]
    else:
        kinds = [kinds_of([each.timeline]) for each in courses] if explained else []
        phases = {phase: 0 for each in courses for phase in each.timeline.moments}
        found = [
            _moment(courses, kinds, [each.timeline.moments.get(phase, 0) for each in courses])
            for phase in phases
        ]
    return _raised(found, *_shapes(courses), [each.timeline.peak for each in courses])


def moments_through(
    rows: Sequence[int], lengths: Sequence[int], peaks: Sequence[int], *, small: float
) -> tuple[Moment, ...]:
    """Fit a curve through measured peaks, where the moments are not known.

    Args:
        rows: Rows of each step.
        lengths: Their length.
        peaks: Bytes above the state.
        small: Steps below this do not bend the curve: they peak elsewhere, and lift a floor.

    Returns:
        A moment that no step lies above, and perhaps a floor.
    """
    values = np.array(peaks, dtype=np.float64)
    large = values >= small if (values >= small).sum() >= 3 else values > 0
    shapes = np.array(rows)[large], np.array(lengths)[large]
    curve = Moment(Curve.above(*shapes, values[large]))
    if large.all():
        return (curve,)
    return (curve, Moment(Curve((float(values[~large].max()), 0.0, 0.0))))


def _raised(
    moments: Sequence[Moment], rows: npt.ArrayLike, lengths: npt.ArrayLike, peaks: npt.ArrayLike
) -> tuple[Moment, ...]:
    """Scale moments up until none of the peaks lies above them; small ones get a floor.

    A tiny batch may peak elsewhere, in the optimizer, say. To scale everything by what it lies
    above would multiply what large batches are said to take.
    """
    values = np.asarray(peaks, dtype=np.float64)
    over = values / height(moments, rows, lengths)
    is_small = values < _SMALL * values.max()
    factor = max(1.0, float(over[~is_small].max()))
    raised = [replace(each, curve=each.curve.scaled(factor)) for each in moments]
    above = is_small & (over > factor)
    if above.any():
        raised.append(Moment(Curve((float(values[above].max()), 0.0, 0.0))))
    return tuple(raised)


def _alike(courses: Sequence[Course]) -> list[Course]:
    """Choose the steps that did the same, one operator after another, as most of them did.

    Returns:
        None of them if that says nothing about other lengths: where a step loops over positions,
        only steps of one length are alike.
    """
    course_of = [each.timeline.events.tobytes() for each in courses]
    most, _ = Counter(course_of).most_common(1)[0]
    alike = [each for each, course in zip(courses, course_of, strict=True) if course == most]
    lengths, all_lengths = ({each.length for each in group} for group in (alike, courses))
    return alike if len(lengths) >= min(len(all_lengths), _LENGTHS) else []


def _moment(
    courses: Sequence[Course], kinds: Sequence[Sequence[str]], moments: Sequence[int]
) -> Moment:
    """Fit one moment: that of the same event in steps that are alike, of a phase in others."""
    shapes = _shapes(courses)
    lines = [each.timeline for each in courses]
    totals = [int(line.levels[at]) for line, at in zip(lines, moments, strict=True)]
    curve = Curve.above(*shapes, totals)
    if not kinds:
        return Moment(curve)
    bytes_of: dict[str, IntArray] = {}
    for step, (line, at, names) in enumerate(zip(lines, moments, kinds, strict=True)):
        for index in line.live(at):
            of_kind = bytes_of.setdefault(names[index], np.zeros(len(courses), dtype=np.int64))
            of_kind[step] += line.allocations[index].bytes
    parts = tuple(
        (kind, Curve.fit(*shapes, sizes, scale=totals)) for kind, sizes in bytes_of.items()
    )
    top = int(np.argmax(totals))
    live = [lines[top].allocations[index] for index in lines[top].live(moments[top])]
    return Moment(curve, parts, _largest(live))


def _largest(allocations: Sequence[Allocation]) -> tuple[Tensors, ...]:
    makes: Counter[tuple[str, str, tuple[int, ...]]] = Counter()
    bytes_of: Counter[tuple[str, str, tuple[int, ...]]] = Counter()
    for each in allocations:
        make = (each.op, str(each.dtype).removeprefix("torch."), each.shape)
        makes[make] += 1
        bytes_of[make] += each.bytes
    return tuple(
        Tensors(*make, count=makes[make], bytes=size)
        for make, size in bytes_of.most_common(_LARGEST)
    )


def _shapes(courses: Sequence[Course]) -> tuple[IntArray, IntArray]:
    return (
        np.array([each.rows for each in courses], dtype=np.int64),
        np.array([each.length for each in courses], dtype=np.int64),
    )
