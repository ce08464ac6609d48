"""What trainers gather of a batch, where ranks have batches of different size."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


@contextlib.contextmanager
def uneven(accelerator: Any) -> Iterator[None]:
    """Let `Accelerator.gather` take tensors that have other numbers of rows on other ranks."""
    gather = accelerator.gather

    def gathered(tensor: Any) -> Any:
        if not isinstance(tensor, Tensor) or not tensor.ndim:
            return gather(tensor)
        counts = gather(torch.tensor([len(tensor)], device=tensor.device)).tolist()
        padded = tensor.new_zeros((max(counts), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor.detach()
        parts = gather(padded).split(max(counts))
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    accelerator.gather = gathered
    try:
        yield
    finally:
        del accelerator.gather
