"""Windows: the batches of one update, taken together, and what they weigh."""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from batchwright.errors import LossError
from batchwright.torch.batch_sampler import PlanBatchSampler
from batchwright.torch.loader_checks import warn_if_over_budget

IGNORED = -100
"""The label that torch's losses leave out."""


@dataclass(frozen=True)
class Window:
    """The batches of one update on this rank.

    Attributes:
        batches: The batches.
        tokens: What they weigh together: see `windows`.
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
        LossError: If `accumulate` is not known, or no integer of at least 1; if sample weights
            are given without a plan of whole samples, or are not what the batches weigh.

    Example:
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
    weight = label_count if weigh is None else weigh
    known = None if sample_weights is None else _SampleWeights(loader, sample_weights)
    batches = iter(loader)
    done = 0
    sampler: Any = getattr(loader, "batch_sampler", None)
    watches = isinstance(sampler, PlanBatchSampler)
    while taken := tuple(islice(batches, size)):
        if watches:
            watches = not any(warn_if_over_budget(sampler.course, batch) for batch in taken)
        tokens = float(sum(weight(batch) for batch in taken))
        yield Window(taken, tokens, None if known is None else known.over(done, len(taken), tokens))
        done += len(taken)


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
        if course.plan.indices.max() >= self._weights.size:
            raise LossError(
                f"{self._weights.size} sample_weights for a plan with sample "
                f"{course.plan.indices.max()}: expected one for each sample of the data."
            )
        own = course.weight(first, count, self._weights, rank=self._sampler.rank)
        if abs(own - tokens) > 1e-6 * max(own, tokens):
            raise LossError(
                f"by sample_weights the window weighs {own:g} on this rank, but its batches weigh "
                f"{tokens:g}. Give what each sample's loss sums over (a loss of the next token: "
                "one less than the length), and weigh= if batches hold no labels."
            )
        return course.weight(first, count, self._weights)


def label_count(batch: Any) -> float:
    """Count what a loss sums over: labels that are not ignored.

    Args:
        batch: A dict with ``labels`` (those that are -100 do not count), else with ``lengths``
            or an ``attention_mask``; a tuple whose last tensor is the labels; or a tensor, of
            which the rows count.

    Returns:
        The number. A loss that shifts labels by itself sums over one less for each row, unless
        the first label is ignored, as `PackCollator` sets it.

    Raises:
        LossError: If there is nothing to count.

    Example:
        >>> label_count((torch.zeros(2, 3), torch.tensor([[1, 2, -100], [3, -100, -100]])))
        3.0
    """
    if isinstance(batch, Mapping):
        for name, count in _COUNTS.items():
            if name in batch:
                return count(batch[name])
    elif isinstance(batch, tuple | list) and batch and isinstance(batch[-1], torch.Tensor):
        return _labels(batch[-1])
    elif isinstance(batch, torch.Tensor) and batch.ndim:
        return float(batch.shape[0])
    raise LossError(
        f"windows cannot tell what a batch of type {type(batch).__name__} weighs: pass weigh=, a "
        "function from a batch to what its loss sums over."
    )


def _labels(labels: torch.Tensor) -> float:
    if labels.is_floating_point():
        return float(labels.shape[0])  # targets of a regression: one a row
    return float((labels != IGNORED).sum())


_COUNTS: dict[str, Callable[[Any], float]] = {
    "labels": _labels,
    "lengths": lambda lengths: float(lengths.sum()),
    "attention_mask": lambda mask: float(mask.sum()),
}
