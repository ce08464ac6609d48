"""The contents of a batch: rows, their real tokens and classes, and a hash of each row."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

_TOKENS = ("input_ids", "tokens", "input_values", "input_features", "src", "inputs", "x")
_CLASSES = ("labels", "label", "y", "target", "targets")
_MASKS = ("attention_mask", "mask", "padding_mask", "key_padding_mask", "src_key_padding_mask")
_INVERTED = ("padding_mask", "key_padding_mask", "src_key_padding_mask")  # where bool: True is pad
_DOCUMENTS = ("position_ids", "cu_seqlens", "cu_seq_lens_q", "seq_idx", "document_ids")
_IGNORED = -100
_LONG_TAIL = 8  # equal values at the end of a row that are padding, if all batches are as wide
_CHANCE = 3  # equal values at the end of one row that may be chance
_HASHED = 64  # values of a row of numbers that its hash looks at
_MOST_CLASSES = 65_536

Looked = tuple[list[int] | None, dict[str, Any] | None]
"""Hashes of rows, and facts about a batch; see `Contents.look`."""


class _Column:
    """The tensors of one name in all batches: their widths, and the value they are padded with."""

    def __init__(self) -> None:
        self._widths: set[int] = set()
        self._pad: float | None = None  # value of padding, if there is no mask

    def real(self, values: Any, mask: Any, *, has_own_width: bool = False) -> Any:
        """Return which tokens are real, bool[rows, width]; None if unknown.

        Args:
            values: Of a batch.
            mask: Which of them are real, if the batch has a mask.
            has_own_width: Whether equal values at the end are padding only if widths differ: in
                other columns, they may be zeros of a table.
        """
        self._widths.add(int(values.shape[1]))
        if mask is not None:
            return mask
        if has_own_width and len(self._widths) < 2 and self._pad is None:
            return None
        is_float = values.dtype.is_floating_point
        if values.ndim == 3:
            if len(self._widths) < 2:
                return None
            return _before_tail((values == 0).all(-1))
        if is_float:
            return _before_tail(values == 0) if len(self._widths) > 1 else None
        return self._before_padding(values)

    def labels(self, values: Any) -> Any:
        """Return the same for labels, which are padded with a number that a loss ignores."""
        if self._pad == _IGNORED or bool((values == _IGNORED).any()):
            self._pad = _IGNORED
            return _around(values == _IGNORED)
        return None

    def _before_padding(self, values: Any) -> Any:
        """Look for a value that is repeated at the end, or at the beginning, of rows."""
        if values.shape[1] < 3 or values.shape[0] < 2:
            return None if self._pad is None else _around(values == self._pad)
        if self._pad is None:
            self._pad = self._padding(values)
        return None if self._pad is None else _around(values == self._pad)

    def _padding(self, values: Any) -> float | None:
        for side in (-1, 0):
            end = values[:, side]
            beside = values[:, side - 1 if side else 1]
            repeated = end[end == beside]
            if not len(repeated):
                continue
            value = repeated.mode().values.item()
            longest = int((~_around(values == value)).sum(1).max())
            # A few equal values at the end of one row may be data; if rows are equally wide in
            # every batch, so may more of them.
            is_shared = int((repeated == value).sum()) > 1 or longest > _CHANCE
            if longest >= _LONG_TAIL or (len(self._widths) > 1 and is_shared):
                return float(value)
        return None


class Contents:
    """Looks into the batches of a loader, and remembers how they are laid out."""

    def __init__(self) -> None:
        self._columns: dict[str, _Column] = {}
        self._apart: set[tuple[str, str]] = set()  # columns that have had different widths

    def look(self, batch: Any, *what: str) -> Looked:
        """Describe a batch.

        Args:
            batch: As the loader returns it.
            what: ``"hashes"``, if rows are identified by their content.

        Returns:
            Hashes, int64[rows] as a list, if asked for; and ``rows``, ``width``, and if known
            ``lengths``, ``labels``, ``counted_padding``, ``packed``, ``separated``; if there are
            other columns, the ``name`` of this one, and the width and lengths of ``others``.
        """
        fields = dict(_fields(batch))
        tokens = _chosen(fields, _TOKENS, _is_tokens) or _chosen(fields, _TOKENS, _is_rows)
        if tokens is None:
            return None, None
        name, values = tokens
        rows = int(values.shape[0])
        facts: dict[str, Any] = {"rows": rows, "width": 1}
        is_real = None
        if values.ndim in {2, 3}:
            facts["width"] = int(values.shape[1])
            mask = _mask_of(fields, name, values)
            if mask is None:
                mask = _some_mask(fields, values)
            is_real = self._column(name).real(values, mask)
            if is_real is not None:
                facts["lengths"] = is_real.sum(1).tolist()
                self._labels_on_padding(fields, is_real, facts)
                others = self._others(fields, name, values)
                if others:
                    facts |= {"name": name, "others": others}
            _documents(fields, facts)
        others = {key: each for key, each in fields.items() if key != name}
        classes = _chosen(others, _CLASSES, _is_classes)
        if classes is not None and len(classes[1]) == rows:
            facts["labels"] = classes[1].tolist()
        return (_hashes(values, is_real) if "hashes" in what else None), facts

    def _column(self, name: str) -> _Column:
        return self._columns.setdefault(name, _Column())

    def _others(self, fields: Mapping[str, Any], first: str, values: Any) -> dict[str, Any]:
        """Describe the other columns of sequences: those whose width differs from all before them.

        A column that is always as wide as another belongs to its tokens, as labels do.
        """
        found: dict[str, Any] = {}
        widths = {first: int(values.shape[1])}
        for name, each in fields.items():
            if name == first or len(each) != len(values) or not _is_sequence(name, each):
                continue
            width = int(each.shape[1])
            self._apart.update((other, name) for other in widths if widths[other] != width)
            if not all((other, name) in self._apart for other in widths):
                continue
            column, mask = self._column(name), _mask_of(fields, name, each)
            is_real = column.labels(each) if mask is None else None
            if is_real is None:
                is_real = column.real(each, mask, has_own_width=True)
            if is_real is not None:
                widths[name] = width
                found[name] = [width, is_real.sum(1).tolist()]
        return found

    def _labels_on_padding(self, fields: Mapping[str, Any], is_real: Any, facts: Any) -> None:
        labels = fields.get("labels")
        if labels is not None and labels.shape == is_real.shape:
            counted = int(((labels != _IGNORED) & ~is_real).sum())
            facts["counted_padding"] = counted


def _fields(batch: Any, prefix: str = "", depth: int = 2) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a batch, each with its name or place."""
    if isinstance(batch, Mapping) or hasattr(batch, "keys"):
        items = [(str(key), batch[key]) for key in batch.keys()]  # noqa: SIM118 -- no Mapping
    elif isinstance(batch, (list, tuple)) and not all(isinstance(x, int) for x in batch):
        named: Any = getattr(batch, "_fields", None) or range(len(batch))
        items = [(str(name), each) for name, each in zip(named, batch, strict=True)]
    else:
        items = [("", batch)]
    for name, value in items:
        tensor = _tensor(value)
        if tensor is not None:
            yield f"{prefix}{name}", tensor
        elif depth and isinstance(value, (Mapping, list, tuple)) and len(value) < 64:
            yield from _fields(value, f"{prefix}{name}.", depth - 1)


