"""Where a task is trained: batches moved there, and clocks that wait for it."""

from typing import Any

import torch

from batchwright.torch.data.containers import mapped


def moved(batch: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on a device: a tensor, or dicts, tuples and dataclasses.

    Example:
        >>> moved({"x": torch.ones(1), "name": "a"}, torch.device("cpu"))
        {'x': tensor([1.]), 'name': 'a'}
    """
    return mapped(batch, lambda tensor: tensor.to(device, non_blocking=True))


def settle(device: torch.device) -> None:
    """Wait until a device has done what it was given, so that a clock tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
