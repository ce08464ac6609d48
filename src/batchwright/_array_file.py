"""Arrays on disk: safetensors and `.npy` files, with a checksum of all they hold."""

import hashlib
import io
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from batchwright._files import replacing, write_bytes
from batchwright._format import one_line
from batchwright.errors import BatchwrightError, SourceNotFoundError

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = dict[str, Array]

DTYPES = {"I8": "|i1", "U32": "<u4", "I64": "<i8", "F32": "<f4", "F64": "<f8"}
"""The types that our files hold, by their safetensors names. NumPy lacks some of the others."""

_CHECKSUM = "sha256"
_CHECKSUM_BYTES = hashlib.sha256().digest_size
_MOST_ARRAYS = 1000


class Kind(NamedTuple):
    """A kind of file: its format and version, and how messages call it and say how to make one."""

    format: str
    version: str
    name: str
    made_by: str
    others: tuple[int, ...] = ()  # versions that are read too

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata by which such a file is recognized."""
        return {"format": self.format, "format_version": self.version}


def save_arrays(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Array],
    metadata: Mapping[str, str],
    error: type[BatchwrightError],
) -> None:
    """Write arrays of the types in `DTYPES` as a safetensors file, whole or not at all.

    The format is written here because the library replaces the file itself: that ignores the
    umask, and would replace a pipe or a device.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    # Large items first: each array begins at a multiple of its item's size.
    ordered = sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize)
    laid_out = {name: _little_endian(array) for name, array in ordered}
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in laid_out.items():
        begin, end = end, end + array.nbytes
        dtype = names[array.dtype.str]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path, error) as unfinished, unfinished.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in laid_out.values():
            file.write(array.data)


def load_arrays(
    path: str | os.PathLike[str],
    kind: Kind,
    error: type[BatchwrightError],
    *,
    mapped: bool = False,
) -> tuple[Arrays, dict[str, str]]:
    """Read the arrays and the metadata of a safetensors file. Reading never executes code.

    With `mapped`, arrays are memory-mapped, and none may be empty.
    """
    source = Path(path)
    try:
        _check_is_file(source)
        with safe_open(source, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            names = list(file.keys())
            dtypes = {name: file.get_slice(name).get_dtype() for name in names[:_MOST_ARRAYS]}
            if wrong := _wrong(metadata, dtypes, len(names), kind):
                raise error(f"{source}: {wrong}")  # noqa: TRY301 -- passes below
            if mapped:
                return _mapped(source), metadata
            return {name: file.get_tensor(name) for name in names}, metadata
    except (BatchwrightError, MemoryError):
        raise
    except FileNotFoundError as fault:
        raise SourceNotFoundError(f"{source}: no such file. {kind.made_by}") from fault
    except OSError as fault:
        raise error(f"{source}: cannot be read ({fault.strerror or fault}).") from fault
    except Exception as fault:  # the library raises many kinds
        raise error(
            f"{source}: truncated, or not a safetensors file ({one_line(fault, 300)}). "
            f"{kind.made_by}"
        ) from fault


def _mapped(source: Path) -> Arrays:
    """Map the arrays of a file that the library has opened: their places are those it has."""
    with source.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {
        name: np.memmap(
            source,
            DTYPES[each["dtype"]],
            "r",
            8 + size + each["data_offsets"][0],
            tuple(each["shape"]),
        )
        for name, each in header.items()
    }


def _check_is_file(source: Path) -> None:
    if source.exists() and not source.is_file():
        raise ValueError("a folder, a pipe or a device")


def _wrong(
    metadata: Mapping[str, str], dtypes: Mapping[str, str], num_arrays: int, kind: Kind
) -> str | None:
    if metadata.get("format") != kind.format:
        return f"a safetensors file, but not {kind.name}. {kind.made_by}"
    version = metadata.get("format_version", "without a number")
    if version not in {kind.version, *map(str, kind.others)}:
        given = one_line(version, 40)
        return f"{kind.name} of format {given}, this version reads {kind.version}. {kind.made_by}"
    if num_arrays > _MOST_ARRAYS:
        return f"{num_arrays} arrays, more than {kind.name} has."
    for name, dtype in dtypes.items():
        if dtype not in DTYPES:
            shown = one_line(repr(name), 60)
            return f"{shown} has values of type {dtype}, which no file of Batchwright has."
    return None


def sealed(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> dict[str, str]:
    """Return metadata with a checksum of itself and of the arrays."""
    return dict(metadata) | {_CHECKSUM: _checksum(arrays, metadata)}


def check_seal(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Array],
    metadata: Mapping[str, str],
    kind: Kind,
    error: type[BatchwrightError],
) -> None:
    """Raise `error` unless a file holds exactly what was `sealed`."""
    if metadata.get(_CHECKSUM) != _checksum(arrays, metadata):
        raise error(f"{os.fspath(path)}: its bytes were changed after it was saved. {kind.made_by}")


def _checksum(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    hashed = hashlib.sha256()
    said = [[name, text] for name, text in sorted(metadata.items()) if name != _CHECKSUM]
    hashed.update(json.dumps(said).encode())
    for name, array in sorted(arrays.items()):
        little = _little_endian(array)
        hashed.update(json.dumps([name, little.dtype.str, little.shape]).encode())
        hashed.update(little.data)
    return hashed.hexdigest()


def _little_endian(array: Array) -> Array:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def write_npy(path: str | os.PathLike[str], array: Array, error: type[BatchwrightError]) -> None:
    """Write a `.npy` file of exactly this name, whole or not at all."""
    with replacing(path, error) as unfinished, unfinished.open("wb") as file:
        # Given a real file, NumPy reports how much it could not write, but not why.
        np.save(SimpleNamespace(write=file.write), array, allow_pickle=False)


def write_checked_npy(
    path: Path, array: Array, error: type[BatchwrightError], *, tidy: bool = True
) -> None:
    """Write a `.npy` file that has a checksum after its end, whole or not at all."""
    written = io.BytesIO()
    np.save(written, array, allow_pickle=False)
    content = written.getvalue()
    write_bytes(path, content + hashlib.sha256(content).digest(), error, tidy=tidy)


def read_checked_npy(path: Path) -> Array | None:
    """Read what `write_checked_npy` wrote; None where there is no file, or a damaged one."""
    try:
        content = path.read_bytes() if path.is_file() else b""  # a pipe would wait
    except OSError:
        return None
    array, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if hashlib.sha256(array).digest() != checksum:
        return None
    loaded: Array = np.load(io.BytesIO(array), allow_pickle=False)
    return loaded
