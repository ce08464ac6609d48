"""Scores of finished shards, kept in a folder, so that scoring goes on where it was cut off."""

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from batchwright._files import remove_unfinished, write_bytes
from batchwright._states import parsed
from batchwright.errors import ScoresError
from batchwright.typing import FloatArray

FORMAT = "batchwright-scores"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SHARDS = "shard-*.npy"

_PROBES = 64

_CHECKSUM_BYTES = hashlib.sha256().digest_size


class ShardFolder:
    """A folder of scores: one `.npy` per shard, and a manifest of what they are scores of.

    A shard is there whole or not at all. Making the folder, or opening it again, checks that it
    is of the same data, metric and shard size.

    Args:
        path: The folder; made where it is missing.
        facts: What the scores depend on, as JSON can keep it.

    Raises:
        ScoresError: The folder is of something else, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], facts: Mapping[str, Any]) -> None:
        self.path = Path(path)
        manifest = {"format": FORMAT, "format_version": FORMAT_VERSION} | dict(facts)
        wanted: dict[str, Any] = json.loads(json.dumps(manifest))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.path)
            if not (self.path / MANIFEST).exists():
                self._check_bare()
                text = json.dumps(wanted, indent=2) + "\n"
                write_bytes(self.path / MANIFEST, text.encode(), ScoresError)
            found = dict(parsed((self.path / MANIFEST).read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            if isinstance(error, ScoresError):
                raise
            reason = " ".join(str(error).split())
            raise ScoresError(f"{self.path} is no folder of scores: {reason}.") from error
        names = [*wanted, *(name for name in found if name not in wanted)]
        other = [name for name in names if found.get(name) != wanted.get(name)]
        if other:
            raise ScoresError(
                f"{self.path} holds scores of something else: {other[0]} is "
                f"{_short(found.get(other[0]))} there, {_short(wanted.get(other[0]))} here. Choose "
                "another folder, or remove it."
            )

    def load(self, number: int) -> FloatArray | None:
        """Return the scores of a shard, or None where it is not finished, or damaged."""
        try:
            content = self._file(number).read_bytes()
        except OSError:
            return None
        content, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
        if hashlib.sha256(content).digest() != checksum:
            return None
        scores: FloatArray = np.load(io.BytesIO(content), allow_pickle=False)
        return scores

    def save(self, number: int, scores: FloatArray) -> None:
        """Keep the scores of a shard: whole or not at all, whatever interrupts it.

        The file is a `.npy`, with a checksum after its end.

        Raises:
            ScoresError: The disk is full or read-only.
        """
        written = io.BytesIO()
        np.save(written, scores, allow_pickle=False)
        content = written.getvalue()
        checksum = hashlib.sha256(content).digest()
        # Looking for what killed writers left takes longer with every shard: once is enough.
        write_bytes(self._file(number), content + checksum, ScoresError, tidy=False)

    def finished(self) -> list[int]:
        """Return the numbers of the shards that are there, sorted."""
        return sorted(int(path.stem[6:]) for path in self.path.glob(SHARDS))

    def _file(self, number: int) -> Path:
        return self.path / f"shard-{number:08d}.npy"

    def _check_bare(self) -> None:
        # Scores without a manifest are of who knows what.
        if next(self.path.glob(SHARDS), None) is not None:
            raise ScoresError(f"{self.path} has shards but no {MANIFEST}. Choose another folder.")


def data_facts(source: Sequence[Any]) -> dict[str, Any]:
    """Tell data from other data: how many rows there are, and a hash of some of them."""
    size = len(source)
    digest = hashlib.sha256()
    for index in np.unique(np.linspace(0, size - 1, _PROBES).astype(np.int64)).tolist():
        digest.update(_bytes(source[index]))
    return {"num_samples": size, "data": digest.hexdigest()[:32]}


def metric_name(metric: Any) -> str:
    """Name a metric, and tell it from others of that name by its code, where it has any."""
    function = getattr(metric, "func", metric)  # of a functools.partial
    named = function if hasattr(function, "__qualname__") else type(function)
    name = f"{named.__module__}.{named.__qualname__}"
    code = getattr(function, "__code__", None)
    if code is None:
        return name
    return f"{name}#{hashlib.sha256(code.co_code + repr(code.co_names).encode()).hexdigest()[:12]}"


def _bytes(value: Any) -> bytes:
    """Write a row out so that equal rows have equal bytes, in this process and in others."""
    match value:
        case str() | bytes() | int() | float() | bool() | None:
            return f"{type(value).__name__}:{value!r};".encode("utf-8", "surrogatepass")
        case Mapping():
            pairs = (_bytes(key) + _bytes(each) for key, each in value.items())
            return b"{" + b"".join(pairs) + b"}"
        case list() | tuple():
            return b"[" + b"".join(map(_bytes, value)) + b"]"
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        array = np.empty(0, dtype=object)
    if array.dtype == object:  # an image, a record: only its type can be told
        return f"<{type(value).__qualname__}>".encode()
    return f"{array.dtype.str}{array.shape}".encode() + array.tobytes()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:59] + "…"
