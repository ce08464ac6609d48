"""One row that holds several things of varying length, and where each of them lies."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from batchwright.errors import BudgetError, LengthsError
from batchwright.torch.data.fields import Name
from batchwright.torch.data.stacking import PadValue, filled
from batchwright.typing import IntArray


@dataclass(frozen=True, eq=False)
class PackedRow:
    """Where things of varying length, documents or images, lie in a row.

    Attributes:
        lengths: int64[d], tokens of each thing.
        begins: int64[d], where each begins.
        edges: int64[s + 1], where segments, things and gaps, begin and end.
        ids: int64[s], the thing of each segment; -1 for gaps.
    """

    lengths: IntArray
    begins: IntArray
    edges: IntArray
    ids: IntArray

    @staticmethod
    def of(
        lengths: IntArray, align: int, capacity: int | None, *, kind: str = "document"
    ) -> "PackedRow":
        """Lay things one behind the other.

        Args:
            lengths: int64[d], tokens of each.
            align: Each begins at a multiple of this.
            capacity: The length of the row. None: as long as it takes.
            kind: What the things are, for errors.

        Returns:
            The row.

        Raises:
            LengthsError: If one is empty.
            BudgetError: If they exceed the capacity.
        """
        if not lengths.all():
            message = (
                f"sample {int(np.argmin(lengths))} of the batch is empty: each {kind} needs at "
                "least one token. Leave it out of the lengths that are planned."
            )
            raise LengthsError(message)
        ends = np.cumsum(-(-lengths // align) * align)
        width = int(ends[-1])
        if capacity is not None and width > capacity:
            message = (
                f"{lengths.size} {kind}s take {width} tokens (align={align}), more than "
                f"capacity={capacity}. Plan with Packing({capacity}, align={align}), and with "
                "the lengths of this data."
            )
            raise BudgetError(message)
        begins = np.concatenate(([0], ends[:-1]))
        # Thing, gap, thing, gap …: gaps of nothing are left out.
        edges = np.stack((begins, begins + lengths), axis=1).ravel()
        edges = np.append(edges, width if capacity is None else capacity)
        ids = np.stack((np.arange(lengths.size), np.full(lengths.size, -1)), axis=1).ravel()
        kept = np.diff(edges) > 0
        return PackedRow(lengths, begins, np.append(edges[:-1][kept], edges[-1]), ids[kept])

    def laid_out(self, flat: Tensor, pad: PadValue, name: Name) -> Tensor:
        """Put the tokens of all things, [total, …], into their places: [1, T, …]."""
        width, total = int(self.edges[-1]), int(self.lengths.sum())
        laid_out = filled((1, width, *flat.shape[1:]), pad, flat.dtype, name)
        before = np.cumsum(self.lengths) - self.lengths
        places = np.arange(total) + np.repeat(self.begins - before, self.lengths)
        laid_out[0, torch.from_numpy(places)] = flat.to(laid_out.dtype)
        return laid_out

    def positions(self) -> Tensor:
        """Count from 0 in each segment: int64[1, T]."""
        begins = self.edges[:-1]
        counted = np.arange(self.edges[-1]) - np.repeat(begins, np.diff(self.edges))
        return torch.from_numpy(counted)[None]

    def owners(self) -> Tensor:
        """Name the thing that each token belongs to, -1 in gaps: int64[1, T]."""
        return torch.from_numpy(np.repeat(self.ids, np.diff(self.edges)))[None]

    def cu_seqlens(self) -> Tensor:
        """Return where segments begin and end, from 0 to T: int32[s + 1]."""
        return torch.from_numpy(self.edges.astype(np.int32))

    def max_seqlen(self) -> int:
        """Return the length of the longest segment."""
        return int(np.diff(self.edges).max())
