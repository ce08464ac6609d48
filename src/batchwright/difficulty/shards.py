"""Data that is scored shard by shard, and the folder that keeps the scores of finished shards."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchwright._array_file import read_checked_npy, write_checked_npy
from batchwright._files import remove_unfinished, write_bytes
from batchwright._format import one_line
from batchwright._states import parsed
from batchwright.errors import LengthsError, SourceError
from batchwright.sources.columns import source_of
from batchwright.sources.table import Place, Values, first_null, kind_of, type_of
from batchwright.typing import Batch, FloatArray, Sample

MANIFEST = "manifest.json"
SHARDS = "shard-*.npy"

_FORMAT = {"format": "batchwright-scores", "format_version": 1}
_PROBES = 64


class Shard(NamedTuple):
    """Consecutive samples.

    Attributes:
        number: Which shard, from 0.
        first: Its first sample.
        samples: What a metric takes; of a column, pieces of rows with where they come from.
        num_rows: How many.
        fraction: How much of the source has been read.
    """

    number: int
    first: int
    samples: Batch
    num_rows: int
    fraction: float


def slices(source: Sequence[Sample], size: int, skip: Container[int] = ()) -> Iterator[Shard]:
    """Slice samples into shards of `size`; skipped ones have None."""
    for number, start in enumerate(range(0, len(source), size)):
        stop = min(start + size, len(source))
        samples = None if number in skip else source[start:stop]
        yield Shard(number, start, samples, stop - start, stop / len(source))


class Column:
    """A column of whatever a path stands for, or the lines of a `.txt`, read in shards.

    Args:
        source: The path.
        column: Its name; None: found by name, as `sources.read_lengths` does.
        measure: What will be measured of it, for finding the column. None: numbers, or lists.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        column: str | None = None,
        *,
        measure: str | None = "characters",
    ) -> None:
        self._source = source_of(source, lines=True)
        self._column = column
        self._measure = measure
        self.name = self._source.name

    def identity(self) -> list[object]:
        """Return what distinguishes the content and this column from others."""
        return [self._source.content(), self._column]

    def shards(self, size: int, skip: Container[int] = ()) -> Iterator[Shard]:
        """Go through the column, `size` rows at a time, without keeping the rows of some shards.

        Raises:
            SourceError: The source has no rows, or is damaged.
            LengthsError: A row is null.
        """
        number, held, rows, fraction = 0, [], 0, 0.0
        for values, place, fraction in self._source.rows(self._column, measure=self._measure):
            if (null := first_null(values)) is not None:
                raise LengthsError(
                    f"{place.row(null)} is null. Every sample needs a score: fill or filter it."
                )
            start = 0
            while start < len(values):
                stop = min(len(values), start + size - rows)
                if number not in skip:
                    there = place._replace(first_row=place.first_row + start)
                    held.append((values[start:stop], there))
                rows += stop - start
                start = stop
                if rows == size:
                    yield Shard(number, number * size, held, rows, fraction)
                    number, held, rows = number + 1, [], 0
        if rows:
            yield Shard(number, number * size, held, rows, fraction)


def as_batch(pieces: list[tuple[Values, Place]]) -> Batch:
    """Return the rows of a shard as a metric takes them.

    That is list[str] of text, list[bytes] of binary, a list of lists, or number[m].

    Raises:
        SourceError: The column holds something else.
    """
    parts: list[Batch] = []
    for values, place in pieces:
        kind = kind_of(values)
        if isinstance(values, np.ndarray):
            parts.append(values)
        elif kind == "numbers":
            parts.append(values.to_numpy(zero_copy_only=False))
        elif kind in {"text", "binary", "lists"}:
            parts.append(values.to_pylist())
        else:
            raise SourceError(
                f"{place} is of type {type_of(values)}; expected text, numbers or lists."
            )
        if type(parts[-1]) is not type(parts[0]):
            raise SourceError(f"{place.row(0)} has another type than the rows before it.")
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [*chain(*parts)]


class ShardFolder:
    """A folder of scores: one `.npy` per shard, and a manifest of the facts they depend on.

    A shard is there whole or not at all. The folder is made where it is missing.

    Raises:
        LengthsError: The folder is of something else, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], facts: Mapping[str, object]) -> None:
        self.path = Path(path)
        manifest = self.path / MANIFEST
        wanted = json.loads(json.dumps(_FORMAT | dict(facts)))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.path)
            if not manifest.exists() and next(self.path.glob(SHARDS), None) is None:
                text = json.dumps(wanted, indent=2) + "\n"
                write_bytes(manifest, text.encode(), LengthsError)
            found = dict(parsed(manifest.read_bytes()))
        except LengthsError:
            raise
        except (OSError, ValueError, TypeError) as error:
            raise LengthsError(
                f"{self.path} is not a folder of scores: {one_line(error)}. Choose another folder."
            ) from error
        for name in [*wanted, *found]:
            there, here = found.get(name), wanted.get(name)
            if there != here:
                raise LengthsError(
                    f"{self.path} holds scores of something else: {name} is "
                    f"{one_line(json.dumps(there), 60)} there, {one_line(json.dumps(here), 60)} "
                    "here. Choose another folder, or remove it."
                )

    def scores(self) -> dict[int, FloatArray]:
        """Return the scores of all shards that are finished and not damaged, by number."""
        found: dict[int, FloatArray] = {}
        for file in sorted(self.path.glob(SHARDS)):
            number = file.stem.removeprefix("shard-")
            if number.isdecimal() and (scores := read_checked_npy(file)) is not None:
                found[int(number)] = scores
        return found

    def save(self, number: int, scores: FloatArray) -> None:
        """Keep the scores of a shard, whole or not at all.

        Raises:
            LengthsError: The disk is full or read-only.
        """
        # Looking for what killed writers left takes longer with every shard: once is enough.
        file = self.path / f"shard-{number:08d}.npy"
        write_checked_npy(file, scores, LengthsError, tidy=False)


def data_facts(source: Sequence[Sample]) -> dict[str, object]:
    """Return how many rows there are, and a hash of some of them."""
    size = len(source)
    digest = hashlib.sha256()
    for index in np.unique(np.linspace(0, size - 1, _PROBES).astype(np.int64)).tolist():
        digest.update(_bytes(source[index]))
    return {"num_samples": size, "data": digest.hexdigest()[:32]}


def metric_name(metric: Callable[[Batch], npt.ArrayLike]) -> str:
    """Return the name of a metric, with a hash of its code where it has any."""
    function = getattr(metric, "func", metric)  # of a functools.partial
    named = function if hasattr(function, "__qualname__") else type(function)
    name = f"{named.__module__}.{named.__qualname__}"
    code = getattr(function, "__code__", None)
    if code is None:
        return name
    return f"{name}#{hashlib.sha256(code.co_code + repr(code.co_names).encode()).hexdigest()[:12]}"


def _bytes(value: Sample) -> bytes:
    """Write a row out so that equal rows have equal bytes in every process."""
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
    if array.dtype == object:  # an image, a record: only its type can be compared
        return f"<{type(value).__qualname__}>".encode()
    return f"{array.dtype.str}{array.shape}".encode() + array.tobytes()
