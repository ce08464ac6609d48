"""Labels: the names that trainers give them, what pads them, and how many of them count."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from batchwright.errors import LossError
from batchwright.torch.data.containers import name_of, parts_of
from batchwright.torch.data.field_kinds import is_array

LABEL_NAMES = ("labels", "label", "label_ids")
"""Fields that hold labels, as trainers name them. The first that a batch has is counted."""

LABEL_IGNORE = -100
"""What torch's `cross_entropy` leaves out of the loss."""

PadValue: TypeAlias = float | bool
"""What is put where there is no data."""

MEANT: dict[Any, PadValue] = {**dict.fromkeys(LABEL_NAMES, LABEL_IGNORE), "attention_mask": 0}
"""Fields whose padding has a meaning: no token's value would do."""


def label_count(batch: Any) -> float:
    """Count what a loss sums over: labels that are not ignored.

    Labels are counted one by one. Whole numbers: those that are not -100. Floats with one number
    a row: the rows. Floats of the shape [rows, length, …] of another field: those that are not
    -100, and no more than `attention_mask` or `lengths` leave. Booleans of such a shape: those that
    `attention_mask` or `lengths` leave, as no boolean says that it is padding.

    Anything else is not guessed at, whatever a batch happens to look like: floats that are one
    vector a row (class probabilities count rows, several labels a row count each), matrices in a
    tuple without any -100, as nothing says how they are padded (see `LabelCounter`), labels that
    are padded with another negative number than -100, and labels that are no tensor.

    Args:
        batch: A dict, dataclass or named tuple with ``labels``, ``label`` or ``label_ids``, else
            with ``lengths`` or an ``attention_mask``; a tuple whose last field is the
            labels; or a tensor, of which the rows count.

    Returns:
        The number. A loss that shifts labels by itself sums over one less for each row, unless
        the first label is ignored, as `PackCollator` sets it.

    Raises:
        LossError: If there is nothing to count, or it is not known what counts.

    Example:
        >>> label_count({"x": torch.zeros(2, 3), "labels": torch.tensor([[1, 2, -100], [3, 4, 5]])})
        5.0
        >>> label_count((torch.zeros(2, 3), torch.tensor([0.5, 1.5])))
        2.0
    """
    return _count(batch, in_use=False)


class LabelCounter:
    """Counts labels as `label_count` does, in batches that come from one place.

    A matrix of labels in a tuple may be padded with anything. Once one of them has a -100, the
    others are known to be padded so too: a batch in which no row happens to be padded counts.

    Args:
        in_use: Whether this is known beforehand.

    Example:
        >>> full, padded = torch.tensor([[1, 2]]), torch.tensor([[3, -100]])
        >>> count = LabelCounter()
        >>> count.look([(full, full), (padded, padded)])
        >>> count((full, full))
        2.0
    """

    def __init__(self, *, in_use: bool = False) -> None:
        self._in_use = in_use

    def look(self, batches: Iterable[Any]) -> None:
        """See whether labels are padded with -100 in some batches."""
        self._in_use = self._in_use or any(map(_ignores_labels, batches))

    def __call__(self, batch: Any) -> float:
        """Count the labels of a batch."""
        self.look([batch])
        return _count(batch, in_use=self._in_use)


def _ignores_labels(batch: Any) -> bool:
    if not isinstance(batch, tuple | list) or not batch:
        return False
    labels = _numbers(batch[-1])
    if labels is None or labels.is_floating_point() or labels.dtype == torch.bool:
        return False
    return labels.ndim > 1 and bool((labels == LABEL_IGNORE).any())


def _count(batch: Any, *, in_use: bool) -> float:
    if isinstance(batch, Tensor) and batch.ndim:
        return float(batch.shape[0])
    fields = parts_of(batch) or {}
    for name in LABEL_NAMES:
        if name in fields:
            return _labels(fields[name], fields, name_of("batch", batch, name))
    for name, count in _COUNTS.items():
        if name in fields:
            return count(fields[name], name_of("batch", batch, name))
    if fields and isinstance(batch, tuple | list):
        name = [*fields][-1]
        if is_array(fields[name]):
            return _labels(fields[name], {}, name_of("batch", batch, name), in_use=in_use)
    raise LossError(f"it is not known what a batch of type {type(batch).__name__} weighs: {_WEIGH}")


