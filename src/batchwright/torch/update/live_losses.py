"""Live losses of all ranks in one table, the same on each."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed

from batchwright._records import keep_back
from batchwright.errors import LengthsError
from batchwright.order import LossTable
from batchwright.typing import IntArray


class LiveLosses:
    """Collects losses while training, and shares them among ranks every so many batches.

    Each rank buffers what it sees. Then all ranks exchange their buffers by one gather, and
    record the same losses in the same order: their tables stay equal, bit for bit, and so do
    the plans that are made from them.

    `record` may be called inside a loss function that `Update.backward` runs: losses count
    once the update is made. Those of passes that check the loss, measure a precision, or ran out
    of memory are dropped, and ranks exchange at the end of an update, at the same time. Outside
    of updates every rank has to call `record` equally often.

    Call `sync` at the end of an epoch; the next one does not begin before.

    Args:
        table: The table of this rank.
        every: Batches between exchanges.
        group: The processes. None: all. Without `torch.distributed`, this one.

    Example:
        >>> table = LossTable(4)
        >>> live = LiveLosses(table, every=2)
        >>> live.record([0, 1], torch.tensor([0.5, 2.0]))
        >>> table.losses.tolist(), live.pending
        ([nan, nan, nan, nan], 2)
        >>> live.record([2], torch.tensor([1.0]))
        >>> table.losses.tolist()
        [0.5, 2.0, 1.0, nan]
    """

    def __init__(self, table: LossTable, *, every: int = 16, group: Any = None) -> None:
        self.table = table
        self.every = every
        self._group = group
        self._batches = 0
        self._indices: list[IntArray] = []
        self._losses: list[torch.Tensor] = []

    @property
    def pending(self) -> int:
        """Losses that are buffered on this rank."""
        return sum(each.size for each in self._indices)

    def due_after(self, batches: int) -> bool:
        """Return whether an exchange is due after so many more batches."""
        return self._batches + batches >= self.every

    def record(self, indices: npt.ArrayLike | torch.Tensor, losses: torch.Tensor) -> None:
        """Record the losses of a batch; nothing waits for the device until they are shared.

        Args:
            indices: int[m], the samples.
            losses: float[m], their losses.

        Raises:
            LengthsError: If the two differ in number.
        """
        samples = indices.cpu().numpy() if isinstance(indices, torch.Tensor) else indices
        members = np.array(samples, dtype=np.int64).ravel()
        values = losses.detach().flatten().float()
        if members.size != values.numel():
            raise LengthsError(f"{members.size} indices for {values.numel()} losses.")
        if keep_back(self, lambda: self._add(members, values)):
            return
        self._add(members, values)
        self.count(1)
        if self.due_after(0):
            self.sync()

    def count(self, batches: int) -> None:
        """Count batches whose losses were recorded, towards the next exchange."""
        self._batches += batches

    def sync(self) -> None:
        """Exchange what is buffered, and record it: on every rank, at the same time."""
        indices = np.concatenate(self._indices) if self._indices else np.empty(0, dtype=np.int64)
        losses = torch.cat(self._losses).cpu() if self._losses else torch.empty(0)
        self._batches, self._indices, self._losses = 0, [], []
        if distributed.is_available() and distributed.is_initialized():
            indices, losses = self._gathered(torch.from_numpy(indices), losses)
        self.table.pending = 0
        self.table.record(indices, losses.numpy())

    def _add(self, members: IntArray, values: torch.Tensor) -> None:
        self._indices.append(members)
        self._losses.append(values)
        self.table.pending = self.pending

    def _gathered(
        self, indices: torch.Tensor, losses: torch.Tensor
    ) -> tuple[IntArray, torch.Tensor]:
        """Return the entries of all ranks, rank after rank."""
        on_cpu = distributed.get_backend(self._group) == "gloo"
        device = torch.device("cpu") if on_cpu else torch.accelerator.current_accelerator()
        sizes = torch.zeros(
            distributed.get_world_size(self._group), dtype=torch.int64, device=device
        )
        sizes[distributed.get_rank(self._group)] = indices.numel()
        distributed.all_reduce(sizes, group=self._group)
        counts = sizes.tolist()
        # Indices and losses in one message; the losses' bits, so that nothing is rounded.
        sent = torch.zeros(2, max(counts), dtype=torch.int64, device=device)
        sent[0, : indices.numel()] = indices.to(sent.device)
        sent[1, : indices.numel()] = losses.view(torch.int32).long().to(sent.device)
        received = [torch.empty_like(sent) for _ in counts]
        if max(counts):
            distributed.all_gather(received, sent, group=self._group)
        pairs = zip(received, counts, strict=True)
        parts = torch.cat([part[:, :count].cpu() for part, count in pairs], dim=1)
        return parts[0].numpy(), parts[1].int().view(torch.float32)
