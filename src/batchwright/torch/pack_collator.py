"""Batches as one row without padding: the documents of a packed plan, one behind the other."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from batchwright.errors import BudgetError, ColumnNotFoundError, LengthsError
from batchwright.torch.fields import columns_of, flattened, is_sequence
from batchwright.torch.pad_collator import LABEL_IGNORE, PadValue
from batchwright.typing import IntArray


@dataclass(frozen=True)
class PackCollator:
    """Lays the documents of a batch one behind the other, and says where each begins.

    The names are those of transformers' `DataCollatorWithFlattening`, so that a batch goes into
    its models as it is. T is the length of the row:

    - `input_ids`: int64[1, T].
    - `position_ids`: int64[1, T], from 0 in each document.
    - `labels`: int64[1, T]; the first token of each document is ignored, as nothing inside the
      document predicts it.
    - `cu_seq_lens_q`, `cu_seq_lens_k`: int32[s + 1], where segments begin and end, from 0 to T.
    - `max_length_q`, `max_length_k`: the longest segment, int.
    - `document_ids`: int64[1, T], 0 for the first document; for `document_mask`.

    Without alignment and capacity, segments are the documents. Gaps left by them hold padding
    that belongs to no document: it has document id -1, is ignored in the labels, and is a
    segment of its own, with positions from 0. So no token of a document ever attends to it,
    whatever the attention reads: segments, positions or document ids.

    An `attention_mask` of the samples is left out: a mask of ones makes models attend across
    documents.

    Args:
        labels: The field of the labels. Where samples do not have it, the tokens are the labels.
            None: no labels.
        label_ignore: The label of tokens that no loss is computed for.
        capacity: Fill the row up to this, for shapes that never change. None: as long as the
            documents.
        align: Documents begin at multiples of this, as in `Packing`.
        max_length: Longer documents are cut, as a plan with ``oversize="truncate"`` expects:
            ``plan.layout.max_length``.
        position_ids_start: The position of each document's first token: 0, but 2 for models that
            number positions like RoBERTa.
        pad: What gaps hold: a value for `input_ids`, or a mapping by name. Fields named in it
            are laid out like `input_ids`; others are left out.

    Returns:
        When called with the samples of a batch, dicts or single sequences of tokens: a dict.
        O(tokens).

    Raises:
        BudgetError: If a setting makes no sense; when called, if documents exceed the capacity.
        LengthsError: When called, if a field is not as long as `input_ids`, or a document
            is empty.
        ColumnNotFoundError: When called, if samples lack a field.

    Example:
        >>> batch = PackCollator()([{"input_ids": [5, 6, 7]}, {"input_ids": [8, 9]}])
        >>> batch["position_ids"].tolist(), batch["labels"].tolist()
        ([[0, 1, 2, 0, 1]], [[-100, 6, 7, -100, 9]])
        >>> batch["cu_seq_lens_q"].tolist(), batch["max_length_q"]
        ([0, 3, 5], 3)
    """

    _: KW_ONLY
    labels: str | None = "labels"
    label_ignore: int = LABEL_IGNORE
    capacity: int | None = None
    align: int = 1
    max_length: int | None = None
    position_ids_start: int = 0
    pad: PadValue | Mapping[str, PadValue] = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("capacity", "align", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                message = f"PackCollator({name}={value}): expected at least 1."
                raise BudgetError(message)

    def __call__(self, samples: Sequence[Any]) -> dict[str, Any]:
        """Collate the samples of one batch."""
        columns = columns_of(samples)
        if not isinstance(samples[0], Mapping):
            columns = {"input_ids": columns[0]} if len(columns) == 1 else columns
        if "input_ids" not in columns:
            message = f"samples have the fields {list(columns)}, expected 'input_ids'."
            raise ColumnNotFoundError(message)
        pads = self.pad if isinstance(self.pad, Mapping) else {"input_ids": self.pad}
        tokens, lengths = self._flattened(columns["input_ids"], "input_ids")
        row = _Row.of(lengths, self.align, self.capacity)
        batch: dict[str, Any] = {
            "input_ids": row.laid_out(tokens, pads.get("input_ids", 0)),
            "position_ids": torch.from_numpy(row.positions() + self.position_ids_start)[None],
        }
        if self.labels is not None:
            targets = tokens
            if self.labels in columns:
                targets = self._like(lengths, columns[self.labels], self.labels)
            labels = row.laid_out(targets, self.label_ignore)
            labels[0, row.begins] = self.label_ignore
            batch["labels"] = labels
        for name, value in pads.items():
            if name not in columns:
                message = f"PackCollator(pad=…) names {name!r}, samples have {list(columns)}."
                raise ColumnNotFoundError(message)
            if name not in {"input_ids", self.labels}:
                batch[name] = row.laid_out(self._like(lengths, columns[name], name), value)
        segments = torch.from_numpy(row.edges.astype(np.int32))
        longest = int(np.diff(row.edges).max())
        batch |= {
            "cu_seq_lens_q": segments,
            "cu_seq_lens_k": segments,
            "max_length_q": longest,
            "max_length_k": longest,
            "document_ids": torch.from_numpy(row.documents())[None],
        }
        return batch

    def _flattened(self, rows: Sequence[Any], name: str) -> tuple[Tensor, IntArray]:
        if self.max_length is not None:
            rows = [row[: self.max_length] if is_sequence(row) else row for row in rows]
        return flattened(rows, name)

    def _like(self, lengths: IntArray, rows: Sequence[Any], name: str) -> Tensor:
        flat, own = self._flattened(rows, name)
        if not np.array_equal(lengths, own):
            sample = int(np.argmax(lengths != own))
            message = (
                f"sample {sample} of the batch has {int(own[sample])} entries in {name!r} for "
                f"{int(lengths[sample])} in 'input_ids', expected as many."
            )
            raise LengthsError(message)
        return flat


@dataclass(frozen=True, eq=False)
class _Row:
    """Where documents lie in a row.

    Attributes:
        lengths: int64[d], tokens of each document.
        begins: int64[d], where each begins.
        edges: int64[s + 1], where segments, documents and gaps, begin and end.
        ids: int64[s], the document of each segment; -1 for gaps.
    """

    lengths: IntArray
    begins: IntArray
    edges: IntArray
    ids: IntArray

    @staticmethod
    def of(lengths: IntArray, align: int, capacity: int | None) -> "_Row":
        if not lengths.all():
            message = (
                f"sample {int(np.argmin(lengths))} of the batch is empty: a document needs at "
                "least one token. Leave it out of the lengths that are planned."
            )
            raise LengthsError(message)
        ends = np.cumsum(-(-lengths // align) * align)
        width = int(ends[-1])
        if capacity is not None and width > capacity:
            message = (
                f"{lengths.size} documents take {width} tokens (align={align}), more than "
                f"capacity={capacity}. Plan with Packing({capacity}, align={align}), and with "
                "the lengths of this data."
            )
            raise BudgetError(message)
        begins = np.concatenate(([0], ends[:-1]))
        # Document, gap, document, gap …: gaps of nothing are left out.
        edges = np.stack((begins, begins + lengths), axis=1).ravel()
        edges = np.append(edges, width if capacity is None else capacity)
        ids = np.stack((np.arange(lengths.size), np.full(lengths.size, -1)), axis=1).ravel()
        kept = np.diff(edges) > 0
        return _Row(lengths, begins, np.append(edges[:-1][kept], edges[-1]), ids[kept])

    def laid_out(self, flat: Tensor, pad: PadValue) -> Tensor:
        """Put the tokens of all documents, [total, …], into their places: [1, T, …]."""
        width, total = int(self.edges[-1]), int(self.lengths.sum())
        laid_out = torch.full((1, width, *flat.shape[1:]), pad, dtype=flat.dtype)
        before = np.cumsum(self.lengths) - self.lengths
        places = np.arange(total) + np.repeat(self.begins - before, self.lengths)
        laid_out[0, torch.from_numpy(places)] = flat
        return laid_out

    def positions(self) -> IntArray:
        """Count from 0 in each segment: int64[T]."""
        begins = self.edges[:-1]
        counted: IntArray = np.arange(self.edges[-1]) - np.repeat(begins, np.diff(self.edges))
        return counted

    def documents(self) -> IntArray:
        """Name the document of each token: int64[T]."""
        return np.repeat(self.ids, np.diff(self.edges))
