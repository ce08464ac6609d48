"""What is known of a step's memory: predicted and confirmed, or measured, as a few curves.

Where a step peaks depends on its shape: at the logits for short rows, in attention's backward
pass for long ones, in the optimizer for tiny batches. But steps of all shapes go through the same
moments, and at one moment bytes are a polynomial in rows and length, so each moment gets a curve.
Where steps differ, as in a loop over positions, the highest moment of each phase takes its place.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright._measuring import nonnegative_fit, spread
from batchwright.errors import BatchwrightError, BudgetError
from batchwright.torch.data.trees import tensors_of
from batchwright.torch.memory.ledger import Timeline
from batchwright.torch.memory.steps import FakeStep, StateBytes, Task, can_measure, real_steps
from batchwright.torch.update.passes import modules_of, untouched
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
_EXACT = 0.005  # once predictions are this close to the step they predict, no more are tried
_GROWTH = 8.0
_FULL = 0.9
_LARGEST = 3


@dataclass(frozen=True)
class Probe:
    """A step that was tried: its peak above the state in bytes; `measured` if it ran for real."""

    rows: int
    length: int
    predicted: int
    measured: int | None = None
    parts: tuple[tuple[str, int], ...] = ()  # what is live at the peak: what for, and bytes
    tensors: tuple[str, ...] = ()  # the largest of that


@dataclass(frozen=True)
class Findings:
    """What is known of the memory of a task: peaks above the state are curves times a ratio."""

    state: StateBytes
    curves: tuple[Curve, ...]
    probes: tuple[Probe, ...]  # what the curves were fitted to
    confirmations: tuple[Probe, ...] = ()
    ratio: float = 1.0  # the largest measured ÷ predicted in the confirmations
    reason: str | None = None  # why steps were measured; None: they were predicted


def find(
    task: Task, lengths: IntArray, limit: int, *, margin: float, confirm: bool, measure: bool
) -> Findings:
    """Predict or measure what steps of some lengths take, and leave everything as it was.

    The lengths are int64[d], distinct and ascending. For the options see `MemoryModel.fit`.
    """
    with untouched(task.model, *modules_of(task.loss_sum)):
        _check_growth(task, lengths)
        try:
            run = FakeStep(task, int(lengths[0]))
            steps = _fake_steps(run, lengths, capacity=_room(limit, run.state))
            probes = tuple(_probe(shape, each) for shape, each in steps.items())
            found = Findings(run.state, curves_of(steps), probes)
            if not confirm or not can_measure(task.device):
                return found
            capacity = _room(limit, run.state) / (1 + margin)
            return _confirmed(task, lengths, found, run, capacity=capacity)
        except BatchwrightError:
            raise
        except Exception as error:  # models that need values raise anything
            message = (str(error).strip() or "no message").splitlines()[0]
            reason = f"fake tensors cannot run this step ({type(error).__name__}: {message})"
            if not measure or not can_measure(task.device):
                raise BudgetError(f"{reason}, and real steps are not measured here.") from error
        with real_steps(task, int(lengths[0])) as real:
            capacity = _room(limit, real.state)
            peaks = growing_peaks(real, lengths, capacity=capacity)
            curves = curves_through(peaks, small=capacity / 8)
            probes = tuple(
                Probe(*shape, int(heights(curves, *shape)), peak) for shape, peak in peaks.items()
            )
            return Findings(real.state, curves, probes, reason=reason)


def _probe(shape: Shape, step: Timeline) -> Probe:
    """Say what a step held at its peak."""
    live = step.live(int(step.levels.argmax()))
    parts: Counter[str] = Counter()
    same: Counter[str] = Counter()
    for each in live:
        parts[step.kind(each)] += each.bytes
        same[str(each)] += each.bytes
    number = Counter(map(str, live))
    largest = (f"{number[name]} of {name}" for name, _ in same.most_common(_LARGEST))
    return Probe(*shape, step.peak, None, tuple(parts.items()), tuple(largest))


def _confirmed(
    task: Task, lengths: IntArray, found: Findings, fake: FakeStep, *, capacity: float
) -> Findings:
    """Run the longest rows to half the capacity, then the shortest to all that the first allows."""
    shortest, longest = int(lengths[0]), int(lengths[-1])
    with real_steps(task, shortest) as run:
        for length, share in ((longest, 0.5), (shortest, 1.0)):
            most = float(rows_within(found.curves, capacity / found.ratio, length))
            rows = int(share * most) or int(most >= 1)
            if rows:
                # The step itself predicts more exactly than the curve through all of them.
                probe = Probe(rows, length, fake(rows, length).peak, run(rows, length))
                done = (*found.confirmations, probe)
                ratio = max((each.measured or 0) / each.predicted for each in done)
                found = replace(found, confirmations=done, ratio=ratio)
    return found


def _fake_steps(
    run: Callable[[int, int], Timeline], lengths: IntArray, *, capacity: float
) -> dict[Shape, Timeline]:
    """Run 8 to 16 fake steps of shapes that fill a capacity, at lengths from short to long.

    A fit to small batches, which peak elsewhere, is a fifth too low at the budget: each shape
    predicted to fill it is tried, and improves the next prediction.
    """
    steps: dict[Shape, Timeline] = {}

    def tried(rows: int, length: int) -> float:
        """Try a shape; return the relative error of its prediction."""
        if (rows, length) in steps:
            return 0.0
        before = curves_of(steps) if steps else ()
        step = steps[rows, length] = run(rows, length)
        return abs(float(heights(before, rows, length)) / step.peak - 1) if before else np.inf

    grid = spread(lengths, 4).tolist()
    for rows, place in ((2, 0), (2, -1), (4, 0), (3, -1)):
        tried(rows, grid[place])
    # Strides and pools round up: what is just above a round length may take much more.
    after = np.searchsorted(lengths, grid, side="right")
    odd = [int(length) for length in lengths[np.minimum(after, lengths.size - 1)]]
    for share, tries in ((1.0, grid), (0.5, grid), (0.75, odd)):
        errors = []
        for length in tries[::-1]:
            most = min(float(rows_within(curves_of(steps), share * capacity, length)), 2**31)
            errors.append(tried(max(1, int(most)), length))
        if max(errors) < _EXACT:
            break
    return steps


def growing_peaks(
    run: Callable[[int, int], int], lengths: IntArray, *, capacity: float
) -> dict[Shape, int]:
    """Run real steps that grow towards a capacity, and never above it.

    k times the rows take at most k times as much, and rows k times as long at most k² times. Each
    step is made as large as that allows: single rows from short to long, then more and more rows
    of three lengths. Returns rows and length → peak.
    """
    peaks: dict[Shape, int] = {}

    def peak(rows: int, length: int) -> int:
        if (rows, length) not in peaks:
            peaks[rows, length] = run(rows, length)
        return peaks[rows, length]

    length, longest = int(lengths[0]), int(lengths[-1])
    while length < longest:
        factor = min(capacity / peak(1, length), _GROWTH) ** 0.5
        within = lengths[lengths <= length * factor]
        if within[-1] <= length:
            raise BudgetError(
                f"a row of length {length} takes {peak(1, length):,} bytes above the state, and "
                f"{capacity:,.0f} are left: not even one of length {longest} fits. Raise the "
                "limit, or drop what is longer."
            )
        length = int(within[-1])
    for length in spread(lengths, 3).tolist():
        rows = 1
        while (factor := min(_FULL * capacity / peak(rows, length), _GROWTH)) > 1.1:
            if int(rows * factor) == rows:
                break
            rows = int(rows * factor)
    return peaks


def _room(limit: int, state: StateBytes) -> float:
    """Return the bytes that the state leaves for a step."""
    if limit <= state.total:
        raise BudgetError(
            f"limit={limit:,} bytes, but parameters, gradients and optimizer state alone take "
            f"{state.total:,}. Raise it, or use a smaller model or optimizer."
        )
    return float(limit - state.total)


def _check_growth(task: Task, lengths: IntArray) -> None:
    """Raise if batches do not grow with their length."""
    shortest, longest = int(lengths[0]), int(lengths[-1])
    few, many = (
        sum(tensor.numel() for tensor in tensors_of(task.batch(2, length)))
        for length in (shortest, longest)
    )
    if shortest < longest and few >= many:
        raise BudgetError(
            f"make_batch(2, {longest}) returned {many} elements and make_batch(2, {shortest}) "
            f"{few}; expected more for longer rows. Is the length, its second argument, used?"
        )


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
