"""Batches as one row without padding: the documents of a packed plan, one behind the other."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from batchwright.checks import check_positive
from batchwright.errors import BudgetError, ColumnNotFoundError, LengthsError
from batchwright.torch.data.fields import columns_of, flattened, is_sequence
from batchwright.torch.data.labels import LABEL_NAMES
from batchwright.torch.data.packed_row import PackedRow
from batchwright.torch.data.stacking import LABEL_IGNORE, Pads, checked_pads
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

    Samples of several lengths, such as a source and its target, are laid out in a row each, as a
    plan with ``Packing((…, …))`` expects; `columns` says which fields lie in which row. The batch
    then holds those fields, [1, T], and of each row, under its name: ``encoder_position_ids``,
    ``encoder_document_ids``, ``encoder_cu_seq_lens`` and ``encoder_max_length``. Documents have the
    same id in all rows, and segment `s` of one row belongs to segment `s` of the others: where
    there are gaps, each document is followed by a segment for its own, which may be empty. So a
    token may attend across rows where ``decoder_document_ids[..., None] ==
    encoder_document_ids[:, None]``, and a kernel for segments takes `decoder_cu_seq_lens` for its
    queries and `encoder_cu_seq_lens` for its keys. Labels keep their first token, which a decoder
    predicts from its start token. Give the decoder's input as a field of its own: a model that
    shifts packed labels carries tokens from one document into the next.

    Args:
        labels: The field of the labels; `label` or `label_ids` will do as well, if samples have one
            a token. Where samples have none, the tokens are the labels. None: no labels.
        label_ignore: The label of tokens that no loss is computed for.
        columns: Field → name of the row that it lies in, in the sequence of the lengths' columns:
            ``{"input_ids": "encoder", "labels": "decoder"}``. Tuples have their fields in this
            sequence. None: everything lies in one row, as above.
        capacity: Fill the row up to this, for shapes that never change; of several rows, each up
            to its own. None: as long as the documents.
        align: Documents begin at multiples of this, as in `Packing`.
        max_length: Longer documents are cut, as a plan with ``oversize="truncate"`` expects:
            ``plan.layout.max_length``. Of several rows, a length for each.
        position_ids_start: The position of each document's first token: 0, but 2 for models that
            number positions like RoBERTa.
        pad: What gaps hold: a value for `input_ids` (with `columns`: for all fields but the
            labels), or a mapping by name. Fields named in it are laid out like `input_ids`; others
            are left out (with `columns`: those that it does not name).

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

        Pairs, in two rows:

        >>> collate = PackCollator(columns={"input_ids": "encoder", "labels": "decoder"})
        >>> batch = collate([([5, 6, 7], [1]), ([8], [2, 3])])
        >>> batch["input_ids"].tolist(), batch["labels"].tolist()
        ([[5, 6, 7, 8]], [[1, 2, 3]])
        >>> batch["encoder_document_ids"].tolist(), batch["decoder_document_ids"].tolist()
        ([[0, 0, 0, 1]], [[0, 1, 1]])
    """

    _: KW_ONLY
    labels: str | None = "labels"
    label_ignore: int = LABEL_IGNORE
    columns: Mapping[str, str] | None = None
    capacity: int | tuple[int, ...] | None = None
    align: int = 1
    max_length: int | tuple[int, ...] | None = None
    position_ids_start: int = 0
    pad: Pads = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        object.__setattr__(self, "pad", checked_pads(self.pad, "PackCollator"))
        for name in ("capacity", "max_length"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.columns is not None:
            if not isinstance(self.columns, Mapping):
                message = f"PackCollator(columns={self.columns!r}): expected a dict, field → row."
                raise BudgetError(message)
            object.__setattr__(self, "columns", dict(self.columns))
        for name in ("align", "label_ignore", "position_ids_start"):
            if not isinstance(getattr(self, name), int | np.integer):
                message = f"PackCollator({name}={getattr(self, name)!r}): expected an integer."
                raise BudgetError(message)
        for name in ("capacity", "align", "max_length"):
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                check_positive("PackCollator", **{name: number})
            rows = None if self.columns is None else len(set(self.columns.values()))
            if value is not None and name != "align":
                given = len(value) if isinstance(value, tuple) else None
                if given != rows:
                    expected = "one number" if rows is None else f"a tuple of {rows}"
                    message = (
                        f"PackCollator({name}={value}, columns={self.columns}): expected "
                        f"{expected}, as many as there are rows."
                    )
                    raise BudgetError(message)

    def __call__(self, samples: Sequence[Any]) -> dict[str, Any]:
        """Collate the samples of one batch."""
        columns = columns_of(samples)
        if self.columns is not None:
            return self._in_rows(columns, self.columns)
        if not isinstance(samples[0], Mapping):
            columns = {"input_ids": columns[0]} if len(columns) == 1 else columns
        if "input_ids" not in columns:
            message = f"samples have the fields {list(columns)}, expected 'input_ids'."
            raise ColumnNotFoundError(message)
        pads = self._pads(["input_ids"])
        tokens, lengths = self._flattened(columns["input_ids"], "input_ids")
        row = PackedRow.of(lengths, self.align, _of_row(self.capacity, 0))
        batch: dict[str, Any] = {
            "input_ids": row.laid_out(tokens, pads.get("input_ids", 0), "input_ids"),
            "position_ids": row.positions() + self.position_ids_start,
        }
        if self.labels is not None:
            targets = tokens
            own = self._labels(columns)
            if own is not None:
                targets = self._like(lengths, columns[own], own)
            labels = row.laid_out(targets, self.label_ignore, own or "labels")
            labels[0, row.begins] = self.label_ignore
            batch["labels"] = labels
        for name, value in pads.items():
            if name not in columns:
                message = f"PackCollator(pad=…) names {name!r}, samples have {list(columns)}."
                raise ColumnNotFoundError(message)
            if name not in {"input_ids", self.labels}:
                batch[name] = row.laid_out(self._like(lengths, columns[name], name), value, name)
        batch |= {
            "cu_seq_lens_q": row.cu_seqlens(),
            "cu_seq_lens_k": row.cu_seqlens(),
            "max_length_q": row.max_seqlen(),
            "max_length_k": row.max_seqlen(),
            "document_ids": row.owners(),
        }
        return batch

    def _in_rows(self, columns: dict[Any, list[Any]], row_of: Mapping[str, str]) -> dict[str, Any]:
        """Lay fields out in the rows that they belong to."""
        if 0 in columns:  # tuples, or single sequences
            if len(columns) != len(row_of):
                message = (
                    f"samples have {len(columns)} fields, PackCollator(columns=…) names "
                    f"{list(row_of)}: expected as many."
                )
                raise ColumnNotFoundError(message)
            columns = dict(zip(row_of, columns.values(), strict=True))
        pads = self._pads(row_of)
        if self.labels is not None and self.labels in row_of:
            pads[self.labels] = self.label_ignore
        for names, told in ((row_of, "columns"), (pads, "pad")):
            for name in names:
                if name not in columns or name not in row_of:
                    message = (
                        f"PackCollator({told}=…) names {name!r}, samples have {list(columns)}, of "
                        f"which columns= names {[each for each in columns if each in row_of]}."
                    )
                    raise ColumnNotFoundError(message)
        rows: dict[str, PackedRow] = {}
        fields: dict[str, dict[str, Tensor]] = {}
        for number, title in enumerate(dict.fromkeys(row_of.values())):
            first, *others = (name for name, row in row_of.items() if row == title)
            tokens, lengths = self._flattened(columns[first], first, number)
            fields[title] = {first: tokens}
            for name in others:
                fields[title][name] = self._like(lengths, columns[name], name, first, number)
            capacity, kind = _of_row(self.capacity, number), f"{title} document"
            rows[title] = PackedRow.of(lengths, self.align, capacity, kind=kind)
        if any(row.ids.size > row.lengths.size for row in rows.values()):
            rows = {title: _with_every_gap(row) for title, row in rows.items()}
        batch: dict[str, Any] = {}
        for title, row in rows.items():
            for name, flat in fields[title].items():
                batch[name] = row.laid_out(flat, pads.get(name, 0), name)
            batch |= {
                f"{title}_position_ids": row.positions() + self.position_ids_start,
                f"{title}_document_ids": row.owners(),
                f"{title}_cu_seq_lens": row.cu_seqlens(),
                f"{title}_max_length": row.max_seqlen(),
            }
        return batch

    def _pads(self, names: Iterable[str]) -> dict[Any, Any]:
        return dict(self.pad) if isinstance(self.pad, Mapping) else dict.fromkeys(names, self.pad)

    def _labels(self, columns: Mapping[Any, Sequence[Any]]) -> str | None:
        """Return the field of the labels; None if there is none."""
        if self.labels in columns or self.labels != "labels":
            return self.labels if self.labels in columns else None
        others = (name for name in LABEL_NAMES if all(map(is_sequence, columns.get(name, [None]))))
        return next(others, None)

    def _flattened(
        self, rows: Sequence[Any], name: str, number: int = 0
    ) -> tuple[Tensor, IntArray]:
        most = _of_row(self.max_length, number)
        if most is not None:
            rows = [row[:most] if is_sequence(row) else row for row in rows]
        return flattened(rows, name)

    def _like(
        self,
        lengths: IntArray,
        rows: Sequence[Any],
        name: str,
        first: str = "input_ids",
        number: int = 0,
    ) -> Tensor:
        flat, own = self._flattened(rows, name, number)
        if not np.array_equal(lengths, own):
            sample = int(np.argmax(lengths != own))
            message = (
                f"sample {sample} of the batch has {int(own[sample])} entries in {name!r} for "
                f"{int(lengths[sample])} in {first!r}, expected as many."
            )
            raise LengthsError(message)
        return flat


def _of_row(limits: int | tuple[int, ...] | None, number: int) -> int | None:
    return limits[number] if isinstance(limits, tuple) else limits


def _with_every_gap(row: PackedRow) -> PackedRow:
    """Return a row whose segments are document, gap, document, gap …, empty ones included."""
    edges = np.stack((row.begins, row.begins + row.lengths), axis=1).ravel()
    ids = np.stack((np.arange(row.lengths.size), np.full(row.lengths.size, -1)), axis=1).ravel()
    return replace(row, edges=np.append(edges, row.edges[-1]), ids=ids)
