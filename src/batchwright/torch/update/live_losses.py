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

    Ranks exchange what they buffer by one gather, and record the same losses in the same order:
    their tables stay equal, bit for bit, and so do the plans that are made from them.

    `record` may be called inside a loss function that `Update.backward` runs: losses count
    once the update is made, and ranks exchange at its end. Those of passes that check the loss,
    measure a precision, or ran out of memory are dropped. Outside of updates every rank has to
    call `record` equally often.

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

    def __init__(
        self, table: LossTable, *, every: int = 16, group: distributed.ProcessGroup | None = None
    ) -> None:
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
        """Record float[m] losses of int[m] samples; nothing waits for the device until `sync`.

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
        indices = np.concatenate([np.empty(0, dtype=np.int64), *self._indices])
        losses = torch.cat(self._losses).cpu().numpy() if self._losses else np.empty(0, np.float32)
        self._batches, self._indices, self._losses = 0, [], []
        if distributed.is_available() and distributed.is_initialized():
            everyone: list[Any] = [None] * distributed.get_world_size(self._group)
            distributed.all_gather_object(everyone, (indices, losses), group=self._group)
            indices, losses = (np.concatenate(parts) for parts in zip(*everyone, strict=True))
        self.table.pending = 0
        self.table.record(indices, losses)

    def _add(self, members: IntArray, values: torch.Tensor) -> None:
        self._indices.append(members)
        self._losses.append(values)
        self.table.pending = self.pending
