"""Packed batches: one row of several documents, cut between two of them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from batchwright.errors import UpdateError
from batchwright.torch.data.containers import like, name_of, parts_of

_EDGES = re.compile(r"(?:(.*)_)?cu_seq_?lens?(?:_[qk])?")
_LONGEST = re.compile(r"(?:(.*)_)?max_(?:length|seq_?len)(?:_[qk])?")
_IDS = re.compile(r"(?:(.*)_)?(?:document_ids?|segment_ids?|seq_idx)")
_IDS_ALONE = re.compile(r"(?:(.*)_)?(?:document_ids?|seq_idx)")  # segments may be sentences
_POSITIONS = re.compile(r"(?:(.*)_)?positions?(?:_ids?)?")


def is_packed(batch: Any) -> bool:
    """Whether a batch is one row that says where its documents begin and end.

    Example:
        >>> is_packed({"input_ids": torch.zeros(1, 3), "cu_seqlens": torch.tensor([0, 2, 3])})
        True
        >>> is_packed({"input_ids": torch.zeros(1, 3), "lengths": torch.tensor([3])})
        False
    """
    fields = _named(batch)
    return fields is not None and bool(_layouts(fields))


def cut_documents(batch: Any) -> tuple[Any, Any] | None:
    """Cut a packed batch in two between documents, near the middle.

    Both parts are packed as the batch is: segments begin at 0, the longest is that of the part,
    document ids are counted from 0 again where they were. A gap stays with the document before it.

    Args:
        batch: A dict, named tuple or dataclass of tensors [1, T, …] or [T, …], as `PackCollator`,
            `PatchCollator` and transformers' `DataCollatorWithFlattening` make them. Borders are
            taken from ``cu_seq_lens…`` or ``cu_seqlens…``, else from ``document_ids`` or
            ``seq_idx``, else from ``position_ids`` that begin again (without an
            `attention_mask`). Fields may also have one entry for each document.

    Returns:
        The parts, whose tensors share memory with the batch. None if it is not packed, or holds a
        single document.

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
    layouts = {} if fields is None else _layouts(fields)
    if fields is None or not layouts:
        return None
    starts = {title: layout.starts() for title, layout in layouts.items()}
    if len({len(each) for each in starts.values()}) > 1:
        counts = {title: len(each) for title, each in starts.items()}
        raise UpdateError(f"a packed batch cannot be cut: its rows hold {counts} documents.")
    documents = len(next(iter(starts.values())))
    if documents < 2:
        return None
    middle = sum(layout.edges[-1] for layout in layouts.values()) / 2
    ahead = [sum(each) for each in zip(*(starts[title] for title in layouts), strict=True)]
    first = min(range(1, documents), key=lambda document: abs(ahead[document] - middle))
    cuts = {
        title: _Cut(layouts[title], starts[title][first], first, documents) for title in layouts
    }
    titles = _titles(fields, list(layouts))
    parts: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
    for name, value in fields.items():
        path = name_of("batch", batch, name)
        for number, part in enumerate(_cut_field(name, value, cuts, titles[name], path)):
            parts[number][name] = part
    return like(batch, parts[0]), like(batch, parts[1])


@dataclass(frozen=True)
class _Layout:
    """Where the segments of a packed row begin and end.

    Attributes:
        edges: From 0 to T.
        ids: The document of each segment, negative in gaps. None: not known.
    """

    edges: list[int]
    ids: list[int] | None = None

    def starts(self) -> list[int]:
        """Return where documents begin."""
        sizes = zip(self.edges[:-1], self.edges[1:], strict=True)
        ids = self.ids or [0] * (len(self.edges) - 1)
        return [
            begin for (begin, end), own in zip(sizes, ids, strict=True) if end > begin and own >= 0
        ]


@dataclass(frozen=True)
class _Cut:
    """Where a packed row is cut.

    Attributes:
        layout: Its segments.
        place: The first token of the second part.
        document: The first document of the second part.
        documents: How many there are.
    """

    layout: _Layout
    place: int
    document: int
    documents: int

    @property
    def tokens(self) -> int:
        """The length of the row."""
        return self.layout.edges[-1]

    def edges(self) -> tuple[list[int], list[int]]:
        """Return where segments begin and end in each part."""
        edges = self.layout.edges
        # Of several equal edges, those of empty segments belong to the part before.
        at = len(edges) - 1 - edges[::-1].index(self.place)
        return edges[: at + 1], [edge - self.place for edge in edges[at:]]


def _named(batch: Any) -> dict[Any, Any] | None:
    """Return the fields of a batch by name; None if they have none."""
    fields = None if isinstance(batch, Tensor) else parts_of(batch)
    return fields if fields and all(isinstance(name, str) for name in fields) else None


def _layouts(fields: Mapping[str, Any]) -> dict[str, _Layout]:
    """Return the rows of a packed batch, by the title before their names; none if it is none."""
    found: dict[str, _Layout] = {}
    for name, value in fields.items():
        match = _EDGES.fullmatch(name)
        if match and isinstance(value, Tensor) and value.ndim == 1 and value.numel() > 1:
            edges = value.tolist()
            title = match[1] or ""
            if edges[0] != 0 or any(a > b for a, b in pairwise(edges)):
                return {}
            if title in found and found[title].edges != edges:
                return {}  # queries and keys of different documents
            found[title] = _Layout(edges)
    if found:
        return {title: _with_ids(fields, title, layout) for title, layout in found.items()}
    for title, value in _rows_named(fields, _IDS_ALONE):
        found[title] = _of_ids(value.flatten())
    if found or any(getattr(value, "ndim", 0) > 1 for _, value in _masks(fields)):
        return found
    for title, value in _rows_named(fields, _POSITIONS):
        layout = _of_positions(value.flatten())
        if layout is None:
            return {}
        found[title] = layout
    return found