_WEIGH = "pass weigh=, a function from a batch to what its loss sums over."


def _labels(labels: Any, fields: Mapping[Any, Any], path: str, *, in_use: bool = True) -> float:
    """Count labels, beside the other fields of a batch that has names."""
    values = _numbers(labels)
    if values is None or not values.ndim:
        kind = f"of type {type(labels).__name__}"
        if values is not None:
            kind = "a tensor without rows"
        raise LossError(f"{path} is {kind}, expected a tensor of labels: {_WEIGH}")
    rows = values.shape[0]
    if values.dtype == torch.bool:
        return _booleans(values, fields, path)
    if values.numel() == rows:
        return float((values != LABEL_IGNORE).sum())
    given = f"{path} is {values.dtype}{list(values.shape)}"
    if values.is_floating_point():
        if not _is_like_another(values, fields):
            raise LossError(f"{given}: does each entry count, or each row? {_WEIGH.capitalize()}")
        counted = float((values != LABEL_IGNORE).sum())
        inside = _inside(values, fields)
        return counted if inside is None else min(counted, inside)
    ignored = values == LABEL_IGNORE
    num_ignored, num_negative = torch.stack((ignored.sum(), (values < 0).sum())).tolist()
    if not num_ignored and not in_use:
        raise LossError(f"{given} without -100, and nothing says what pads it in a tuple: {_WEIGH}")
    if num_negative > num_ignored:
        raise LossError(
            f"{given} and holds negative numbers other than {LABEL_IGNORE}: do these count? "
            f"{_WEIGH.capitalize()}"
        )
    return float(values.numel() - num_ignored)


def _booleans(values: Tensor, fields: Mapping[Any, Any], path: str) -> float:
    if values.numel() == values.shape[0]:
        return float(values.shape[0])
    inside = _inside(values, fields) if _is_like_another(values, fields) else None
    if inside is None:
        raise LossError(
            f"{path} is {values.dtype}{list(values.shape)}, and no boolean says that it is "
            "padding: give the batch the lengths or the attention_mask of the labels (as "
            f"PadCollator(lengths=…) does), or {_WEIGH}"
        )
    return inside


def _is_like_another(labels: Tensor, fields: Mapping[Any, Any]) -> bool:
    """Whether another field has the rows and the length of the labels: they are one a token."""
    for name, other in fields.items():
        if name not in LABEL_NAMES and is_array(other):
            shape = tuple(other.shape)
            if shape == tuple(labels.shape) or (
                len(shape) in {2, 3} and shape[:2] == tuple(labels.shape[:2])
            ):
                return True
    return False


def _inside(labels: Tensor, fields: Mapping[Any, Any]) -> float | None:
    """Count the labels that are no padding by what the batch says of it; None if nothing does."""
    each = labels[0, 0].numel() if labels.numel() else 1
    mask, lengths = (_numbers(fields.get(name)) for name in ("attention_mask", "lengths"))
    if mask is not None and mask.shape == labels.shape[:2]:
        return float((mask != 0).sum()) * each
    if lengths is not None and lengths.shape == labels.shape[:1]:
        return float(lengths.sum()) * each
    return None


def _numbers(value: Any) -> Tensor | None:
    """Return numbers as a tensor; None for anything else."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        value = torch.as_tensor(value.astype(np.int64) if value.dtype.kind == "u" else value)
    if not isinstance(value, Tensor) or value.is_complex():
        return None
    # -100 would be 156 in eight bits without a sign.
    return value.to(torch.int64) if value.dtype == torch.uint8 else value


def _lengths(value: Any, path: str) -> float:
    lengths = _numbers(value)
    if lengths is None or lengths.ndim != 1:
        raise LossError(f"{path} is no tensor [rows]: {_WEIGH}")
    return float(lengths.sum())


def _mask(value: Any, path: str) -> float:
    mask = _numbers(value)
    if mask is None or mask.ndim != 2:
        raise LossError(f"{path} is no tensor [rows, length]: {_WEIGH}")
    return float((mask != 0).sum())


_COUNTS: dict[str, Callable[[Any, str], float]] = {"lengths": _lengths, "attention_mask": _mask}