def _tensor(value: Any) -> Any:
    """Return a tensor on the host; arrays are turned into tensors."""
    torch = _torch()
    if isinstance(value, torch.Tensor):
        return value if value.device.type == "cpu" and value.ndim else None
    if type(value).__module__ == "numpy" and hasattr(value, "ndim") and value.ndim:
        return torch.from_numpy(value) if value.dtype.kind in "biuf" else None
    return None


def _torch() -> Any:
    return sys.modules["torch"]


def _chosen(fields: Mapping[str, Any], names: Any, suits: Any) -> tuple[str, Any] | None:
    """Choose a field by its name, else the first that fits."""
    suiting = {name: each for name, each in fields.items() if suits(name, each)}
    for wanted in names:
        for name, values in suiting.items():
            if name.rpartition(".")[2] == wanted:
                return name, values
    return next(iter(suiting.items()), None)


def _is_tokens(name: str, values: Any) -> bool:
    short = name.rpartition(".")[2]
    is_other = short in {*_MASKS, *_DOCUMENTS, *_CLASSES, "token_type_ids"} or "mask" in short
    is_whole = not values.dtype.is_floating_point and values.dtype != _torch().bool
    return not is_other and values.ndim == 2 and is_whole and values.shape[1] > 1


def _is_sequence(name: str, values: Any) -> bool:
    """Say whether a tensor may be a further column of sequences, which may also be labels."""
    short = name.rpartition(".")[2]
    is_other = short in {*_DOCUMENTS, "token_type_ids"} or "mask" in short
    if is_other or values.ndim not in {2, 3} or values.shape[1] < 2:
        return False
    is_float = values.dtype.is_floating_point
    return is_float if values.ndim == 3 else not is_float and values.dtype != _torch().bool