def _masks(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in fields.items() if name.endswith("attention_mask"))


def _rows_named(
    fields: Mapping[str, Any], pattern: re.Pattern[str]
) -> Iterator[tuple[str, Tensor]]:
    """Yield whole numbers [1, T] of such a name, with the title before it."""
    for name, value in fields.items():
        match = pattern.fullmatch(name)
        is_row = isinstance(value, Tensor) and value.ndim == 2 and value.shape[0] == 1
        if match and is_row and value.numel() and value.dtype in {torch.int64, torch.int32}:
            yield match[1] or "", value


def _with_ids(fields: Mapping[str, Any], title: str, layout: _Layout) -> _Layout:
    for name, value in fields.items():
        match = _IDS.fullmatch(name)
        if match and (match[1] or "") == title and isinstance(value, Tensor):
            ids = value.flatten()
            if ids.numel() == layout.edges[-1]:
                inside = torch.tensor(layout.edges[:-1]).clamp(max=max(ids.numel() - 1, 0))
                return _Layout(layout.edges, ids[inside.to(ids.device)].tolist())
    return layout


def _of_ids(ids: Tensor) -> _Layout:
    begins = [0, *((ids[1:] != ids[:-1]).nonzero().flatten() + 1).tolist()]
    return _Layout([*begins, ids.numel()], ids[torch.tensor(begins, device=ids.device)].tolist())


def _of_positions(positions: Tensor) -> _Layout | None:
    """Read documents out of positions that count up and begin again; None if they do not."""
    first = positions[0]
    again = positions[1:] == first
    if not bool((again | (positions[1:] == positions[:-1] + 1)).all()) or not bool(again.any()):
        return None
    return _Layout([0, *(again.nonzero().flatten() + 1).tolist(), positions.numel()])


def _titles(fields: Mapping[str, Any], titles: list[str]) -> dict[str, list[str]]:
    """Return the titles that each field may belong to.

    `PackCollator` puts the fields of a row before what it says of the row.
    """
    if len(titles) == 1:
        return dict.fromkeys(fields, titles)
    belongs: dict[str, list[str]] = {}
    waiting: list[str] = []
    for name in fields:
        matches = [pattern.fullmatch(name) for pattern in (_EDGES, _LONGEST, _IDS, _POSITIONS)]
        own = next((match[1] for match in matches if match and match[1] in titles), None)
        if own is None:
            waiting.append(name)
            continue
        belongs[name] = [own]
        belongs.update((each, [own]) for each in waiting)
        waiting = []
    return belongs | dict.fromkeys(waiting, titles)


def _cut_field(
    name: str, value: Any, cuts: Mapping[str, _Cut], titles: list[str], path: str
) -> tuple[Any, Any]:
    of_length = [cuts[title] for title in titles if _tokens_along(value, cuts[title]) is not None]
    cut = (of_length or [cuts[titles[0]]])[0]
    if _EDGES.fullmatch(name) and isinstance(value, Tensor):
        first, second = cut.edges()
        return value.new_tensor(first), value.new_tensor(second)
    if _LONGEST.fullmatch(name):
        longest = [max(end - begin for begin, end in pairwise(edges)) for edges in cut.edges()]
        made = [torch.full_like(value, each) for each in longest] if _is_tensor(value) else longest
        return made[0], made[1]
    if len({each.place for each in of_length}) == 1:
        return _cut_tokens(name, value, cut)
    if _entries(value) == cut.documents:
        return value[: cut.document], value[cut.document :]
    if value is None or isinstance(value, str | bytes | int | float) or _entries(value) == 0:
        return value, value
    shape = f"a tensor {list(value.shape)}" if _is_tensor(value) else f"a {type(value).__name__}"
    raise UpdateError(
        f"{path} is {shape} in a packed batch of {cut.tokens} tokens and {cut.documents} "
        "documents: expected [1, tokens, …], or one entry a document. Pass split= to the update "
        "for batches of this kind, or leave the field out."
    )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _entries(value: Any) -> int | None:
    """Count what a tensor, array or list holds; 0 if it has no dimensions."""
    if hasattr(value, "ndim"):
        return int(value.shape[0]) if value.ndim else 0
    return len(value) if isinstance(value, list | tuple) else None


def _tokens_along(value: Any, cut: _Cut) -> int | None:
    """Return the dimension of a field that its tokens lie along."""
    shape = tuple(getattr(value, "shape", ()))
    if shape[:2] == (1, cut.tokens):
        return 1
    if shape == (1, 1, cut.tokens, cut.tokens):
        return 2
    return 0 if shape[:1] == (cut.tokens,) and cut.tokens > 1 else None


def _cut_tokens(name: str, value: Any, cut: _Cut) -> tuple[Any, Any]:
    place = cut.place
    along = _tokens_along(value, cut)
    if along == 0:
        parts = value[:place], value[place:]
    elif along == 1:
        parts = value[:, :place], value[:, place:]
    else:
        parts = value[..., :place, :place], value[..., place:, place:]
    if _IDS.fullmatch(name) and isinstance(value, Tensor):
        first, second = parts
        counted = second - cut.document
        from_0 = bool((first.flatten()[:1] == 0).all()) and bool((counted.flatten()[:1] == 0).all())
        return first, counted.where(second >= 0, second) if from_0 else second
    return parts
