"""A data set of tokens that lie one sample after the other, in memory or in mapped files."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from torch.utils.data import Dataset

from batchwright.errors import ColumnNotFoundError, LengthsError, PlanError
from batchwright.torch.data.flat_parts import (
    Edges,
    MappedArray,
    Part,
    chunks_of,
    joined,
    part_of_arrow,
    parts_of_files,
)
from batchwright.torch.data.flat_rows import FlatArray, FlatBatch
from batchwright.torch.data.samples import IntoPiece, Piece
from batchwright.typing import Field, IntArray, LengthArray

_Recipe: TypeAlias = tuple[Callable[..., "FlatTokens"], tuple[Any, ...], dict[str, Any]]
"""What makes a data set again: a function, its arguments and options."""

_BLOCK = 1 << 20


class FlatTokens(Dataset[dict[str, Field]]):
    """Samples out of flat arrays of tokens, read where they lie: memory-mapped files, or Arrow.

    A sample is a dict of tensors, of int64 where tokens are integers. A batch is fetched as a
    whole: `PadCollator` and `PackCollator` gather it at once, with the result that they give for
    its samples one by one. Other collators get a sequence of samples.

    Memory maps are pickled by the file's path, so workers of any kind read the same pages. Pieces
    of samples, as a plan with ``oversize="split"`` asks for, need no `PieceDataset`.

    Args:
        tokens: [total], the tokens of all samples: an array, a memory map, a tensor, an Arrow
            array. It becomes the field `input_ids`. Or a mapping of several, one entry a token in
            each: ``{"input_ids": tokens, "labels": labels}``.
        offsets: integer[n + 1]. Sample i is ``tokens[offsets[i]:offsets[i + 1]]``.
        labels: Add a field `labels`, the tokens themselves, as for causal language models.
        columns: Name → [n], one number a sample, such as a weight.

    Raises:
        LengthsError: If arrays do not fit one another; when read, if a sample's offsets are
            damaged.
        ColumnNotFoundError: If there are no tokens to make labels of, or labels already.

    Example:
        >>> from batchwright.torch import PadCollator
        >>> dataset = FlatTokens(np.array([5, 6, 7, 8, 9], np.uint16), [0, 2, 5])
        >>> dataset[1], dataset.lengths
        ({'input_ids': tensor([7, 8, 9])}, array([2, 3], dtype=int32))
        >>> PadCollator()(dataset.__getitems__([1, 0]))
        {'input_ids': tensor([[7, 8, 9],
                [5, 6, 0]])}
    """

    takes_pieces = True

    def __init__(
        self,
        tokens: Field,
        offsets: Field,
        *,
        labels: bool = False,
        columns: Mapping[str, Field] | None = None,
    ) -> None:
        fields = dict(tokens) if isinstance(tokens, Mapping) else {"input_ids": tokens}
        edges = np.asarray(offsets)
        if edges.ndim != 1 or not edges.size or edges.dtype.kind not in "iu":
            raise LengthsError(
                f"offsets are {edges.dtype}{list(edges.shape)}; expected integers, [n + 1]: where "
                "each sample begins, and where the last one ends."
            )
        numbers = {name: np.asarray(values) for name, values in (columns or {}).items()}
        chunks = {name: chunks_of(values, name) for name, values in fields.items()}
        self._keep(Part(chunks, Edges(edges), numbers), labels=labels)
        options = {"labels": labels, "columns": dict(columns or {})}
        self._made_by: _Recipe = type(self), (fields, offsets), options

    @classmethod
    def from_arrow(
        cls, data: Field, *, fields: Sequence[str] | None = None, labels: bool = False
    ) -> "FlatTokens":
        """Take samples from lists of Arrow, where possible without a copy.

        Args:
            data: An array or chunked array of lists; a table or record batch; or a
                `datasets.Dataset` as selected, shuffled or filtered, whose format is ignored.
            fields: Columns to take: lists of numbers, as long as one another, and numbers. None:
                all that are.
            labels: As above.

        Raises:
            ColumnNotFoundError: If there is no such column, or none of lists.
            LengthsError: If a value is null, lists differ in length, or hold no numbers.
        """
        self = cls.__new__(cls)
        fields = [fields] if isinstance(fields, str) else fields
        if hasattr(data, "with_format"):
            data = data.with_format(None)  # a transform may not be picklable
        rows = getattr(data, "_indices", None)
        rows = None if rows is None else rows.column(0).to_numpy().astype(np.int64)
        self._keep(part_of_arrow(data, fields, rows), labels=labels, rows=rows)
        self._made_by = cls.from_arrow, (data,), {"fields": fields, "labels": labels}
        return self

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        fields: Sequence[str] | None = None,
        labels: bool = False,
    ) -> "FlatTokens":
        """Open files that say where samples are, memory-mapped.

        Args:
            path: Megatron's `.idx` or `.bin` (samples are its sequences), datatrove's `.ds` or
                `.ds.index`, an Arrow file, a directory written by `datasets.save_to_disk`, or a
                directory or pattern of files of one kind: then in the order of their names, which
                is that of `read_lengths`.
            fields: Of Arrow files, as above.
            labels: As above.

        Raises:
            SourceError: If a file is missing, truncated or damaged, or of another kind.
        """
        self = cls.__new__(cls)
        path = Path(path).absolute()  # workers may be elsewhere
        fields = [fields] if isinstance(fields, str) else fields
        self._keep(joined(parts_of_files(path, fields)), labels=labels)
        self._made_by = cls.open, (path,), {"fields": fields, "labels": labels}
        return self

    def _keep(self, part: Part, *, labels: bool, rows: IntArray | None = None) -> None:
        """Check what belongs together."""
        fields = dict(part.fields)
        if not fields or (labels and ("labels" in fields or "input_ids" not in fields)):
            raise ColumnNotFoundError(
                f"FlatTokens(labels={labels}) got the fields {list(fields)}; expected 'input_ids'"
                f"{', and no labels, which are to be made of them' if labels else ''}."
            )
        if labels:
            fields["labels"] = fields["input_ids"]
        self._fields, self._columns, self._edges = fields, part.columns, part.edges
        self._rows = rows  # where each sample is stored; None: at its own index
        name, first = next(iter(fields.items()))
        for other, chunks in fields.items():
            if len(chunks) != len(first):
                raise LengthsError(
                    f"{other!r} has {len(chunks):,} entries and {name!r} {len(first):,}; "
                    "expected as many."
                )
        stored = len(part.edges)
        for other, values in part.columns.items():
            if other in fields or values.shape != (stored,) or values.dtype.kind not in "iufb":
                raise LengthsError(
                    f"columns[{other!r}] is {values.dtype}{list(values.shape)}; expected one "
                    f"number for each of {stored:,} samples, under a name of its own."
                )
        self._total, self._size = len(first), stored if rows is None else rows.size
        if self._size:
            self._bounds(np.array([0, self._size - 1]))

    def __len__(self) -> int:
        return self._size

    @cached_property
    def lengths(self) -> LengthArray:
        """The tokens of each sample, for a planner: int32[n], or int64[n] where one needs it."""
        lengths: LengthArray = np.empty(self._size, np.int32)
        for begin in range(0, self._size, _BLOCK):
            samples = np.arange(begin, min(begin + _BLOCK, self._size))
            starts, stops = self._bounds(samples)
            sizes = stops - starts
            if sizes.max() > np.iinfo(lengths.dtype).max:
                lengths = lengths.astype(np.int64)
            lengths[samples] = sizes
        return lengths

    def __getitem__(self, index: IntoPiece) -> dict[str, Field]:
        """Return a sample, or a piece of it."""
        sample: dict[str, Field] = self.__getitems__([index])[0]
        return sample

    def __getitems__(self, indices: Sequence[IntoPiece]) -> FlatBatch:
        """Return a batch of samples, or pieces; nothing is read of the tokens yet."""
        pieces: list[Piece] = []
        try:
            samples = np.asarray(indices)
        except ValueError:  # pieces and whole samples
            samples = np.empty((0, 0))
        if samples.ndim == 2 or samples.dtype == object:
            whole = (each if isinstance(each, tuple) else (each, 0, None) for each in indices)
            pieces = [Piece(*each) for each in whole]
            samples = np.array([each.sample for each in pieces])
        samples = self._numbers(samples)
        starts, stops = self._bounds(samples)
        if pieces:
            starts, stops = _cut(pieces, starts, stops)
        lengths = stops - starts
        stored = samples if self._rows is None else self._rows[samples]
        return FlatBatch(
            {name: chunks.rows(starts, lengths) for name, chunks in self._fields.items()},
            {name: values[stored] for name, values in self._columns.items()},
        )

    def _numbers(self, given: FlatArray) -> IntArray:
        """Check indices of samples; those below 0 count from the end."""
        if given.dtype.kind not in "iu" or given.ndim != 1:
            if given.shape != (0,):
                raise TypeError(f"indices are {given.dtype}{list(given.shape)}, not integers [m].")
            given = given.astype(np.int64)
        samples = given.astype(np.int64, copy=False)
        if samples.view(np.uint64).max(initial=0) >= self._size:  # below 0 it is huge
            samples = np.where(samples < 0, samples + self._size, samples)
            outside = (samples < 0) | (samples >= self._size)
            if outside.any():
                raise IndexError(f"sample {given[outside][0]} of {self._size:,}.")
        return samples

    def _bounds(self, samples: IntArray) -> tuple[IntArray, IntArray]:
        """Return where samples begin and end; raise unless that is inside of the array."""
        rows = samples if self._rows is None else self._rows[samples]
        starts, stops = self._edges.at(rows)
        total = self._total
        outside = starts | (stops - starts) | (total - stops)  # below 0 if one of them is
        if outside.min(initial=0) < 0:
            wrong = int(np.argmax(outside < 0))
            raise LengthsError(
                f"offsets of sample {samples[wrong]:,} go from {starts[wrong]:,} to "
                f"{stops[wrong]:,}, of {total:,} tokens: they are damaged, of other tokens, or "
                "lengths. Offsets are np.cumsum([0, *lengths])."
            )
        return starts, stops

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, tuple(map(_packed, self._made_by))


def _made(function: Callable[..., FlatTokens], arguments: Any, options: Any) -> FlatTokens:
    """Make a data set again, out of the files that were mapped."""
    return function(*_opened(arguments), **_opened(options))


def _packed(value: Any, change: Callable[[Any], Any] = MappedArray.of) -> Any:
    """Put the places of mapped arrays in their stead, in dicts and tuples."""
    if isinstance(value, dict):
        return {name: _packed(each, change) for name, each in value.items()}
    return tuple(_packed(each, change) for each in value) if type(value) is tuple else change(value)


def _opened(value: Any) -> Any:
    return _packed(value, lambda each: each.open() if isinstance(each, MappedArray) else each)


def _cut(pieces: Sequence[Piece], starts: IntArray, stops: IntArray) -> tuple[IntArray, IntArray]:
    """Return where pieces of samples begin and end."""
    lengths = stops - starts
    begins = np.array([each.start for each in pieces], dtype=np.int64)
    ends = np.array([2**62 if each.stop is None else each.stop for each in pieces], dtype=np.int64)
    beyond = (begins < 0) | ((begins >= lengths) & (begins > 0))
    if beyond.any():
        row = int(np.argmax(beyond))
        raise PlanError(
            f"sample {pieces[row].sample} has {lengths[row]} tokens, the piece begins at "
            f"{begins[row]}. Plan with the lengths of this data."
        )
    return starts + begins, starts + np.minimum(ends, lengths)
