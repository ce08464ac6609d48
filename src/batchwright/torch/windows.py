"""The batches of one update, and what they weigh: the labels that their loss sums over."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from time import perf_counter
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed

from batchwright._checks import whole_number
from batchwright.errors import LossError
from batchwright.plans import has_pieces
from batchwright.resume import Course
from batchwright.stats.running import Figures, RunningFigures
from batchwright.torch.data.batch_sampler import (
    PlanBatchSampler,
    check_around,
    warn_if_over_budget,
)
from batchwright.torch.data.plan_loader import PlanLoader
from batchwright.torch.data.rows import is_array
from batchwright.torch.data.samples import LABEL_IGNORE, LABEL_NAMES, is_whole
from batchwright.torch.data.trees import Parts, name_of, parts_of
from batchwright.torch.data.wrappers import unwrapped
from batchwright.typing import Batch, Field, FloatArray

_WEIGH = "pass weigh=, a function from a batch to what its loss sums over."


@dataclass(frozen=True)
class Window:
    """The batches of one update on this rank, and what they weigh together: see `windows`.

    With several ranks `tokens` is at least 5e-324, the smallest float, never 0: a loop that skips
    windows without tokens would keep its rank out of an update that the others make.
    """

    batches: tuple[Batch, ...]
    tokens: float
    global_tokens: float | None = None  # of all ranks; None: unknown without communication
    seconds: float = field(default=0.0, compare=False)  # that the loop waited for the window
    measure: Callable[[], Figures | None] | None = field(default=None, repr=False, compare=False)

    @property
    def figures(self) -> Figures | None:
        """What the update holds over all ranks, by the plan. None: there is no `Planner`."""
        return None if self.measure is None else self.measure()

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def windows(
    loader: Iterable[Batch],
    *,
    accumulate: int | None = None,
    weigh: Callable[[Batch], float] | None = None,
    sample_weights: npt.ArrayLike | None = None,
) -> Iterator[Window]:
    """Group the batches of a loader into updates. The last window holds what is left.

    Args:
        loader: A `DataLoader`, or any other iterable of batches.
        accumulate: Batches of one update on this rank. None: as the loader's plan says.
        weigh: What a batch weighs: what its loss sums over. None: its labels; see `label_count`.
        sample_weights: number[n], what the loss of each sample of the data sums over: often its
            length. `global_tokens` is then known from the loader's plan, without communication.

    Raises:
        LossError: If `accumulate` is unknown; if it is unknown what a batch weighs; if sample
            weights are given without a plan of whole samples, or are not what the batches weigh.

    Example:
        >>> labels = [torch.tensor([[1, 2]]), torch.tensor([[3, -100]]), torch.tensor([[4, 5]])]
        >>> [(len(window), window.tokens)
        ...  for window in windows([{"labels": each} for each in labels], accumulate=2)]
        [(2, 3.0), (1, 2.0)]
    """
    planned, around = unwrapped(loader, PlanBatchSampler)
    if accumulate is None:
        sampler: object = getattr(loader, "batch_sampler", None) if planned is None else planned
        accumulate = getattr(sampler, "accumulate", None)
    if accumulate is None:
        raise LossError(
            "windows needs the number of batches of an update: pass accumulate=, or a PlanLoader."
        )
    size = whole_number("windows", "accumulate", accumulate, error=LossError)
    counter = counter_of(loader)
    weights = None if sample_weights is None else np.asarray(sample_weights, dtype=np.float64)
    if weights is not None and planned is None:
        raise LossError(
            f"sample_weights need a PlanLoader, got {type(loader).__name__}. Without a plan, ranks "
            "add their weights up: leave them out."
        )
    several = distributed.is_available() and distributed.is_initialized()
    several = several and distributed.get_world_size() > 1
    nothing = math.ulp(0.0) if several else 0.0
    done = 0 if planned is None else check_around(planned, around)
    measured = _Measured(planned)
    # `islice` calls `iter`: a loader that is its own iterator, as Ray's is, would begin again.
    batches, watches = chain(loader), not isinstance(loader, PlanLoader)  # it watches itself
    asked = perf_counter()
    while taken := tuple(islice(batches, size)):
        if planned is not None and watches:
            watches = not any(warn_if_over_budget(planned.course, batch) for batch in taken)
        if weigh is None:
            counter.look(taken)
        tokens = sum(checked_weight((weigh or counter)(batch)) for batch in taken) or nothing
        everywhere = None
        if planned is not None and weights is not None:
            everywhere = _weight_everywhere(planned, weights, done, len(taken), tokens)
        measure = partial(measured.of, done, done + len(taken))
        measured.begin()
        yield Window(taken, tokens, everywhere, perf_counter() - asked, measure)
        done += len(taken)
        asked = perf_counter()


class _Measured:
    """The figures of a pass of a sampler, if there is one: made when they are asked for."""

    def __init__(self, planned: PlanBatchSampler | None) -> None:
        self._planned = planned
        self._course: Course | None = None
        self._running: RunningFigures | None = None

    def begin(self) -> None:
        """Remember what the pass goes through, once there is a batch."""
        if self._planned is not None and self._course is None:
            self._course = self._planned.course

    def of(self, first: int, last: int) -> Figures | None:
        """Measure the update of some of this rank's batches."""
        if self._course is not None and self._running is None:
            self._running = self._course.running()
        return None if self._running is None else self._running.of(first, last)


