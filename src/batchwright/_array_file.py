"""Arrays on disk: safetensors files that carry a checksum of all they hold."""

import hashlib
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

from batchwright._files import replacing
from batchwright._format import one_line
from batchwright.errors import BatchwrightError

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]

DTYPES = {"I8": "|i1", "I64": "<i8", "F32": "<f4", "F64": "<f8"}
"""The types that our files hold, by their names there. Models have some that NumPy has not."""

_CHECKSUM = "sha256"

_LONGEST_REASON = 300
_MOST_ARRAYS = 1000


class Kind(NamedTuple):
    """What a file is one of.

    Attributes:
        format: The name in its metadata.
        version: The version of the format.
        name: The name in messages: "a plan".
        made_by: How to make one: a sentence.
    """

    format: str
    version: str
    name: str
    made_by: str

    @property
    def metadata(self) -> dict[str, str]:
        """What such a file says it is."""
        return {"format": self.format, "format_version": self.version}


def save_arrays(
    path: str | os.PathLike[str],
    arrays: Mapping[str, npt.NDArray[Any]],
    metadata: Mapping[str, str],
    error: type[BatchwrightError],
) -> None:
    """Write arrays and metadata as a safetensors file, whole or not at all.

    The library for such files makes one of its own beside it and moves that, so that neither the
    user's umask nor what must not be replaced (a pipe, a device) is respected: the few lines of the
    format are written here.

    Args:
        path: Where to; an existing file is replaced once the new one is whole.
        arrays: Of the types of `DTYPES`, by name.
        metadata: Text by name.
        error: What to raise where the file cannot be written.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    # Large items first: each array begins at a multiple of its item's size.
    ordered = sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize)
    laid_out = {name: np.ascontiguousarray(array) for name, array in ordered}
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in laid_out.items():
        begin, end = end, end + array.nbytes
        dtype = names[array.dtype.newbyteorder("<").str]
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path, error) as unfinished, unfinished.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in laid_out.values():
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).data)


def load_arrays(
    path: str | os.PathLike[str], kind: Kind, error: type[BatchwrightError]
) -> tuple[Arrays, dict[str, str]]:
    """Read a safetensors file of ours. Reading never executes code.

    Args:
        path: The file.
        kind: What it must be a file of.
        error: What to raise where it is none.

    Returns:
        The arrays by name, and the metadata.
    """
    source = Path(path)
    try:
        _check_is_file(source)
        with safe_open(source, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            _check_kind(source, metadata, kind, error)
            names = list(file.keys())
            if len(names) > _MOST_ARRAYS:
                raise error(f"{source}: {len(names)} arrays, more than {kind.name} has.")  # noqa: TRY301
            _check_dtypes(source, {name: file.get_slice(name).get_dtype() for name in names}, error)
            return {name: file.get_tensor(name) for name in names}, metadata
    except (BatchwrightError, MemoryError):
        raise
    except FileNotFoundError as fault:
        raise error(f"{source}: no such file. {kind.made_by}") from fault
    except OSError as fault:
        raise error(f"{source}: cannot be read ({fault.strerror or fault}).") from fault
    except Exception as fault:  # whatever the library says of bytes that are no such file
        raise error(
            f"{source}: truncated, or no safetensors file ({one_line(fault, _LONGEST_REASON)}). "
            f"{kind.made_by}"
        ) from fault


def write_npy(
    path: str | os.PathLike[str], array: npt.NDArray[Any], error: type[BatchwrightError]
) -> None:
    """Write a `.npy` file, whole or not at all; its name is kept as it is."""
    with replacing(path, error) as unfinished, unfinished.open("wb") as file:
        # Of a real file NumPy says only how much it could not write, not why.
        np.save(SimpleNamespace(write=file.write), array, allow_pickle=False)


def sealed(arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> dict[str, str]:
    """Add to metadata a checksum of all that a file holds."""
    return dict(metadata) | {_CHECKSUM: _checksum(arrays, metadata)}


def check_seal(
    path: str | os.PathLike[str],
    arrays: Mapping[str, npt.NDArray[Any]],
    metadata: Mapping[str, str],
    kind: Kind,
    error: type[BatchwrightError],
) -> None:
    """Raise unless a file is as `sealed` saw it."""
    if metadata.get(_CHECKSUM) != _checksum(arrays, metadata):
        raise error(f"{os.fspath(path)}: its bytes were changed after it was saved. {kind.made_by}")


def _checksum(arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> str:
    hashed = hashlib.sha256()
    said = [[name, text] for name, text in sorted(metadata.items()) if name != _CHECKSUM]
    hashed.update(json.dumps(said).encode())
    for name, array in sorted(arrays.items()):
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        hashed.update(json.dumps([name, little.dtype.str, little.shape]).encode())
        hashed.update(little.data)
    return hashed.hexdigest()


def _check_is_file(source: Path) -> None:
    if not source.exists():
        raise FileNotFoundError(source)
    if not source.is_file():
        raise ValueError("a folder, a pipe or a device")


def _check_kind(
    source: Path, metadata: Mapping[str, str], kind: Kind, error: type[BatchwrightError]
) -> None:
    if metadata.get("format") != kind.format:
        raise error(f"{source}: a safetensors file, but not {kind.name}. {kind.made_by}")
    version = metadata.get("format_version", "of no number")
    if version != kind.version:
        raise error(
            f"{source}: {kind.name} of format {one_line(version, 40)}, this version reads "
            f"{kind.version}. {kind.made_by}"
        )


def _check_dtypes(source: Path, dtypes: Mapping[str, str], error: type[BatchwrightError]) -> None:
    for name, dtype in dtypes.items():
        if dtype not in DTYPES:
            raise error(
                f"{source}: {one_line(repr(name), 60)} has values of type {dtype}, which no file "
                "of Batchwright has."
            )
