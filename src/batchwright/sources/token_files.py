"""Indexes of tokenised corpora: Megatron's `.idx` and datatrove's `.ds.index`.

Both say how many tokens each sample has, in a few bytes per sample; the tokens themselves are in
another file beside it, which is not read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from batchwright.errors import SourceError
from batchwright.sources.locations import AnyPath, size_of
from batchwright.sources.table import Batches, Columns, items

MEGATRON = ".idx"
DATATROVE = ".ds.index"

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQ")  # magic, version, type of the tokens, sequences
_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}
_FLOATS = (6, 7)
_ROWS = 1 << 20


class TokenFile(NamedTuple):
    """A file of tokens, and the positions of its samples.

    Attributes:
        path: The file of tokens.
        dtype: Of the tokens.
        tokens: How many there are.
        edges: integer[n], memory-mapped: where samples begin, or, with `are_ends`, where they end.
        unit: How many units of `edges` a token has.
        are_ends: Whether `edges` are ends; the first sample then begins at 0.
    """

    path: Path
    dtype: np.dtype[Any]
    tokens: int
    edges: np.ndarray
    unit: int = 1
    are_ends: bool = False


class _Header(NamedTuple):
    dtype: np.dtype[Any]
    sequences: int
    edges: int  # of documents; 0: the file has none
    begins_at: int  # byte of the first length


def megatron(path: AnyPath) -> Columns:
    """Open an `.idx` of Megatron or fairseq: the lengths of its sequences, and of its documents.

    A document is one sequence, unless it was split into sentences.
    """
    header = _megatron_header(path)
    names = ("length", "document_length") if header.edges else ("length",)

    def batches(column: str) -> Batches:
        seen = 0
        if column == "document_length":
            pieces = list(_megatron_lengths(path, header))
            before = np.append(0, np.cumsum(np.concatenate(pieces), dtype=np.int64))
            yield np.diff(before[_document_edges(path, header)]), 1.0
            return
        for lengths in _megatron_lengths(path, header):
            seen += lengths.size
            yield lengths, seen / header.sequences

    return names, batches


def megatron_tokens(path: Path) -> TokenFile:
    """Open the tokens of an `.idx`, in the `.bin` beside it, without reading either."""
    header = _megatron_header(path)
    size, count = header.dtype.itemsize, header.sequences
    begins = np.memmap(path, "<i8", "r", header.begins_at + 4 * count, (count,))
    (last,) = np.memmap(path, "<i4", "r", header.begins_at + 4 * (count - 1), (1,))
    tokens = int(begins[-1]) // size + int(last)
    _check_size(path.with_suffix(".bin"), path, tokens, header.dtype)
    return TokenFile(path.with_suffix(".bin"), header.dtype, tokens, begins, size)


def datatrove(path: AnyPath) -> Columns:
    """Open a `.ds.index` of datatrove: where each document ends, counted in tokens."""
    size = size_of(path)
    if size % 8:
        raise SourceError(
            f"{path} has {size:,} bytes, not a whole number of 64-bit values: it is truncated, or "
            "from another program."
        )
    if path.with_suffix("").exists():
        with path.open("rb") as file:
            file.seek(size - 8)
            (last_end,) = items(file, "<u8", 1)
        _datatrove_type(path, int(last_end))  # refuses an index that was cut off

    def batches(_: str) -> Batches:
        last, seen = 0, 0
        with path.open("rb") as file:
            while seen < size // 8:
                ends = items(file, "<u8", min(_ROWS, size // 8 - seen))
                if not ends.size:
                    raise SourceError(f"{path} was cut off while it was read.")
                lengths = np.diff(ends.astype(np.int64), prepend=np.int64(last))
                if (lengths < 0).any():
                    row = int(np.argmax(lengths < 0))
                    raise SourceError(
                        f"{path}: document {seen + row:,} ends at {ends[row]:,}, before it begins: "
                        "the file is damaged, or from another program."
                    )
                seen, last = seen + ends.size, int(ends[-1])
                yield lengths, 8 * seen / size

    return ("length",), batches


def datatrove_tokens(path: Path) -> TokenFile:
    """Open the tokens of a `.ds.index`, in the `.ds` beside it, without reading either."""
    ends = np.memmap(path, "<u8", "r")
    tokens = int(ends[-1])
    dtype = _datatrove_type(path, tokens)
    return TokenFile(path.with_suffix(""), dtype, tokens, ends, are_ends=True)


def _datatrove_type(path: AnyPath, tokens: int) -> np.dtype[Any]:
    """Return the type of the tokens, from their number and the size of the `.ds`."""
    data = path.with_suffix("")
    size = size_of(data) if data.is_file() else -1
    item = next((item for item in (2, 4) if size == item * tokens), 2)
    dtype = np.dtype(f"<u{item}")
    _check_size(data, path, tokens, dtype)
    return dtype


def _check_size(data: AnyPath, index: AnyPath, tokens: int, dtype: np.dtype[Any]) -> None:
    """Raise unless the file of tokens has the size that its index says."""
    if not data.is_file():
        raise SourceError(f"{index} is an index, but its file of tokens {data} is missing.")
    size = size_of(data)
    if size != tokens * dtype.itemsize:
        raise SourceError(
            f"{data} has {size:,} bytes, but {index.name} says {tokens:,} tokens of "
            f"{dtype.itemsize} bytes: one of them is truncated, or they do not belong together."
        )


def _megatron_header(path: AnyPath) -> _Header:
    """Read the numbers of sequences and documents; the size of the file must match."""
    size = size_of(path)
    with path.open("rb") as file:
        head = file.read(_HEADER.size + 8)
    if not head.startswith(_MAGIC):
        raise SourceError(
            f"{path} is no index of Megatron: it does not begin with {_MAGIC[:7].decode()}."
        )
    if len(head) < _HEADER.size:
        raise SourceError(f"{path} is truncated: it ends inside its header.")
    _, version, code, sequences = _HEADER.unpack_from(head)
    if version != 1 or code not in _TYPES:
        what = f"version {version}" if version != 1 else f"tokens of type {code}"
        what += " (floating-point numbers)" if version == 1 and code in _FLOATS else ""
        raise SourceError(f"{path} is of {what}; expected version 1, and integers.")
    if not sequences:
        raise SourceError(f"{path} has no rows.")
    dtype = np.dtype(_TYPES[code])
    if size == _HEADER.size + 12 * sequences:  # of fairseq, without documents
        return _Header(dtype, sequences, 0, _HEADER.size)
    documents = int.from_bytes(head[_HEADER.size :], "little")
    expected = _HEADER.size + 8 + 12 * sequences + 8 * documents
    if size not in {expected, expected + sequences}:  # one mode a sequence: multimodal
        raise SourceError(
            f"{path} has {size:,} bytes, but its header says {sequences:,} sequences in "
            f"{documents:,} documents, which take {expected:,}: it is truncated or damaged."
        )
    return _Header(dtype, sequences, documents, _HEADER.size + 8)


def _megatron_lengths(path: AnyPath, header: _Header) -> Iterator[np.ndarray]:
    """Read the lengths of sequences; raise unless each begins where the one before it ends."""
    count, size, end = header.sequences, header.dtype.itemsize, 0
    with path.open("rb") as lengths_of, path.open("rb") as begins_of:
        lengths_of.seek(header.begins_at)
        begins_of.seek(header.begins_at + 4 * count)
        for first in range(0, count, _ROWS):
            rows = min(_ROWS, count - first)
            lengths = items(lengths_of, "<i4", rows)
            begins = items(begins_of, "<i8", rows)
            if begins.size < rows:
                raise SourceError(f"{path} was cut off while it was read.")
            ends = end + np.cumsum(lengths, dtype=np.int64) * size
            wrong = (lengths < 0) | (begins != np.append(end, ends[:-1]))
            if wrong.any():
                row = int(np.argmax(wrong))
                raise SourceError(
                    f"{path}: sequence {first + row:,} of {lengths[row]:,} tokens begins at byte "
                    f"{begins[row]:,}, not where the one before it ends: the file is damaged."
                )
            end = int(ends[-1])
            yield lengths


def _document_edges(path: AnyPath, header: _Header) -> np.ndarray:
    """Read the sequences at which documents begin, and the number of sequences."""
    with path.open("rb") as file:
        file.seek(header.begins_at + 12 * header.sequences)
        edges = items(file, "<i8", header.edges)
    if (
        edges.size < max(1, header.edges)
        or edges[0] != 0
        or edges[-1] != header.sequences
        or (np.diff(edges) < 0).any()
    ):
        raise SourceError(
            f"{path}: its documents are not the sequences from 0 to {header.sequences:,} in their "
            "order: the file is damaged."
        )
    return edges