def checked_weight(weight: Field) -> float:
    """Return what `weigh` said of a batch; LossError unless it is a number of at least 0."""
    try:
        number = float(weight)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not 0 <= number < math.inf:
        given = weight if isinstance(weight, int | float) else type(weight).__name__
        raise LossError(f"weigh returned {given}, expected what the loss of a batch sums over.")
    return number


def _weight_everywhere(
    sampler: PlanBatchSampler, weights: FloatArray, first: int, count: int, tokens: float
) -> float:
    """Return the weight over all ranks of some batches, which weigh `tokens` on this one."""
    course = sampler.course
    if course is None or course.plan is None or has_pieces(course.plan):
        raise LossError(
            "sample_weights are of whole samples; this plan splits long ones. Leave them out."
        )
    planned = course.plan.origin.num_samples
    largest = int(course.plan.indices.max()) if planned is None else planned - 1
    if largest >= weights.size or planned not in {None, weights.size}:
        samples = f"with sample {largest}" if planned is None else f"of {planned} samples"
        raise LossError(
            f"{weights.size} sample_weights for a plan {samples}: expected one for each sample of "
            "the data."
        )
    step = course.world_size
    begin, end = course.start + first * step, course.start + (first + count) * step
    batches = course.plan.batches.select(range(begin, end)).arrays()
    own = float(weights[batches.select(range(sampler.rank, len(batches), step)).indices].sum())
    if abs(own - tokens) > 1e-6 * max(own, tokens):
        raise LossError(
            f"by sample_weights the window weighs {own:g} on this rank, but its batches weigh "
            f"{tokens:g}. Give what each sample's loss sums over (a loss of the next token: one "
            "less than the length), and weigh= if batches hold no labels."
        )
    return float(weights[batches.indices].sum())


def label_count(batch: Batch) -> float:
    """Count what a loss sums over: labels that are not ignored.

    - Integers: those that are not -100.
    - Floats and booleans with one number a row: the rows.
    - Floats of the shape [rows, length, …] of another field: those that are not -100, and no more
      than `attention_mask` or `lengths` leave.
    - Booleans of such a shape: those that `attention_mask` or `lengths` leave.

    Anything else is refused, such as class probabilities, a matrix in a tuple without any -100,
    and labels padded with another negative number. A loss that shifts labels itself sums over one
    less for each row, unless the first label is ignored, as `PackCollator` sets it.

    Args:
        batch: A dict, dataclass or named tuple with ``labels``, ``label`` or ``label_ids``, else
            with ``lengths`` or an ``attention_mask``; a tuple whose last field is the labels; or a
            tensor, whose rows count.

    Raises:
        LossError: If there is nothing to count, or it is unknown what counts.

    Example:
        >>> label_count({"x": torch.zeros(2, 3), "labels": torch.tensor([[1, 2, -100], [3, 4, 5]])})
        5.0
        >>> label_count((torch.zeros(2, 3), torch.tensor([0.5, 1.5])))
        2.0
    """
    return _count(batch, in_use=False)


class LabelCounter:
    """Counts labels as `label_count` does, in batches of one loader.

    A matrix of labels in a tuple may be padded with anything. Once one of them has a -100, the
    others are known to be padded with it too: then a batch without padding counts.
    """

    def __init__(self, *, in_use: bool = False) -> None:
        self._in_use = in_use

    def look(self, batches: Iterable[Batch]) -> None:
        """See whether labels are padded with -100 in some batches."""
        self._in_use = self._in_use or any(map(_ignores_labels, batches))

    def __call__(self, batch: Batch) -> float:
        """Count the labels of a batch."""
        self.look([batch])
        return _count(batch, in_use=self._in_use)


_COUNTERS: WeakKeyDictionary[object, LabelCounter] = WeakKeyDictionary()
"""What is known of the labels of each loader, from one epoch to the next."""


