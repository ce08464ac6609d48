"""What the ranks of one update tell one another: weight, failure, gradients, loss."""

from collections.abc import Iterable, Sequence

import torch
from torch import distributed
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

_BUCKET = 25 << 20  # bytes reduced at once: as DistributedDataParallel does


def share_gradients(model: torch.nn.Module) -> bool:
    """Tell whether ranks hold copies of this model whose gradients have to be summed."""
    return isinstance(model, DistributedDataParallel) and distributed.get_world_size() > 1


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Return the module inside DistributedDataParallel; any other is returned as it is."""
    if not isinstance(model, DistributedDataParallel):
        return model
    inner: torch.nn.Module = model.module
    return inner


def is_sharded(model: torch.nn.Module) -> bool:
    """Tell whether ranks hold shards of the parameters, and backward reduces gradients itself."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def summed(values: Sequence[float], device: torch.device) -> list[float]:
    """Sum some numbers over all ranks: one small all-reduce.

    Args:
        values: The numbers of this rank.
        device: Where the ranks communicate.

    Returns:
        The sums, the same on every rank.
    """
    tensor = torch.tensor(values, dtype=torch.float64, device=_reducible(device))
    distributed.all_reduce(tensor)
    return [float(value) for value in tensor.tolist()]


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sum gradients over all ranks, in buckets.

    A parameter that has no gradient on this rank counts as zero: another rank may have one.

    Args:
        parameters: The parameters, in the same sequence on every rank.
    """
    buckets: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        key = (parameter.grad.dtype, parameter.grad.device)
        bucket = buckets.setdefault(key, [])
        bucket.append(parameter.grad)
        if sum(grad.nbytes for grad in bucket) >= _BUCKET:
            _reduce(buckets.pop(key))
    for bucket in buckets.values():
        _reduce(bucket)


def _reduce(gradients: list[torch.Tensor]) -> None:
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def _reducible(device: torch.device) -> torch.device:
    """NCCL reduces on the GPU only, gloo on the processor."""
    return device if distributed.get_backend() == "nccl" else torch.device("cpu")
