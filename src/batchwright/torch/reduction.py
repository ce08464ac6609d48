"""Gradients summed over ranks, with all memory taken before the first is sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import distributed

from batchwright.errors import UpdateError
from batchwright.torch.ranks import Ranks

BUCKET = 25 << 20
"""Bytes reduced at once: as many as DistributedDataParallel's."""


@dataclass(frozen=True, eq=False)
class _Bucket:
    """Gradients that are sent together.

    Attributes:
        gradients: Of one type and device.
        flat: Where they are laid one after the other. None: a single one, sent as it lies.
    """

    gradients: list[torch.Tensor]
    flat: torch.Tensor | None

    def run(self, ranks: Ranks) -> None:
        if self.flat is None:
            distributed.all_reduce(self.gradients[0], group=ranks.group)
            return
        parts = torch.split(self.flat, [gradient.numel() for gradient in self.gradients])
        for gradient, part in zip(self.gradients, parts, strict=True):
            part.view(gradient.shape).copy_(gradient)
        distributed.all_reduce(self.flat, group=ranks.group)
        for gradient, part in zip(self.gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))


@dataclass(frozen=True, eq=False)
class Reduction:
    """A sum of gradients over ranks that is ready to run: nothing is left to allocate.

    A parameter that has a gradient on some ranks counts as zero on the others; one that has none
    anywhere is left without, so that optimizers pass it over.
    """

    dense: list[_Bucket]
    sparse: list[torch.nn.Parameter]

    @staticmethod
    def held(parameters: Sequence[torch.nn.Parameter]) -> list[float]:
        """Return which parameters have a gradient, and which a sparse one, to be summed."""
        gradients = [parameter.grad for parameter in parameters]
        return [
            *(float(each is not None) for each in gradients),
            *(float(each is not None and each.is_sparse) for each in gradients),
        ]

    @classmethod
    def prepared(cls, parameters: Sequence[torch.nn.Parameter], held: Sequence[float]) -> Self:
        """Take the memory that the sum needs.

        Args:
            parameters: In the same sequence on every rank.
            held: The sums of `held` over all ranks.

        Raises:
            UpdateError: If a gradient is sparse on one rank and dense on another.
        """
        sparse, dense = [], []
        count = len(parameters)
        for parameter, ranks, of_them_sparse in zip(
            parameters, held[:count], held[count:], strict=True
        ):
            if of_them_sparse not in {0, ranks}:
                raise UpdateError(
                    f"a gradient of shape {list(parameter.shape)} is sparse on some ranks and "
                    "dense on others: they cannot be summed. Make the embedding with sparse=False."
                )
            if not ranks:
                continue
            if of_them_sparse:
                gradient = parameter.grad
                parameter.grad = _no_rows(parameter) if gradient is None else gradient.coalesce()
                sparse.append(parameter)
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dense.append(parameter.grad)
        return cls(list(_buckets(dense)), sparse)

    def run(self, ranks: Ranks) -> None:
        """Sum the gradients.

        Raises:
            UpdateError: On all ranks, if there are sparse ones and the backend cannot sum them.
        """
        if self.sparse and distributed.get_backend(ranks.group) != "gloo":
            raise UpdateError(
                "sparse gradients can be summed over ranks by the gloo backend only. Make the "
                "embedding with sparse=False."
            )
        for bucket in self.dense:
            bucket.run(ranks)
        for parameter in self.sparse:
            distributed.all_reduce(parameter.grad, group=ranks.group)


def _no_rows(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return a sparse gradient without any row, as embeddings have them."""
    rows = parameter.new_zeros(0, *parameter.shape[1:])
    nowhere = torch.zeros(1, 0, dtype=torch.int64, device=parameter.device)
    return torch.sparse_coo_tensor(
        nowhere, rows, parameter.shape, is_coalesced=True, check_invariants=False
    )


def _buckets(gradients: Sequence[torch.Tensor]) -> Iterator[_Bucket]:
    """Group gradients of one type and device up to `BUCKET` bytes."""
    waiting: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    sizes: dict[tuple[torch.dtype, torch.device], int] = {}
    full = []
    for gradient in gradients:
        key = (gradient.dtype, gradient.device)
        waiting.setdefault(key, []).append(gradient)
        sizes[key] = sizes.get(key, 0) + gradient.nbytes
        if sizes[key] >= BUCKET:
            del sizes[key]
            full.append(waiting.pop(key))
    buffers: dict[tuple[torch.dtype, torch.device], torch.Tensor] = {}
    for bucket in sorted([*full, *waiting.values()], key=_numel, reverse=True):
        if len(bucket) == 1 and bucket[0].is_contiguous():
            yield _Bucket(bucket, None)
            continue
        key = (bucket[0].dtype, bucket[0].device)
        if key not in buffers:  # the largest comes first: one buffer serves all
            buffers[key] = torch.empty(_numel(bucket), dtype=key[0], device=key[1])
        yield _Bucket(bucket, buffers[key][: _numel(bucket)])


def _numel(gradients: Sequence[torch.Tensor]) -> int:
    return sum(gradient.numel() for gradient in gradients)
