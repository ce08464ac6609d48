"""Packed batches: one row of several documents, cut between two of them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from batchwright.errors import UpdateError
from batchwright.torch.data.trees import like, name_of, parts_of
from batchwright.typing import Batch, Field

# Names, each after the title of its row where a batch has several: encoder_cu_seq_lens.
_EDGES = re.compile(r"(?:(.*)_)?cu_seq_?lens?(?:_[qk])?")
_LONGEST = re.compile(r"(?:(.*)_)?max_(?:length|seq_?len)(?:_[qk])?")
_IDS = re.compile(r"(?:(.*)_)?(?:document_ids?|segment_ids?|seq_idx)")
_IDS_ALONE = re.compile(r"(?:(.*)_)?(?:document_ids?|seq_idx)")  # segments may be sentences
_POSITIONS = re.compile(r"(?:(.*)_)?positions?(?:_ids?)?")


@dataclass(frozen=True)
class _Layout:
    """A packed row: the edges of its segments, 0 to T, and the document of each, below 0 in gaps.

    Once a cut is chosen: the first token and document of the second part, and how many documents.
    """

    edges: list[int]
    ids: list[int] | None = None
    place: int = 0
    document: int = 0
    documents: int = 0

    @property
    def tokens(self) -> int:
        return self.edges[-1]

    def starts(self) -> list[int]:
        """Return where documents begin."""
        ids = self.ids or [0] * (len(self.edges) - 1)
        segments = zip(pairwise(self.edges), ids, strict=True)
        return [begin for (begin, end), own in segments if end > begin and own >= 0]

    def parts(self) -> tuple[list[int], list[int]]:
        """Return the edges of each part."""
        edges = self.edges
        # Of several equal edges, those of empty segments belong to the part before.
        at = len(edges) - 1 - edges[::-1].index(self.place)
        return edges[: at + 1], [edge - self.place for edge in edges[at:]]

    def along(self, value: Field) -> int | None:
        """Return the dimension of a field that its tokens lie along."""
        shape = tuple(getattr(value, "shape", ()))
        if shape[:2] == (1, self.tokens):
            return 1
        if shape == (1, 1, self.tokens, self.tokens):
            return 2
        return 0 if shape[:1] == (self.tokens,) and self.tokens > 1 else None


def is_packed(batch: Batch) -> bool:
    """Check whether a batch is one row that says where its documents begin and end.

    Example:
        >>> is_packed({"input_ids": torch.zeros(1, 3), "cu_seqlens": torch.tensor([0, 2, 3])})
        True
    """
    return bool(_layouts(_named(batch)))


def cut_documents(batch: Batch) -> tuple[Field, Field] | None:
    """Cut a packed batch in two between documents, near the middle.

    Both parts are packed like the batch, and their tensors share memory with it. A gap stays with
    the document before it. Returns None if it is not packed, or has a single document.

    Args:
        batch: A dict, named tuple or dataclass of tensors [1, T, …] or [T, …], as `PackCollator`,
            `PatchCollator` and transformers' `DataCollatorWithFlattening` make them. Borders are
            taken from ``cu_seq_lens…`` or ``cu_seqlens…``, else from ``document_ids`` or
            ``seq_idx``, else from ``position_ids`` that start again (without an `attention_mask`).
            Fields may also have one entry for each document.

    Raises:
        UpdateError: If a field belongs neither to tokens nor to documents, or the rows of several
            columns hold different numbers of documents.

    Example:
        >>> batch = {"input_ids": torch.tensor([[5, 6, 7, 8]]),
        ...          "position_ids": torch.tensor([[0, 1, 0, 1]])}
        >>> [part["input_ids"].tolist() for part in cut_documents(batch)]
        [[[5, 6]], [[7, 8]]]
    """
    fields = _named(batch)
    layouts = _layouts(fields)
    if not layouts:
        return None
    starts = {title: layout.starts() for title, layout in layouts.items()}
    counts = {title: len(each) for title, each in starts.items()}
    if len({*counts.values()}) > 1:
        raise UpdateError(f"a packed batch cannot be cut: its rows hold {counts} documents.")
    documents = next(iter(counts.values()))
    if documents < 2:
        return None
    middle = sum(layout.tokens for layout in layouts.values()) / 2
    ahead = [sum(each) for each in zip(*starts.values(), strict=True)]
    first = min(range(1, documents), key=lambda document: abs(ahead[document] - middle))
    cuts = {
        title: _Layout(layout.edges, layout.ids, starts[title][first], first, documents)
        for title, layout in layouts.items()
    }
    titles = _titles(fields, list(cuts))
    parts: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
    for name, value in fields.items():
        own = [cuts[title] for title in titles[name]]
        cut = _cut_field(name, value, own, name_of("batch", batch, name))
        parts[0][name], parts[1][name] = cut
    return like(batch, parts[0]), like(batch, parts[1])


def _named(batch: Batch) -> dict[Any, Field]:
    """Return the fields of a batch by name; none if they have no names."""
    fields = None if isinstance(batch, Tensor) else parts_of(batch)
    return fields if fields and all(isinstance(name, str) for name in fields) else {}


def _layouts(fields: Mapping[str, Field]) -> dict[str, _Layout]:
    """Return the rows of a packed batch by title; none if it is not packed."""
    found: dict[str, _Layout] = {}
    for name, value in fields.items():
        match = _EDGES.fullmatch(name)
        if match and isinstance(value, Tensor) and value.ndim == 1 and value.numel() > 1:
            edges, title = value.tolist(), match[1] or ""
            other = title in found and found[title].edges != edges  # queries and keys differ
            if other or edges[0] != 0 or any(a > b for a, b in pairwise(edges)):
                return {}
            found[title] = _Layout(edges)
    if found:
        return {title: _with_ids(fields, title, layout) for title, layout in found.items()}
    found = {title: _of_ids(value.flatten()) for title, value in _rows_named(fields, _IDS_ALONE)}
    masks = (value for name, value in fields.items() if name.endswith("attention_mask"))
    if found or any(getattr(value, "ndim", 0) > 1 for value in masks):
        return found
    for title, value in _rows_named(fields, _POSITIONS):
        layout = _of_positions(value.flatten())
        if layout is None:
            return {}
        found[title] = layout
    return found


def _rows_named(
    fields: Mapping[str, Field], pattern: re.Pattern[str]
) -> Iterator[tuple[str, Tensor]]:
    """Yield integers [1, T] of such a name, with their title."""
    for name, value in fields.items():
        match = pattern.fullmatch(name)
        is_row = isinstance(value, Tensor) and value.ndim == 2 and value.shape[0] == 1
        if match and is_row and value.numel() and value.dtype in {torch.int64, torch.int32}:
            yield match[1] or "", value


def _with_ids(fields: Mapping[str, Field], title: str, layout: _Layout) -> _Layout:
    for name, value in fields.items():
        match = _IDS.fullmatch(name)
        own = match and (match[1] or "") == title and isinstance(value, Tensor)
        if own and value.numel() == layout.tokens:
            inside = torch.tensor(layout.edges[:-1]).clamp(max=max(value.numel() - 1, 0))
            return _Layout(layout.edges, value.flatten()[inside.to(value.device)].tolist())
    return layout


def _of_ids(ids: Tensor) -> _Layout:
    begins = [0, *((ids[1:] != ids[:-1]).nonzero().flatten() + 1).tolist()]
    return _Layout([*begins, ids.numel()], ids[torch.tensor(begins, device=ids.device)].tolist())


def _of_positions(positions: Tensor) -> _Layout | None:
    """Read documents from positions that count up and start again; None if they do not."""
    again = positions[1:] == positions[0]
    if not bool((again | (positions[1:] == positions[:-1] + 1)).all()) or not bool(again.any()):
        return None
    return _Layout([0, *(again.nonzero().flatten() + 1).tolist(), positions.numel()])


def _titles(fields: Mapping[str, Field], titles: list[str]) -> dict[str, list[str]]:
    """Return the rows that each field may belong to.

    `PackCollator` puts the fields of a row before what it says of the row.
    """
    if len(titles) == 1:
        return dict.fromkeys(fields, titles)
    belongs: dict[str, list[str]] = {}
    waiting: list[str] = []
    for name in fields:
        waiting.append(name)
        matches = [pattern.fullmatch(name) for pattern in (_EDGES, _LONGEST, _IDS, _POSITIONS)]
        own = next((match[1] for match in matches if match and match[1] in titles), None)
        if own is not None:
            belongs.update({each: [own] for each in waiting})
            waiting = []
    return belongs | dict.fromkeys(waiting, titles)


def _cut_field(name: str, value: Field, rows: list[_Layout], path: str) -> tuple[Field, Field]:
    """Cut a field that may belong to some rows."""
    of_length = [each for each in rows if each.along(value) is not None]
    cut = (of_length or rows)[0]
    is_tensor = isinstance(value, Tensor)
    if is_tensor and _EDGES.fullmatch(name):
        first, second = cut.parts()
        return value.new_tensor(first), value.new_tensor(second)
    if _LONGEST.fullmatch(name):
        longest = [max(end - begin for begin, end in pairwise(edges)) for edges in cut.parts()]
        made = [torch.full_like(value, each) if is_tensor else each for each in longest]
        return made[0], made[1]
    if len({each.place for each in of_length}) == 1:
        return _cut_tokens(name, value, cut)
    entries = _entries(value)
    if entries == cut.documents:
        return value[: cut.document], value[cut.document :]
    if value is None or entries == 0 or isinstance(value, str | bytes | int | float):
        return value, value
    shape = f"a tensor {list(value.shape)}" if is_tensor else f"a {type(value).__name__}"
    raise UpdateError(
        f"{path} is {shape} in a packed batch of {cut.tokens} tokens and {cut.documents} "
        "documents: expected [1, tokens, …], or one entry a document. Pass split= to the update "
        "for batches of this kind, or leave the field out."
    )


def _entries(value: Field) -> int | None:
    """Count what a tensor, array or list holds; 0 if it has no dimensions."""
    if hasattr(value, "ndim"):
        return int(value.shape[0]) if value.ndim else 0
    return len(value) if isinstance(value, list | tuple) else None


def _cut_tokens(name: str, value: Field, cut: _Layout) -> tuple[Field, Field]:
    place, along = cut.place, cut.along(value)
    if along == 0:
        first, second = value[:place], value[place:]
    elif along == 1:
        first, second = value[:, :place], value[:, place:]
    else:
        first, second = value[..., :place, :place], value[..., place:, place:]
    if isinstance(value, Tensor) and _IDS.fullmatch(name):
        counted = second - cut.document
        begins = first.flatten()[:1], counted.flatten()[:1]
        if all(bool((each == 0).all()) for each in begins):  # ids that count from 0 do so again
            second = counted.where(second >= 0, second)
    return first, second
