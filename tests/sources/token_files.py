"""Writes files of tokens byte by byte, as Megatron, fairseq and datatrove do."""

import struct

import numpy as np

CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "uint16": 8}


def write_megatron(path, lists, *, dtype="uint16", documents=None, modes=False):
    """Write `path`, an `.idx`, and the `.bin` beside it; `documents` are edges, in sequences."""
    lengths = [len(row) for row in lists]
    documents = range(len(lists) + 1) if documents is None else documents
    content = b"MMIDIDX\0\0" + struct.pack("<QB", 1, CODES[dtype])
    content += struct.pack("<QQ", len(lists), len(documents))
    content += np.array(lengths, "<i4").tobytes() + _begins(lengths, dtype)
    content += np.array(documents, "<i8").tobytes()
    content += np.zeros(len(lists), "i1").tobytes() if modes else b""
    path.write_bytes(content)
    _write_tokens(path.with_suffix(".bin"), lists, dtype)


def write_fairseq(path, lists, *, dtype="uint16"):
    lengths = [len(row) for row in lists]
    content = b"MMIDIDX\0\0" + struct.pack("<QBQ", 1, CODES[dtype], len(lists))
    path.write_bytes(content + np.array(lengths, "<i4").tobytes() + _begins(lengths, dtype))
    _write_tokens(path.with_suffix(".bin"), lists, dtype)


def write_datatrove(path, lists, *, item=2):
    """Write `path`, a `.ds`, and the `.ds.index` beside it."""
    ends = np.cumsum([len(row) for row in lists], dtype="<u8")
    path.with_name(f"{path.name}.index").write_bytes(ends.tobytes())
    _write_tokens(path, lists, f"<u{item}")


def _begins(lengths, dtype):
    edges = np.append(0, np.cumsum(lengths))[:-1] * np.dtype(dtype).itemsize
    return edges.astype("<i8").tobytes()


def _write_tokens(path, lists, dtype):
    path.write_bytes(np.array([token for row in lists for token in row], dtype).tobytes())
