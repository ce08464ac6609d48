"""A folder with the measurements of each shard, and one small index file for all of them."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from glob import escape
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from batchwright._array_file import Arrays, Kind, check_seal, load_arrays, save_arrays, sealed
from batchwright._format import one_line
from batchwright.batching.cut import offsets_of
from batchwright.errors import PlanError, SourceError, SourceNotFoundError
from batchwright.shard_index import ShardIndex
from batchwright.sources import uris
from batchwright.sources.shards import ShardFacts, absolute, column_of, facts_of
from batchwright.sources.uris import Location

INDEX_FILE = "_index.safetensors"

DIGITS = 6
"""Of the number that the name of a shard's file begins with, at least."""

_KIND = Kind(
    "batchwright-shard-index", "1", "an index of shards", "Run `batchwright index …` again."
)
_REQUESTS = 32  # to a file system at a time

R = TypeVar("R")

Listing: TypeAlias = Mapping[str, uris.Facts]
"""Facts about files, as a file system lists them, by URI."""


def open_index(folder: Location, *, check: bool = True) -> ShardIndex:
    """Open the index in a folder that `index_shards` or `batchwright index` wrote.

    The rows of a shard are read when a plan needs them.

    Args:
        folder: The folder, a path or a URI.
        check: Whether to check that size and time of every shard are as when it was measured.

    Raises:
        SourceNotFoundError: There is no index, or a shard is missing.
        SourceError: The index is damaged, or a shard was changed after it was indexed.
    """
    return _opened(folder, check=check, is_sealed=True)


def open_folder(folder: Location) -> ShardIndex | None:
    """Open the index in a folder; return None if there is none.

    Raises:
        SourceError: As `open_index`; or shards were measured, but the index was not written.
    """
    if uris.exists(uris.joined(folder, INDEX_FILE)):
        return open_index(folder)
    names = uris.matches(uris.joined(escape(os.fspath(folder)), f"{'[0-9]' * DIGITS}*-*.parquet"))
    if names and facts_of(names[0]) is not None:
        raise SourceError(
            f"{folder} has files of shards but no {INDEX_FILE}: perhaps not all were measured. "
            f"Run `batchwright index SOURCE -o {folder}` to its end."
        )
    return None


def _opened(folder: Location, *, check: bool, is_sealed: bool) -> ShardIndex:
    arrays, shards, facts = _load(folder, is_sealed=is_sealed)
    if check:
        _check_sources(shards, facts, folder)
    rows_of = ShardRows(
        absolute(folder),
        tuple(each["file"] for each in shards),
        tuple(each["fingerprint"] for each in shards),
        tuple(arrays["sizes"].tolist()),
    )
    return IndexFolder(
        tuple(each["uri"] for each in shards),
        arrays["sizes"],
        arrays["begins"],
        arrays["values"],
        arrays["counts"],
        rows_of,
        facts["fingerprint"],
        absolute(folder),
        tuple((each["size"], each["stamp"]) for each in shards),
    )


def index_scores(folder: Location, name: str) -> npt.NDArray[np.float32]:
    """Read the scores of all samples, float32[n], in the order of the shards and their rows.

    Args:
        folder: A folder that `index_shards` wrote with `scores`.
        name: Which of them.

    Raises:
        SourceError: There are no such scores, or a file is missing or damaged.
    """
    arrays, shards, _ = _load(folder, is_sealed=True)
    sizes = arrays["sizes"].tolist()
    tasks = [
        (uris.joined(folder, each["file"]), name, each["fingerprint"], size)
        for each, size in zip(shards, sizes, strict=True)
    ]
    return np.concatenate(all_at_once(_column_of, tasks))


