"""Packed batches: one row of several documents, cut between two of them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from batchwright.errors import UpdateError
from batchwright.torch.data.trees import Parts, like, name_of, parts_of
from batchwright.typing import Batch, Field

# Names, each after the title of its row where a batch has several: encoder_cu_seq_lens.
_EDGES = re.compile(r"(?:(.*)_)?cu_seq_?lens?(?:_[qk])?")
_LONGEST = re.compile(r"(?:(.*)_)?max_(?:length|seq_?len)(?:_[qk])?")
_IDS = re.compile(r"(?:(.*)_)?(?:document_ids?|segment_ids?|seq_idx)")
_IDS_ALONE = re.compile(r"(?:(.*)_)?(?:document_ids?|seq_idx)")  # segments may be sentences
_POSITIONS = re.compile(r"(?:(.*)_)?positions?(?:_ids?)?")


@dataclass(frozen=True)
class _Layout:
    """A packed row: the edges of its segments, 0 to T, and where documents begin.

    Once a cut is chosen: the first token and document of the second part.
    """

    edges: list[int]
    starts: list[int]
    place: int = 0
    document: int = 0

    @staticmethod
    def of(edges: list[int], ids: list[int] | None = None) -> "_Layout":
        """Take the document of each segment, below 0 in gaps, into account."""
        segments = zip(pairwise(edges), ids or [0] * (len(edges) - 1), strict=True)
        return _Layout(edges, [begin for (begin, end), own in segments if end > begin and own >= 0])

    @property
    def tokens(self) -> int:
        return self.edges[-1]

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
    """Check whether a batch is one row that says where its documents begin and end."""
    return bool(_layouts(_named(batch)))


def cut_documents(batch: Batch) -> tuple[Batch, Batch] | None:
    """Cut a packed batch in two between documents, near the middle.

    Both parts are packed like the batch, and their tensors share memory with it. A gap stays with
    the document before it. Returns None if it is not packed, or has a single document; UpdateError
    if a field belongs neither to tokens nor to documents.

    Args:
        batch: A dict, named tuple or dataclass of tensors [1, T, …] or [T, …], as `PackCollator`,
            `PatchCollator` and transformers' `DataCollatorWithFlattening` make them. Borders are
            taken from ``cu_seq_lens…`` or ``cu_seqlens…``, else from ``document_ids`` or
            ``seq_idx``, else from ``position_ids`` that start again (without an `attention_mask`).

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
    counts = {title: len(layout.starts) for title, layout in layouts.items()}
    documents = min(counts.values())
    if documents < max(counts.values()):
        raise UpdateError(f"a packed batch cannot be cut: its rows hold {counts} documents.")
    if documents < 2:
        return None
    middle = sum(layout.tokens for layout in layouts.values()) / 2
    ahead = [sum(each) for each in zip(*(row.starts for row in layouts.values()), strict=True)]
    first = min(range(1, documents), key=lambda document: abs(ahead[document] - middle))
    cuts = {
        title: replace(layout, place=layout.starts[first], document=first)
        for title, layout in layouts.items()
    }
    titles = _titles(fields, list(cuts))
    parts: tuple[Parts, Parts] = ({}, {})
    for name, value in fields.items():
        own = [cuts[title] for title in titles[name]]
        cut = _cut_field(name, value, own, name_of("batch", batch, name))
        parts[0][name], parts[1][name] = cut
    return like(batch, parts[0]), like(batch, parts[1])


def _named(batch: Batch) -> dict[str, Field]:
    """Return the fields of a batch by name; none if they have no names."""
    fields = None if isinstance(batch, Tensor) else parts_of(batch)
    return fields if fields and all(isinstance(name, str) for name in fields) else {}


def _layouts(fields: dict[str, Field]) -> dict[str, _Layout]:
    """Return the rows of a packed batch by title; none if it is not packed."""
    found: dict[str, _Layout] = {}
    for title, value in _tensors(fields, _EDGES):
        if value.ndim == 1 and value.numel() > 1:
            edges = value.tolist()
            other = title in found and found[title].edges != edges  # queries and keys differ
            if other or edges[0] != 0 or any(a > b for a, b in pairwise(edges)):
                return {}
            found[title] = _Layout.of(edges)
    if found:
        for title, ids in _tensors(fields, _IDS):
            if title in found and ids.numel() == found[title].tokens > 0:
                edges = found[title].edges
                begins = torch.tensor(edges[:-1], device=ids.device).clamp(max=ids.numel() - 1)
                found[title] = _Layout.of(edges, ids.flatten()[begins].tolist())
        return found
    for title, ids in _rows(fields, _IDS_ALONE):
        begins = torch.cat((ids.new_ones(1).bool(), ids[1:] != ids[:-1])).nonzero().flatten()
        found[title] = _Layout.of([*begins.tolist(), ids.numel()], ids[begins].tolist())
    masks = (value for name, value in fields.items() if name.endswith("attention_mask"))
    if found or any(getattr(value, "ndim", 0) > 1 for value in masks):
        return found
    for title, positions in _rows(fields, _POSITIONS):
        again = positions[1:] == positions[0]
        counts = again | (positions[1:] == positions[:-1] + 1)
        if not bool(counts.all()) or not bool(again.any()):
            return {}
        begins = again.nonzero().flatten() + 1
        found[title] = _Layout.of([0, *begins.tolist(), positions.numel()])
    return found


def _tensors(fields: dict[str, Field], pattern: re.Pattern[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors of such a name, with the title of their row."""
    for name, value in fields.items():
        match = pattern.fullmatch(name)
        if match and isinstance(value, Tensor):
            yield match[1] or "", value


def _rows(fields: dict[str, Field], pattern: re.Pattern[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield integers [1, T] of such a name as [T], with their title."""
    for title, value in _tensors(fields, pattern):
        is_row = value.ndim == 2 and value.shape[0] == 1 and value.numel()
        if is_row and value.dtype in {torch.int64, torch.int32}:
            yield title, value[0]


def _titles(fields: dict[str, Field], titles: list[str]) -> dict[str, list[str]]:
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
    is_sequence = isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0
    if is_sequence and len(value) == len(cut.starts):
        return value[: cut.document], value[cut.document :]
    is_fact = value is None or isinstance(value, str | bytes | int | float)
    if is_fact or (is_sequence and not len(value)) or getattr(value, "ndim", None) == 0:
        return value, value
    given = f"a tensor {list(value.shape)}" if is_tensor else f"a {type(value).__name__}"
    raise UpdateError(
        f"{path} is {given} in a packed batch of {cut.tokens} tokens and {len(cut.starts)} "
        "documents: expected [1, tokens, …], or one entry a document. Pass split= to the update "
        "for batches of this kind, or leave the field out."
    )


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
