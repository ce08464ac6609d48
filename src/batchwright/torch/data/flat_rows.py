"""Samples of a batch that lie in flat arrays: gathered at once, by the collators."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from batchwright.typing import Field, IntArray

FlatArray: TypeAlias = npt.NDArray[Any]
"""[total]: the values of all samples, one sample after the other."""


@dataclass(frozen=True, eq=False)
class FlatRows(Sequence[Tensor]):
    """The rows of a field, each a part of one flat array; as tensors, integers are int64.

    Args:
        tokens: [total].
        starts: int64[rows], where each row begins.
        lengths: int64[rows].
    """

    tokens: FlatArray
    starts: IntArray
    lengths: IntArray

    ndim = 1

    @property
    def shape(self) -> tuple[int]:
        """That of the concatenated rows."""
        return (int(self.lengths.sum()),)

    @property
    def dtype(self) -> torch.dtype:
        """The type that the rows have as tensors."""
        return _type(self.tokens.dtype)

    def __len__(self) -> int:
        return self.lengths.size

    def __getitem__(self, row: Any) -> Any:
        start = self.starts[row]
        return _tensor(self.tokens[start : start + self.lengths[row]])

    def cut(self, limit: int) -> "FlatRows":
        """Cut longer rows to a limit."""
        return FlatRows(self.tokens, self.starts, np.minimum(self.lengths, limit))

    def flat(self) -> Tensor:
        """Concatenate the rows: [total]. A slice for each of them, O(rows) in Python."""
        bounds = zip(self.starts.tolist(), (self.starts + self.lengths).tolist(), strict=True)
        parts = [self.tokens[start:stop] for start, stop in bounds]
        return _tensor(np.concatenate(parts) if parts else self.tokens[:0])

    def padded(self, width: int, pad: float, dtype: torch.dtype, *, left: bool) -> Tensor:
        """Lay the rows out in a tensor [rows, width], with padding on the right or left."""
        out = np.empty((self.lengths.size, width), _numpy_type(dtype))
        made = torch.from_numpy(out)
        if left:  # seen from the right end, it is as on the right
            out = out[:, ::-1]
        reach = min(width, self.tokens.size)
        out[:, :reach] = self._windows(reach, left=left)
        shortest = int(self.lengths.min())
        if shortest < width:
            is_padding = np.arange(shortest, width) >= self.lengths[:, None]
            np.copyto(out[:, shortest:], pad, where=is_padding, casting="unsafe")
        return made

    def _windows(self, width: int, *, left: bool) -> FlatArray:
        """Return [rows, width]: from each row's first token on, or from its last one backwards."""
        tokens, begins = self.tokens, self.starts
        if left:
            begins = begins + self.lengths - width
        # A row of the view begins at each token: so rows are copied whole, not token by token.
        most = tokens.size - width
        view: FlatArray = np.ndarray((most + 1, width), tokens.dtype, tokens, 0, tokens.strides * 2)
        if begins.min() >= 0 if left else begins.max() <= most:
            rows = view[begins]
        else:  # some are at an end of the array
            rows = view[begins.clip(0, most)]
            for row in ((begins < 0) | (begins > most)).nonzero()[0]:
                start, length = self.starts[row], self.lengths[row]
                place = slice(width - length, None) if left else slice(length)
                rows[row, place] = tokens[start : start + length]
        return rows[:, ::-1] if left else rows

    def __reduce__(self) -> tuple[Any, ...]:  # without the tokens of other samples
        starts = np.cumsum(self.lengths) - self.lengths
        tokens = np.concatenate([self.tokens[:0], *map(self._part, range(len(self)))])
        return FlatRows, (tokens, starts, self.lengths)

    def _part(self, row: int) -> FlatArray:
        start = self.starts[row]
        return self.tokens[start : start + self.lengths[row]]


@dataclass(frozen=True, eq=False)
class FlatBatch(Sequence[dict[str, Field]]):
    """The samples of a batch as `FlatTokens` fetches them; each is made when it is asked for.

    Args:
        fields: Name → rows, all of the same lengths.
        columns: Name → one number a sample, [rows].
    """

    fields: Mapping[str | int, FlatRows]
    columns: Mapping[str | int, FlatArray]

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[each] for each in range(len(self))[row]]
        if isinstance(row, str):
            raise TypeError(_is_no_list(row))
        sample = {name: rows[row] for name, rows in self.fields.items()}
        return sample | {name: values[row] for name, values in self.columns.items()}

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(_is_no_list(name))


def _is_no_list(asked: str) -> str:
    return (
        f"a FlatBatch is a sequence of samples, and was asked for {asked!r}. For a collator that "
        "takes lists only: collate_fn=lambda batch: collate(list(batch))."
    )


@cache
def _type(kind: np.dtype[Any]) -> torch.dtype:
    return _tensor(np.empty(0, kind)).dtype


@cache
def _numpy_type(kind: torch.dtype) -> np.dtype[Any]:
    found: np.dtype[Any] = torch.empty(0, dtype=kind).numpy().dtype
    return found


def _tensor(values: FlatArray) -> Tensor:
    """Copy values into a tensor: integers as int64, others of their type."""
    kind = values.dtype.newbyteorder("=")
    return torch.from_numpy(values.astype(np.int64 if kind.kind in "iu" else kind))