@dataclass(frozen=True, eq=False, repr=False)
class IndexFolder(ShardIndex):
    """An index of which a pickle has only the folder."""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the folder."""
        return _reopened, (self.path, self.fingerprint)


def _reopened(folder: str, fingerprint: str) -> ShardIndex:
    index = _opened(folder, check=False, is_sealed=False)
    if index.fingerprint != fingerprint:
        raise PlanError(f"{folder} was built again for other lengths. Plan again.")
    return index


@dataclass(frozen=True)
class ShardRows:
    """Reads the rows of a shard from long to short, uint32[size of the shard]; caches nothing.

    Attributes:
        folder: The folder of the files of shards.
        files: The name of each.
        fingerprints: Hash of the lengths of each shard.
        sizes: How many rows each shard has.
    """

    folder: str
    files: tuple[str, ...]
    fingerprints: tuple[str, ...]
    sizes: tuple[int, ...]

    def __call__(self, shard: int) -> npt.NDArray[np.uint32]:
        """Read a shard's rows.

        Raises:
            SourceError: The file is missing, damaged, or of other lengths.
        """
        file = uris.joined(self.folder, self.files[shard])
        return _column_of(file, "order", self.fingerprints[shard], self.sizes[shard])


def _column_of(file: Location, name: str, fingerprint: str, num_rows: int) -> npt.NDArray[Any]:
    try:
        return column_of(file, name, fingerprint, num_rows)
    except SourceError as error:
        kind = SourceNotFoundError if isinstance(error, SourceNotFoundError) else SourceError
        raise kind(f"{str(error).removesuffix('.')}. {_KIND.made_by}") from error


def save_index(
    folder: Location, names: Sequence[str], facts: Sequence[ShardFacts], about: dict[str, Any]
) -> None:
    """Merge the facts of shards, and write the index."""
    sizes = np.array([each.num_rows for each in facts], np.int64)
    if not sizes.sum():
        raise SourceError(f"{about['source']} has no rows.")
    arrays = {
        "sizes": sizes,
        "begins": offsets_of([each.values.size for each in facts]),
        "values": np.concatenate([each.values for each in facts]),
        "counts": np.concatenate([each.counts for each in facts]),
    }
    shards = [
        {
            "uri": each.uri,
            "file": name,
            "size": each.size,
            "stamp": each.stamp,
            "fingerprint": each.fingerprint,
        }
        for name, each in zip(names, facts, strict=True)
    ]
    text = json.dumps(about | {"fingerprint": _fingerprint(facts), "shards": shards})
    metadata = sealed(arrays, _KIND.metadata | {"index": text})
    with tempfile.TemporaryDirectory(prefix="batchwright-") as place:
        file = Path(place, INDEX_FILE)
        save_arrays(file, arrays, metadata, SourceError)
        uris.written(uris.joined(folder, INDEX_FILE), file.read_bytes())


def _fingerprint(facts: Sequence[ShardFacts]) -> str:
    """Hash the lengths of all shards, using the hash and size of each."""
    said = [[each.fingerprint, each.num_rows] for each in facts]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def _load(
    folder: Location, *, is_sealed: bool
) -> tuple[Arrays, list[dict[str, Any]], dict[str, Any]]:
    """Read an index: its arrays, the facts about each shard, and the rest.

    With `is_sealed`, all of it is read and checked. On this machine, arrays are memory-mapped.
    """
    where = uris.joined(folder, INDEX_FILE)
    if not uris.exists(where):
        raise SourceNotFoundError(
            f"{folder} has no {INDEX_FILE}: `batchwright index SOURCE -o {folder}` writes it, also "
            "if all shards were measured already."
        )
    with tempfile.TemporaryDirectory(prefix="batchwright-") as place:
        path = uris.local_path(where)
        file = Path(place, INDEX_FILE) if path is None else path
        if path is None:
            with uris.opened(where) as opened:
                file.write_bytes(opened.read())
        try:
            arrays, metadata = load_arrays(file, _KIND, SourceError, mapped=path is not None)
            if is_sealed:
                check_seal(where, arrays, metadata, _KIND, SourceError)
        except SourceError as error:
            raise SourceError(str(error).replace(str(file), str(where))) from error
    facts = json.loads(metadata["index"])
    return arrays, facts.pop("shards"), facts


def _check_sources(
    shards: Sequence[dict[str, Any]], facts: Mapping[str, Any], folder: Location
) -> None:
    """Raise unless every shard is unchanged since it was measured."""
    again = f"Run `{_command(facts, folder)}` again."
    listing = listed([shard["uri"] for shard in shards])

    def wrong(shard: dict[str, Any]) -> str | None:
        before = shard["size"], shard["stamp"]
        now = stamp_now(listing, shard["uri"], before)
        if now is None:
            return "is missing"
        if now[0] < before[0]:
            return f"was cut off after it was indexed, from {before[0]:,} to {now[0]:,} bytes"
        return None if now == before else "was changed after it was indexed"

    for shard, said in zip(shards, all_at_once(wrong, [(each,) for each in shards]), strict=True):
        if said is not None:
            kind = SourceNotFoundError if said == "is missing" else SourceError
            raise kind(f"{one_line(shard['uri'])} {said}. {again}")


def _command(facts: Mapping[str, Any], folder: Location) -> str:
    """Return the command that measures the same again."""
    measured = facts["measured"]
    options = {
        "--length": measured["column"],
        "--measure": measured["measure"],
        "--tokenizer": "TOKENIZER" if measured["tokenizer"] else None,
        "--empty": measured["empty"],
    }
    given = [(option, value) for option, value in options.items() if value is not None]
    given += [("--score", name) for name in measured["scores"]]
    words = ["batchwright", "index", facts["source"], "-o", str(folder)]
    return shlex.join([*words, *chain.from_iterable(given)])


def listed(shards: Sequence[str]) -> Listing:
    """Ask remote file systems for all shards, with one listing per folder."""
    folders = {folder_of(shard) for shard in shards if uris.is_uri(shard)}
    listings = all_at_once(_listing_of, [(folder,) for folder in sorted(folders)])
    return {uri: facts for listing in listings for uri, facts in listing.items()}


def _listing_of(folder: str) -> Listing:
    try:
        return uris.facts_of_folder(folder)
    except SourceError:  # missing, or cannot be listed: each shard is asked for
        return {}


def stamp_now(listing: Listing, shard: str, before: tuple[int, str]) -> tuple[int, str] | None:
    """Return size and stamp of a shard; None if it is missing. A listing may lack the stamp."""
    facts = listing.get(shard)
    if facts is not None and (facts.size, facts.etag or facts.time) == before:
        return before
    try:
        return uris.stamp(shard)
    except SourceNotFoundError:
        return None


def folder_of(shard: str) -> str:
    """Return the folder or bucket that a shard is in."""
    return shard.rpartition("/")[0] if uris.is_uri(shard) else str(Path(shard).parent)


def all_at_once(function: Callable[..., R], tasks: Sequence[tuple[Any, ...]]) -> list[R]:
    """Call a function that waits for a file system, for many tasks at the same time."""
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(function, *zip(*tasks, strict=True)))
