"""Windows: the batches of one update, taken together, and what they weigh."""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from batchwright.errors import LossError

IGNORED = -100
"""The label that torch's losses leave out."""


@dataclass(frozen=True)
class Window:
    """The batches of one update on this rank.

    Attributes:
        batches: The batches.
        tokens: What they weigh together: see `windows`.
    """

    batches: tuple[Any, ...]
    tokens: float

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
) -> Iterator[Window]:
    """Group the batches of a loader into updates.

    The last window holds what is left.

    Args:
        loader: Gives batches: a `DataLoader`, or anything else that can be gone through.
        accumulate: Batches of one update on this rank. None: what the loader's
            `PlanBatchSampler` was planned for.
        weigh: What a batch weighs: what its loss sums over. None counts its labels; see
            `label_count`.

    Yields:
        Windows of `accumulate` batches, read when they are asked for.

    Raises:
        LossError: If `accumulate` is not known, or no integer of at least 1.

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
    batches = iter(loader)
    weight = label_count if weigh is None else weigh
    while taken := tuple(islice(batches, size)):
        yield Window(taken, float(sum(weight(batch) for batch in taken)))


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