def counter_of(loader: object) -> LabelCounter:
    """Return what counts the labels of a loader's batches, the same in each epoch."""
    pads = getattr(getattr(loader, "collate_fn", None), "pad", None)
    counter = LabelCounter(in_use=isinstance(pads, Mapping) and LABEL_IGNORE in pads.values())
    try:
        return _COUNTERS.setdefault(loader, counter)
    except TypeError:  # lists and the like are not kept
        return counter


def _ignores_labels(batch: Batch) -> bool:
    labels = _numbers(batch[-1]) if isinstance(batch, tuple | list) and batch else None
    if labels is None or not is_whole(labels.dtype) or labels.dtype == torch.bool:
        return False
    return labels.ndim > 1 and bool((labels == LABEL_IGNORE).any())


def _count(batch: Batch, *, in_use: bool) -> float:
    if isinstance(batch, Tensor) and batch.ndim:
        return float(batch.shape[0])
    fields = parts_of(batch) or {}
    named = (*LABEL_NAMES, "lengths", "attention_mask")
    name = next((each for each in named if each in fields), None)
    if name in LABEL_NAMES:
        return _labels(fields[name], fields, name_of("batch", batch, name))
    if name is not None:
        values, are_lengths = _numbers(fields[name]), name == "lengths"
        if values is None or values.ndim != (1 if are_lengths else 2):
            shape = "[rows]" if are_lengths else "[rows, length]"
            raise LossError(f"{name_of('batch', batch, name)} is no tensor {shape}: {_WEIGH}")
        return float((values if are_lengths else values != 0).sum())
    if isinstance(batch, tuple | list) and batch and is_array(batch[-1]):
        path = name_of("batch", batch, [*fields][-1])
        return _labels(batch[-1], {}, path, in_use=in_use)
    raise LossError(f"it is unknown what a batch of type {type(batch).__name__} weighs: {_WEIGH}")


def _labels(labels: Field, fields: Parts, path: str, *, in_use: bool = True) -> float:
    """Count labels, given the other fields of a batch that has names."""
    values = _numbers(labels)
    if values is None or not values.ndim:
        kind = "a tensor without rows" if values is not None else f"of type {type(labels).__name__}"
        raise LossError(f"{path} is {kind}, expected a tensor of labels: {_WEIGH}")
    given = f"{path} is {values.dtype}{list(values.shape)}"
    counted = float((values != LABEL_IGNORE).sum())
    if values.numel() == values.shape[0]:
        return counted
    if is_whole(values.dtype) and values.dtype != torch.bool:
        if counted == values.numel() and not in_use:
            why = "without -100, and nothing says what pads it in a tuple"
            raise LossError(f"{given} {why}: {_WEIGH}")
        if counted > int((values >= 0).sum()):
            raise LossError(
                f"{given} and holds negative numbers other than {LABEL_IGNORE}: do these count? "
                f"{_WEIGH.capitalize()}"
            )
        return counted
    is_one_a_token = any(
        _is_one_a_token(values, other)
        for name, other in fields.items()
        if name not in LABEL_NAMES and is_array(other)
    )
    inside = _inside(values, fields) if is_one_a_token else None
    if values.dtype == torch.bool:
        if inside is None:
            raise LossError(
                f"{given}, and no boolean says that it is padding: give the batch the lengths or "
                f"the attention_mask of the labels (as PadCollator(lengths=…) does), or {_WEIGH}"
            )
        return inside
    if not is_one_a_token:
        raise LossError(f"{given}: does each entry count, or each row? {_WEIGH.capitalize()}")
    return counted if inside is None else min(counted, inside)


def _is_one_a_token(labels: Tensor, other: Field) -> bool:
    """Check whether a field has the rows and the length of the labels."""
    same = other.ndim in {2, 3} and tuple(other.shape[:2]) == tuple(labels.shape[:2])
    return same or tuple(other.shape) == tuple(labels.shape)


def _inside(labels: Tensor, fields: Parts) -> float | None:
    """Count the labels that are no padding by the batch's mask or lengths; None without these."""
    each = labels[0, 0].numel() if labels.numel() else 1
    mask, lengths = (_numbers(fields.get(name)) for name in ("attention_mask", "lengths"))
    if mask is not None and mask.shape == labels.shape[:2]:
        return float((mask != 0).sum()) * each
    if lengths is not None and lengths.shape == labels.shape[:1]:
        return float(lengths.sum()) * each
    return None


def _numbers(value: Field) -> Tensor | None:
    """Return numbers as a tensor; None for anything else."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        value = torch.as_tensor(value.astype(np.int64) if value.dtype.kind == "u" else value)
    if not isinstance(value, Tensor) or value.is_complex():
        return None
    # -100 would be 156 in eight bits without a sign.
    return value.to(torch.int64) if value.dtype == torch.uint8 else value