def _mask_of(fields: Mapping[str, Any], name: str, values: Any) -> Any:
    """Return the mask that is named like a column, bool[rows, width]; None if there is none."""
    before, dot, short = name.rpartition(".")
    names = [f"{short}_{each}" for each in _MASKS]
    if short.endswith("input_ids"):
        names.insert(0, f"{short.removesuffix('input_ids')}attention_mask")
    if short == "labels":
        names.append("decoder_attention_mask")
    for each in names:
        mask = fields.get(f"{before}{dot}{each}")
        if mask is not None and mask.ndim == 2 and mask.shape == values.shape[:2]:
            return _says_real(each, mask)
    return None


def _some_mask(fields: Mapping[str, Any], values: Any) -> Any:
    """Return a mask of that shape."""
    for key, mask in fields.items():
        short = key.rpartition(".")[2]
        if short in _MASKS and mask.ndim == 2 and mask.shape == values.shape[:2]:
            return _says_real(short, mask)
    return None


def _says_real(name: str, mask: Any) -> Any:
    if name.endswith(_INVERTED) and mask.dtype == _torch().bool:
        return ~mask
    return mask.bool()


def _is_rows(name: str, values: Any) -> bool:
    return values.ndim >= 1 and name.rpartition(".")[2] not in {*_MASKS, *_DOCUMENTS, *_CLASSES}


def _is_classes(name: str, values: Any) -> bool:
    is_whole = not values.dtype.is_floating_point
    if values.ndim != 1 or not is_whole or len(values) == 0:
        return False
    short = name.rpartition(".")[2]
    if not short.isdigit() and short not in _CLASSES:
        return False
    return int(values.min()) >= 0 and int(values.max()) < _MOST_CLASSES


def _documents(fields: Mapping[str, Any], facts: dict[str, Any]) -> None:
    """Say whether rows have several documents, and whether these are kept apart."""
    named = {name.rpartition(".")[2]: each for name, each in fields.items()}
    found = [name for name in _DOCUMENTS if name in named]
    if not found:
        return
    positions = named.get("position_ids")
    is_packed = any(name != "position_ids" for name in found)
    if positions is not None and positions.ndim == 2:
        starts = (positions == 0).sum(1)
        is_packed = is_packed or bool((starts > 1).any())
    if not is_packed:
        return
    mask = named.get("attention_mask")
    facts["packed"] = True
    # Boundaries in positions count only if there is no mask of two dimensions.
    facts["separated"] = mask is None or mask.ndim != 2 or int(mask.max()) > 1


def _before_tail(is_pad: Any) -> Any:
    """Return bool[rows, width]: False for padding at the end of a row."""
    return is_pad.flip(1).long().cumprod(1).flip(1) == 0


def _around(is_pad: Any) -> Any:
    """Return bool[rows, width]: False for padding at the beginning and at the end of a row."""
    return _before_tail(is_pad) & (is_pad.long().cumprod(1) == 0)


def _hashes(values: Any, is_real: Any) -> list[int]:
    """Hash the content of each row without its padding: int64[rows] as a list."""
    torch = _torch()
    flat = values.flatten(1) if values.ndim > 1 else values[:, None]
    if flat.dtype.is_floating_point:
        flat = flat[:, :_HASHED].float().contiguous().view(torch.int32)
        is_real = None
    flat = flat.long()
    if is_real is not None and is_real.shape == flat.shape:
        first = is_real.long().argmax(1, keepdim=True)  # left padding shifts a row
        places = torch.arange(flat.shape[1])[None, :] - first
        flat = torch.where(is_real, flat + 1, 0)
    else:
        places = torch.arange(flat.shape[1])[None, :]
    weights = (places + 1) * 0x9E3779B97F4A7C1 | 1
    mixed = flat * weights
    mixed = mixed ^ (mixed >> 29)
    hashes: list[int] = ((mixed * 0x5851F42D4C957F2).sum(1) & (2**62 - 1)).tolist()
    return hashes
