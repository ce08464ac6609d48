"""Batches as one row without padding: the documents of a packed plan, and masks between them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from batchwright._checks import budgets, keep_whole
from batchwright.errors import BudgetError, ColumnNotFoundError, LengthsError
from batchwright.torch.data.samples import (
    LABEL_IGNORE,
    LABEL_NAMES,
    Columns,
    Name,
    Pads,
    PadValue,
    checked_pads,
    columns_of,
    cut_rows,
    filled,
    flattened,
    has_length,
    limit_of,
    type_with,
)
from batchwright.torch.data.trees import Parts
from batchwright.typing import Field, IntArray, Sample


@dataclass(frozen=True)
class PackCollator:
    """Concatenates the documents of a batch, and says where each begins.

    Transformers' models take a batch as it is, with ``use_cache=False`` (Trainer's setting): with a
    cache, their default outside of training, documents read one another. The names are those of
    its `DataCollatorWithFlattening`. T is the length of the row:

    - `input_ids`, `position_ids`: int64[1, T]; positions from 0 in each document.
    - `labels`: int64[1, T]; the first token of each document is ignored.
    - `cu_seq_lens_q`, `cu_seq_lens_k`: int32[s + 1], where segments begin and end, from 0 to T.
    - `max_length_q`, `max_length_k`: the longest segment, int.
    - `document_ids`: int64[1, T], 0 for the first document; for `document_mask`.

    Segments are the documents, and the gaps that alignment and capacity leave: these have document
    id -1 and ignored labels. An `attention_mask` of the samples is left out: a mask of ones makes
    models attend across documents.

    With `columns`, as a plan with ``Packing((…, …))`` expects, the batch holds these fields,
    [1, T], and for each row, under its name, ``encoder_position_ids``, ``encoder_document_ids``,
    ``encoder_cu_seq_lens`` and ``encoder_max_length``, with as many segments in all rows. Labels
    keep their first token. Give the decoder's input as a field: a model that shifts labels mixes
    documents.

    Args:
        labels: The field of the labels, one a token; also `label` or `label_ids`. Where samples
            have none, the tokens are the labels. None: no labels.
        columns: Field → name of its row, in the order of the lengths' columns and of tuples:
            ``{"input_ids": "encoder", "labels": "decoder"}``. None: everything lies in one row.
        capacity: Fill the row up to this; with several rows, one for each.
        align: Documents begin at multiples of this, as in `Packing`.
        max_length: Longer documents are cut, as a plan with ``oversize="truncate"`` expects:
            ``plan.layout.max_length``. With several rows, one for each.
        position_ids_start: The position of each document's first token: 2 for models that number
            positions like RoBERTa.
        pad: What gaps hold: a value for `input_ids` (with `columns`: for all fields but the
            labels), or a mapping by name. Without `columns`, it also names the fields that are laid
            out like `input_ids`; others are left out.

    Raises:
        BudgetError: If a setting is invalid; when called, if documents exceed the capacity.
        LengthsError: When called, if a field is not as long as `input_ids`, or a document is empty.
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
    columns: Mapping[str, str] | None = None
    capacity: int | tuple[int, ...] | None = None
    align: int = 1
    max_length: int | tuple[int, ...] | None = None
    position_ids_start: int = 0
    pad: Pads = 0

    def __post_init__(self) -> None:
        keep = object.__setattr__
        keep(self, "pad", checked_pads(self.pad, "PackCollator"))
        keep_whole(self, "align")
        keep_whole(self, "position_ids_start", least=0)
        if self.columns is not None:
            if not isinstance(self.columns, Mapping):
                raise BudgetError(
                    f"PackCollator(columns={self.columns!r}): expected a dict, field → row."
                )
            keep(self, "columns", dict(self.columns))
        rows = None if self.columns is None else len(set(self.columns.values()))
        for name in ("capacity", "max_length"):
            value = getattr(self, name)
            if value is None:
                continue
            keep(self, name, budgets("PackCollator", name, value))
            if (len(value) if isinstance(value, list | tuple) else None) != rows:
                expected = "one number" if rows is None else f"a tuple of {rows}"
                raise BudgetError(
                    f"PackCollator({name}={value}, columns={self.columns}): expected {expected}, "
                    "as many as there are rows."
                )

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Field]:
        """Collate the samples of one batch."""
        columns = columns_of(samples)
        if self.columns is not None:
            return self._in_rows(columns, self.columns)
        if not isinstance(samples[0], Mapping) and len(columns) == 1:
            columns = {"input_ids": columns[0]}
        pads: Parts = dict(self.pad) if isinstance(self.pad, dict) else {"input_ids": self.pad}
        for name in ("input_ids", *pads):
            if name not in columns:
                raise ColumnNotFoundError(
                    f"samples have the fields {list(columns)}, expected {name!r}: PackCollator "
                    "takes 'input_ids' and the fields that pad= names."
                )
        own = self.labels
        if own not in columns:
            names = LABEL_NAMES if own == "labels" else ()
            having = (each for each in names if all(map(has_length, columns.get(each, [None]))))
            own = next(having, None)
        flat, lengths = self._flattened(columns, ["input_ids", *([own] if own else []), *pads])
        row = PackedRow.of(lengths, self.align, limit_of(self.capacity, 0))
        batch: dict[str, Field] = {
            "input_ids": row.laid_out(flat["input_ids"], pads.get("input_ids", 0), "input_ids"),
            "position_ids": row.positions(self.position_ids_start),
        }
        if self.labels is not None:
            labels = flat[own or "input_ids"].clone()
            batch["labels"] = row.laid_out(labels, LABEL_IGNORE, own or "labels")
            batch["labels"][0, row.begins] = LABEL_IGNORE
        for name, value in pads.items():
            if name not in {"input_ids", self.labels}:
                batch[name] = row.laid_out(flat[name], value, name)
        edges, longest = row.cu_seqlens(), row.max_seqlen()
        return batch | {
            "cu_seq_lens_q": edges,
            "cu_seq_lens_k": edges.clone(),
            "max_length_q": longest,
            "max_length_k": longest,
            "document_ids": row.owners(),
        }

    def _in_rows(self, columns: Columns, row_of: Mapping[str, str]) -> dict[str, Field]:
        """Lay fields out in the rows that they belong to."""
        if 0 in columns:  # tuples, or single sequences
            if len(columns) != len(row_of):
                raise ColumnNotFoundError(
                    f"samples have {len(columns)} fields, PackCollator(columns=…) names "
                    f"{list(row_of)}: expected as many."
                )
            columns = dict(zip(row_of, columns.values(), strict=True))
        pads: Parts = dict.fromkeys(row_of, self.pad)
        if isinstance(self.pad, dict):
            pads = dict(self.pad)
        if self.labels is not None and self.labels in row_of:
            pads[self.labels] = LABEL_IGNORE
        for option, names in (("columns", row_of), ("pad", pads)):
            for name in names:
                if name not in columns or name not in row_of:
                    raise ColumnNotFoundError(
                        f"PackCollator({option}=…) names {name!r}, samples have {list(columns)}, "
                        f"of which columns= names {[each for each in columns if each in row_of]}."
                    )
        rows: dict[str, PackedRow] = {}
        fields: dict[str, dict[str, Tensor]] = {}
        for number, title in enumerate(dict.fromkeys(row_of.values())):
            own = [name for name, row in row_of.items() if row == title]
            fields[title], lengths = self._flattened(columns, own, number)
            capacity, kind = limit_of(self.capacity, number), f"{title} document"
            rows[title] = PackedRow.of(lengths, self.align, capacity, kind=kind)
        every_gap = any(row.ids.size > row.lengths.size for row in rows.values())
        batch: dict[str, Field] = {}
        for title, packed in rows.items():
            row = packed
            if every_gap:  # as many segments in each row
                row = PackedRow.of(row.lengths, self.align, int(row.edges[-1]), every_gap=True)
            for name, flat in fields[title].items():
                batch[name] = row.laid_out(flat, pads.get(name, 0), name)
            batch |= {
                f"{title}_position_ids": row.positions(self.position_ids_start),
                f"{title}_document_ids": row.owners(),
                f"{title}_cu_seq_lens": row.cu_seqlens(),
                f"{title}_max_length": row.max_seqlen(),
            }
        return batch

    def _flattened(
        self, columns: Columns, names: Iterable[str], number: int = 0
    ) -> tuple[dict[str, Tensor], IntArray]:
        """Concatenate the fields of a row, cut to its maximum; raise if their lengths differ."""
        flat: dict[str, Tensor] = {}
        lengths: dict[str, IntArray] = {}
        most = limit_of(self.max_length, number)
        for name in names:
            rows = columns[name]
            if most is not None:
                rows = cut_rows(rows, most)
            flat[name], lengths[name] = flattened(rows, name)
            first = next(iter(lengths))
            differ = np.flatnonzero(lengths[first] != lengths[name])
            if differ.size:
                sample = differ[0]
                raise LengthsError(
                    f"sample {sample} of the batch has {lengths[name][sample]} entries in {name!r} "
                    f"for {lengths[first][sample]} in {first!r}, expected as many."
                )
        return flat, lengths[first]


