"""Windows: the batches of one update, taken together, and what they weigh."""

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from torch import distributed

from batchwright.errors import LossError
from batchwright.torch.data.batch_sampler import PlanBatchSampler
from batchwright.torch.data.labels import LABEL_IGNORE, LabelCounter, label_count
from batchwright.torch.data.loader_checks import warn_if_over_budget

__all__ = ["Window", "label_count", "windows"]


@dataclass(frozen=True)
class Window:
    """The batches of one update on this rank.

    Attributes:
        batches: The batches.
        tokens: What they weigh together: see `windows`. On several ranks it is never 0 but at
            least 5e-324, the smallest float, which adds nothing to a sum: a loop that leaves out
            windows without tokens would keep its rank out of an update that the others make.
        global_tokens: What the batches of all ranks weigh. None: unknown without asking them.
    """

    batches: tuple[Any, ...]
    tokens: float
    global_tokens: float | None = None

    def __iter__(self) -> Iterator[Any]:
        """Go through the batches."""
        return iter(self.batches)

    def __len__(self) -> int:
        """Count the batches."""
        return len(self.batches)


def windows(
    loader: Iterable[Any],
    *,
    accumulate: int | None = None,
    weigh: Callable[[Any], float] | None = None,
    sample_weights: npt.ArrayLike | None = None,
) -> Iterator[Window]:
    """Group the batches of a loader into updates.

    The last window holds what is left.

    Args:
        loader: Gives batches: a `DataLoader`, or anything else that can be gone through.
        accumulate: Batches of one update on this rank. None: what the loader's
            `PlanBatchSampler` was planned for.
        weigh: What a batch weighs: what its loss sums over. None counts its labels; see
            `label_count`.
        sample_weights: number[n], what the loss of each sample of the data sums over: often its
            length. The loader's `PlanBatchSampler` then knows what the batches of all ranks
            weigh, and no rank asks another: ``update(global_weight=window.global_tokens)``.

    Yields:
        Windows of `accumulate` batches, read when they are asked for.

    Raises:
        LossError: If `accumulate` is not known, or no integer of at least 1; if it is not known
            what a batch weighs; if sample weights are given without a plan of whole samples,
            or are not what the batches weigh.

    Example:
        >>> import torch
        >>> labels = [torch.tensor([[1, 2]]), torch.tensor([[3, -100]]), torch.tensor([[4, 5]])]
        >>> [(len(window), window.tokens)
        ...  for window in windows([{"labels": each} for each in labels], accumulate=2)]
        [(2, 3.0), (1, 2.0)]
    """
    if accumulate is None:
        accumulate = getattr(getattr(loader, "batch_sampler", None), "accumulate", None)
    if accumulate is None:
        raise LossError(
            "windows cannot tell how many batches make an update: pass accumulate=, or a "
            "DataLoader with a PlanBatchSampler."
        )
    try:
        size = operator.index(accumulate)
    except TypeError:
        size = 0
    if size < 1:
        raise LossError(f"accumulate={accumulate!r}: expected an integer of at least 1.")
    counter = _counter_of(loader)
    weight = counter if weigh is None else weigh
    if not callable(weight):
        raise LossError(f"weigh={weigh!r}: expected a function from a batch to a number.")
    known = None if sample_weights is None else _SampleWeights(loader, sample_weights)
    batches = iter(loader)
    done = 0
    sampler: Any = getattr(loader, "batch_sampler", None)
    watches = isinstance(sampler, PlanBatchSampler)
    while taken := tuple(islice(batches, size)):
        if watches:
            watches = not any(warn_if_over_budget(sampler.course, batch) for batch in taken)
        if weigh is None:
            counter.look(taken)
        tokens = sum(_number(weight(batch)) for batch in taken)
        tokens = tokens or _nothing()
        yield Window(taken, tokens, None if known is None else known.over(done, len(taken), tokens))
        done += len(taken)


_COUNTERS: WeakKeyDictionary[Any, LabelCounter] = WeakKeyDictionary()
"""What is known of the labels of each loader, from one epoch to the next."""


def _counter_of(loader: Any) -> LabelCounter:
    pads = getattr(getattr(loader, "collate_fn", None), "pad", None)
    in_use = isinstance(pads, Mapping) and LABEL_IGNORE in pads.values()
    try:
        return _COUNTERS.setdefault(loader, LabelCounter(in_use=in_use))
    except TypeError:  # lists and the like are not kept
        return LabelCounter(in_use=in_use)


def _nothing() -> float:
    """Return what a window without tokens weighs: see `Window`."""
    ready = distributed.is_available() and distributed.is_initialized()
    return math.ulp(0.0) if ready and distributed.get_world_size() > 1 else 0.0


def _number(weight: Any) -> float:
    try:
        number = float(weight)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not 0 <= number < math.inf:
        given = weight if isinstance(weight, int | float) else type(weight).__name__
        raise LossError(f"weigh returned {given}, expected what the loss of a batch sums over.")
    return number


class _SampleWeights:
    """What batches weigh, from the plan that the loader goes through."""

    def __init__(self, loader: Iterable[Any], weights: npt.ArrayLike) -> None:
        sampler = getattr(loader, "batch_sampler", None)
        if not isinstance(sampler, PlanBatchSampler):
            raise LossError(
                "sample_weights need a DataLoader with a PlanBatchSampler, got "
                f"{type(loader).__name__}. Without one, ranks add their weights up: leave them out."
            )
        self._sampler = sampler
        self._weights = np.asarray(weights, dtype=np.float64)

    def over(self, first: int, count: int, tokens: float) -> float:
        """Return the weight over all ranks of some batches, which weigh `tokens` on this one."""
        course = self._sampler.course
        if course is None or course.plan is None or course.plan.starts is not None:
            raise LossError(
                "sample_weights are of whole samples; this plan splits long ones. Leave them out."
            )
        planned, given = course.plan.origin.num_samples, self._weights.size
        if planned not in {None, given} or course.plan.indices.max() >= given:
            samples = f"of {planned} samples"
            if planned is None:
                samples = f"with sample {course.plan.indices.max()}"
            raise LossError(
                f"{given} sample_weights for a plan {samples}: expected one for each sample of the "
                "data."
            )
        own = course.weight(first, count, self._weights, rank=self._sampler.rank)
        if abs(own - tokens) > 1e-6 * max(own, tokens):
            raise LossError(
                f"by sample_weights the window weighs {own:g} on this rank, but its batches weigh "
                f"{tokens:g}. Give what each sample's loss sums over (a loss of the next token: "
                "one less than the length), and weigh= if batches hold no labels."
            )
        return course.weight(first, count, self._weights)
