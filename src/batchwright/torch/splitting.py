"""Batches cut in two: how a batch that does not fit goes through the model in parts."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch

from batchwright.errors import UpdateError

Split: TypeAlias = Callable[[Any], tuple[Any, Any]]
"""Cuts a batch in two: batch → (first half, second half)."""

_COUPLED = (torch.nn.modules.batchnorm._BatchNorm,)  # noqa: SLF001 (the base of all of them)


def halves(batch: Any) -> tuple[Any, Any]:
    """Cut a batch in two along its rows.

    Args:
        batch: A tensor, or a dict, tuple or list of tensors, with the rows in dimension 0.
            Anything in it that is no tensor of that many rows goes into both halves.

    Returns:
        Two batches of the same kind, which share memory with the first.

    Raises:
        UpdateError: If it holds a single row, or no tensor of rows.

    Example:
        >>> first, second = halves({"x": torch.arange(5), "scale": 2.0})
        >>> first["x"].tolist(), second["x"].tolist(), second["scale"]
        ([0, 1], [2, 3, 4], 2.0)
    """
    rows = num_rows(batch)
    if rows is None:
        raise UpdateError(
            f"a batch of type {type(batch).__name__} cannot be split: expected a tensor, or a dict "
            "or tuple of tensors with the rows in dimension 0. Pass split= for any other kind."
        )
    if rows < 2:
        raise UpdateError("a batch of a single row cannot be split.")
    middle = rows // 2
    return _rows_of(batch, rows, slice(0, middle)), _rows_of(batch, rows, slice(middle, rows))


def num_rows(batch: Any) -> int | None:
    """Return the size of dimension 0 that the batch's tensors share; None if there is none.

    Example:
        >>> num_rows((torch.zeros(3, 4), torch.zeros(3))), num_rows("text")
        (3, None)
    """
    sizes = {tensor.shape[0] for tensor in tensors_of(batch) if tensor.ndim}
    return min(sizes) if len(sizes) == 1 else None


def tensors_of(batch: Any) -> list[torch.Tensor]:
    """Return the tensors of a batch, in their sequence."""
    if isinstance(batch, torch.Tensor):
        return [batch]
    if isinstance(batch, Mapping):
        return [tensor for value in batch.values() for tensor in tensors_of(value)]
    if isinstance(batch, tuple | list):
        return [tensor for value in batch for tensor in tensors_of(value)]
    return []


def refuse_coupled_rows(model: torch.nn.Module) -> None:
    """Raise if a split would change the model's step, not only its memory.

    Raises:
        UpdateError: Naming a batch normalisation that is training: it sees other statistics
            in half a batch.
    """
    for name, module in model.named_modules():
        if isinstance(module, _COUPLED) and module.training:
            raise UpdateError(
                f"out of memory, and the batch cannot be split: {name or 'the model'} is a "
                f"{type(module).__name__} in training, whose statistics would change. Lower the "
                "budget, or replace it (GroupNorm, LayerNorm), or put it into eval()."
            )


def _rows_of(batch: Any, rows: int, part: slice) -> Any:
    if isinstance(batch, torch.Tensor):
        return batch[part] if batch.ndim and batch.shape[0] == rows else batch
    if isinstance(batch, Mapping):
        return {name: _rows_of(value, rows, part) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_rows_of(value, rows, part) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(_rows_of(value, rows, part) for value in batch)
    return batch