@dataclass(frozen=True, eq=False)
class PackedRow:
    """Where items of varying length, documents or images, lie in a row."""

    lengths: IntArray  # int64[d], tokens of each item
    begins: IntArray  # int64[d], where each begins
    edges: IntArray  # int64[s + 1], where segments, items and gaps, begin and end
    ids: IntArray  # int64[s], the item of each segment; -1 for gaps

    @staticmethod
    def of(
        lengths: IntArray,
        align: int,
        capacity: int | None,
        *,
        kind: str = "document",
        every_gap: bool = False,
    ) -> "PackedRow":
        """Concatenate items, each at a multiple of `align`, in a row as long as the capacity.

        `kind` says what the items are, in errors; with `every_gap`, empty gaps are segments too.
        """
        if not lengths.all():
            raise LengthsError(
                f"sample {int(np.argmin(lengths))} of the batch is empty: each {kind} needs at "
                "least one token. Leave it out of the lengths that are planned."
            )
        ends = np.cumsum(-(-lengths // align) * align)
        width = int(ends[-1])
        if capacity is not None and width > capacity:
            raise BudgetError(
                f"{lengths.size} {kind}s take {width} tokens (align={align}), more than "
                f"capacity={capacity}. Plan with Packing({capacity}, align={align}), and with "
                "the lengths of this data."
            )
        begins = np.append(0, ends[:-1])
        # Item, gap, item, gap …
        edges = np.append(np.stack((begins, begins + lengths), axis=1), capacity or width)
        ids = np.stack((np.arange(lengths.size), np.full(lengths.size, -1)), axis=1).ravel()
        kept = (np.diff(edges) > 0) | every_gap
        return PackedRow(lengths, begins, np.append(edges[:-1][kept], edges[-1]), ids[kept])

    def laid_out(self, flat: Tensor, pad: PadValue, name: Name) -> Tensor:
        """Put the tokens of all items, [total, …], into their places: [1, T, …].

        Without gaps, they are in their places.
        """
        if self.ids.size == self.lengths.size:  # no gaps
            return flat.to(type_with(pad, flat.dtype, name))[None]
        width, total = int(self.edges[-1]), int(self.lengths.sum())
        laid_out = filled((1, width, *flat.shape[1:]), pad, flat.dtype, name)
        before = np.cumsum(self.lengths) - self.lengths
        places = np.arange(total) + np.repeat(self.begins - before, self.lengths)
        laid_out[0, torch.from_numpy(places)] = flat.to(laid_out.dtype)
        return laid_out

    def positions(self, start: int = 0) -> Tensor:
        """Count from a number on in each segment: int64[1, T]."""
        begins = np.repeat(self.edges[:-1] - start, np.diff(self.edges))
        return torch.from_numpy(np.arange(self.edges[-1]) - begins)[None]

    def owners(self) -> Tensor:
        """Name the item that each token belongs to, -1 in gaps: int64[1, T]."""
        return torch.from_numpy(np.repeat(self.ids, np.diff(self.edges)))[None]

    def cu_seqlens(self) -> Tensor:
        """Return where segments begin and end, from 0 to T: int32[s + 1]."""
        return torch.from_numpy(self.edges.astype(np.int32))

    def max_seqlen(self) -> int:
        """Return the length of the longest segment."""
        return int(np.diff(self.edges).max())


def document_mask(document_ids: Tensor, *, causal: bool = True) -> Tensor:
    """Make the mask for `scaled_dot_product_attention`: a token sees only its own document.

    Args:
        document_ids: integer[batch, T], as `PackCollator` makes them (one row: [1, T]).
        causal: Whether a token sees only itself and those before it.

    Returns:
        bool[batch, 1, T, T], true where the query (third) may attend to the key (fourth); T²
        memory. Attention that *adds* its mask, such as transformers' ``"eager"``, expects 0 where
        this is true and minus infinity elsewhere.

    Raises:
        LengthsError: If the ids are not [batch, T].

    Example:
        >>> document_mask(torch.tensor([[0, 0, 1]]))[0, 0].int().tolist()
        [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    """
    _check_ids(document_ids)
    mask = document_ids[:, None, :, None] == document_ids[:, None, None, :]
    return mask.tril() if causal else mask


def document_block_mask(document_ids: Tensor, *, causal: bool = True) -> BlockMask:
    """Make the mask for `flex_attention`: a token sees only its own document.

    As `document_mask`, for any number of heads. Making it takes T² bytes, unless compiled.

    Example:
        >>> document_block_mask(torch.tensor([[0, 0, 1]])).shape
        (1, 1, 3, 3)
    """
    _check_ids(document_ids)

    def sees(batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = document_ids[batch, query] == document_ids[batch, key]
        return same & (query >= key) if causal else same

    batch, width = document_ids.shape
    return create_block_mask(sees, batch, None, width, width, device=str(document_ids.device))


def _check_ids(document_ids: Tensor) -> None:
    if document_ids.ndim != 2 or document_ids.is_floating_point():
        raise LengthsError(
            f"document_ids are {document_ids.dtype}{list(document_ids.shape)}, expected integers "
            "[batch, T], as PackCollator makes them."
        )
