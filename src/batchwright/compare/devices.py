"""Where a task is trained: batches moved there, and clocks that wait for it."""

from collections.abc import Mapping
from typing import Any

import torch


def moved(batch: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on a device: a tensor, or dicts and tuples of them.

    Example:
        >>> moved({"x": torch.ones(1), "name": "a"}, torch.device("cpu"))
        {'x': tensor([1.]), 'name': 'a'}
    """
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return type(batch)({name: moved(part, device) for name, part in batch.items()})  # type: ignore[call-arg]  # a dict
    if isinstance(batch, tuple | list):
        parts = [moved(part, device) for part in batch]
        named = hasattr(batch, "_fields")
        return type(batch)(*parts) if named else type(batch)(parts)
    return batch


def settle(device: torch.device) -> None:
    """Wait until a device has done what it was given, so that a clock tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
