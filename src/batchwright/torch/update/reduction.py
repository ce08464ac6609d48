"""Gradients summed over ranks, with all memory taken before the first message is sent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import distributed

from batchwright.errors import UpdateError
from batchwright.torch.update.ranks import Ranks

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

    @property
    def sent(self) -> torch.Tensor:
        """What ranks sum."""
        return self.gradients[0] if self.flat is None else self.flat

    def fill(self) -> None:
        """Lay the gradients into the message."""
        for gradient, part in self._parts():
            part.copy_(gradient)

    def empty(self) -> None:
        """Take the gradients out of the message."""
        for gradient, part in self._parts():
            gradient.copy_(part)

    def _parts(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        if self.flat is None:
            return []
        parts = torch.split(self.flat, [gradient.numel() for gradient in self.gradients])
        return [(g, part.view(g.shape)) for g, part in zip(self.gradients, parts, strict=True)]


@dataclass(frozen=True, eq=False)
class Reduction:
    """A sum of gradients over ranks that is ready to run: nothing is left to allocate.

    A parameter that has a gradient on some ranks counts as zero on the others; one that has none
    anywhere is left without, so that optimizers pass it over. Buffers are rank 0's afterwards.

    Attributes:
        dense: Messages of dense gradients.
        sparse: Parameters with sparse gradients.
        buffers: Buffers, and how they are sent.
    """

    dense: list[_Bucket]
    sparse: list[torch.nn.Parameter]
    buffers: list[tuple[torch.Tensor, torch.Tensor]]

    @staticmethod
    def held(parameters: Sequence[torch.nn.Parameter]) -> list[float]:
        """Return which parameters have a gradient, and which a sparse one, to be summed."""
        gradients = [parameter.grad for parameter in parameters]
        return [
            *(float(each is not None) for each in gradients),
            *(float(each is not None and each.is_sparse) for each in gradients),
        ]

    @classmethod
    def prepared(
        cls,
        parameters: Sequence[torch.nn.Parameter],
        held: Sequence[float],
        buffers: Sequence[torch.Tensor] = (),
    ) -> Self:
        """Take the memory that the sum needs.

        Args:
            parameters: In the same sequence on every rank.
            held: The sums of `held` over all ranks.
            buffers: In the same sequence on every rank.

        Raises:
            UpdateError: If a gradient is sparse on one rank and dense on another.
        """
        sparse, dense = [], []
        count = len(parameters)
        for parameter, ranks, sparse_ranks in zip(
            parameters, held[:count], held[count:], strict=True
        ):
            if sparse_ranks not in {0, ranks}:
                raise UpdateError(
                    f"a gradient of shape {list(parameter.shape)} is sparse on some ranks and "
                    "dense on others: they cannot be summed. Make the embedding with sparse=False."
                )
            gradient = parameter.grad
            if sparse_ranks:
                parameter.grad = _no_rows(parameter) if gradient is None else gradient.coalesce()
                sparse.append(parameter)
            elif ranks:
                parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient
                dense.append(parameter.grad)
        sent = [(each, each.detach().contiguous()) for each in buffers]
        return cls(list(_buckets(dense)), sparse, sent)

    def run(self, ranks: Ranks) -> BaseException | None:
        """Sum the gradients, and share the buffers.

        Every message is sent whatever goes wrong on this rank: others wait for it. What could not
        be filled in is sent as NaN, so that no rank steps.

        Returns:
            What went wrong on this rank.

        Raises:
            UpdateError: On all ranks, if gradients are sparse and the backend cannot sum those.
        """
        if self.sparse and distributed.get_backend(ranks.group) != "gloo":
            raise UpdateError(
                "sparse gradients can be summed over ranks by the gloo backend only. Make the "
                "embedding with sparse=False."
            )
        problem: BaseException | None = None
        for bucket in self.dense:
            try:
                bucket.fill()
            except BaseException as error:  # noqa: BLE001 (raised once all is sent)
                problem = error
                bucket.sent.fill_(math.nan)
            distributed.all_reduce(bucket.sent, group=ranks.group)
            try:
                bucket.empty()
            except BaseException as error:  # noqa: BLE001 (raised once all is sent)
                problem = error
        for parameter in self.sparse:
            distributed.all_reduce(parameter.grad, group=ranks.group)
        for buffer, sent in self.buffers:
            distributed.broadcast(sent, ranks.first, group=ranks.group)
            if sent.data_ptr() != buffer.data_ptr():
                try:
                    buffer.copy_(sent)
                except BaseException as error:  # noqa: BLE001 (raised once all is sent)
                    problem = error
        return problem


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
