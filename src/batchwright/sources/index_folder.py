"""A folder of what was measured of each shard, and one small file that says what all hold."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from glob import escape
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from batchwright._array_file import (
    Arrays,
    Kind,
    check_seal,
    load_arrays,
    save_arrays,
    sealed,
)
from batchwright._checks import check_choice, whole_number
from batchwright._files import remove_unfinished
from batchwright._format import one_line, plural
from batchwright.errors import PlanError, SourceError, SourceNotFoundError
from batchwright.shard_index import ShardIndex
from batchwright.sources import files, text_files, uris
from batchwright.sources.engines import ENGINES, Engine, mapped
from batchwright.sources.locations import located
from batchwright.sources.measures import Tokenizer
from batchwright.sources.progress import progress_bar
from batchwright.sources.scores import Metric
from batchwright.sources.shards import (
    Asked,
    ShardFacts,
    absolute,
    column_of,
    facts_of,
    index_shard,
)
from batchwright.sources.uris import Location

INDEX_FILE = "_index.safetensors"

_KIND = Kind(
    "batchwright-shard-index", "1", "an index of shards", "Run `batchwright index …` again."
)
_REQUESTS = 32  # to a file system at a time
_DIGITS = 6
_MOST_CHARACTERS = 60  # of a shard's name: with all else, 255 bytes of UTF-8
_NAMED = 5  # files that a message names

R = TypeVar("R")

Listing: TypeAlias = Mapping[str, uris.Facts]
"""What a file system said of its files, by URI."""


def index_shards(
    source: Location,
    folder: Location,
    *,
    column: str | None = None,
    measure: str | None = None,
    tokenizer: Tokenizer | None = None,
    empty: Literal["one"] | None = None,
    scores: Mapping[str, Metric] | None = None,
    on: Engine = "local",
    workers: int | None = None,
    progress: bool | None = None,
) -> ShardIndex:
    r"""Measure a corpus shard by shard, and merge what was found into one index.

    Calls `index_shard` for every file of the source that has no complete file in the folder: after
    a run that was killed, or where jobs of your own have measured some or all, only what is
    missing. Kilobytes of each shard come back.

    Args:
        source: A file, a folder of shards, or a pattern, as `read_lengths` takes them; or a URI of
            any of these.
        folder: Where the files of shards go, and the index. Put nothing else there.
        column: Which column; see `read_lengths`.
        measure: How it becomes lengths; see `read_lengths`.
        tokenizer: What counts tokens; see `read_lengths`.
        empty: What rows that are empty or missing count as; see `index_shard`.
        scores: Name → metric; see `index_shard`.
        on: "local" measures in processes of this machine, "ray" with Ray Data, on the cluster that
            `ray.init` connected to. Its workers must reach source and folder.
        workers: Shards that are measured at a time. None: one for each core; on Ray, what Ray
            decides. 1: in this process.
        progress: Show a progress bar, as `read_lengths` does.

    Returns:
        The index, as `open_index` returns it.

    Raises:
        SourceNotFoundError: There are no such shards.
        SourceError: A shard cannot be read, or the folder holds other files.
        LengthsError: A row of a shard cannot be measured.
        MissingExtraError: `on="ray"` without Ray, or a package that the source needs.

    Example:
        >>> import pathlib, tempfile
        >>> import batchwright as bw
        >>> with tempfile.TemporaryDirectory() as place:
        ...     corpus = pathlib.Path(place, "corpus")
        ...     corpus.mkdir()
        ...     _ = corpus.joinpath("a.csv").write_text("length\n3\n5\n")
        ...     _ = corpus.joinpath("b.csv").write_text("length\n4\n")
        ...     index = index_shards(corpus, f"{place}/index", workers=1)
        ...     len(bw.Planner(index, max_tokens=8))
        2
    """
    how = {
        "column": column,
        "measure": measure,
        "tokenizer": tokenizer,
        "empty": empty,
        "scores": scores,
    }
    return indexed(source, folder, how, on=on, workers=workers, progress=progress).shards


class Indexed(NamedTuple):
    """An index, and how many of its shards were measured before."""

    shards: ShardIndex
    kept: int


def indexed(
    source: Location,
    folder: Location,
    how: Mapping[str, Any],
    *,
    on: Engine,
    workers: int | None,
    progress: bool | None,
) -> Indexed:
    """Measure what is missing and merge; see `index_shards`. `how` is passed to `index_shard`."""
    check_choice("index_shards", "on", on, ENGINES, SourceError)
    if workers is not None:
        workers = whole_number("index_shards", "workers", workers, error=SourceError)
    if on == "local" and (_is_of_one_process(source) or _is_of_one_process(folder)):
        workers = 1
    asked, home = Asked.of(**how), absolute(folder)
    tasks = index_tasks(source, home)
    names = [Path(place).name for _, place in tasks]
    _prepare(home, names)
    facts = _all_at_once(partial(_kept, asked, _listed([shard for shard, _ in tasks])), tasks)
    left = [number for number, each in enumerate(facts) if each is None]
    kept = len(tasks) - len(left)
    measure, missing = partial(index_shard, **how), [tasks[number] for number in left]
    with (
        progress_bar(f"Measuring {plural(len(tasks), 'shard')}", show=progress) as advance,
        closing(mapped(measure, missing, on=on, workers=workers)) as results,
    ):
        advance(kept / len(tasks))
        for done, (number, found) in enumerate(results, kept + 1):
            facts[left[number]] = found
            advance(done / len(tasks))
    complete = [each for each in facts if each is not None]
    _save(home, names, complete, {"source": absolute(located(source)), "measured": asked.facts})
    return Indexed(open_index(home, check=False), kept)


def index_tasks(source: Location, folder: Location) -> list[tuple[str, str]]:
    """List the shards of a source, and the file of each in the folder of their index.

    For an engine of your own, which calls `index_shard` with each pair, somewhere; `index_shards`
    then finds all measured, and merges. Files that a pattern finds in the folder itself are no
    shards.

    Args:
        source: As `index_shards` takes it.
        folder: The folder, a path or a URI.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     corpus = pathlib.Path(place, "corpus")
        ...     corpus.mkdir()
        ...     for name in ("a.csv", "b.csv"):
        ...         _ = corpus.joinpath(name).write_text("length,3")
        ...     [pathlib.Path(file).name for _, file in index_tasks(corpus, f"{place}/index")]
        ['000000-a.parquet', '000001-b.parquet']
    """
    home = absolute(folder)
    shards = _outside(home, [absolute(shard) for shard in files.files_of(located(source))])
    # Names are in the order of the shards.
    digits = max(_DIGITS, len(str(len(shards) - 1)))
    names = [f"{n:0{digits}d}-{_stem(shard)}.parquet" for n, shard in enumerate(shards)]
    places = [str(uris.joined(home, name)) for name in names]
    return list(zip(shards, places, strict=True))


def open_index(folder: Location, *, check: bool = True) -> ShardIndex:
    """Open the index in a folder that `index_shards` or `batchwright index` wrote.

    The rows of a shard are read when a plan needs them.

    Args:
        folder: The folder, a path or a URI.
        check: Whether to compare size and time of every shard with those when it was measured.

    Raises:
        SourceNotFoundError: There is no index, or a shard is missing.
        SourceError: The index is damaged, or a shard was changed after it was indexed.
    """
    return _opened(folder, check=check, is_sealed=True)


def open_folder(folder: Location) -> ShardIndex | None:
    """Open the index in a folder, or return None: it holds none.

    Raises:
        SourceError: As `open_index`; or shards were measured there, and the index is not written.
    """
    if uris.exists(uris.joined(folder, INDEX_FILE)):
        return open_index(folder)
    names = uris.matches(uris.joined(escape(os.fspath(folder)), f"{'[0-9]' * _DIGITS}*-*.parquet"))
    if names and facts_of(names[0]) is not None:
        raise SourceError(
            f"{folder} holds files of shards, and no {INDEX_FILE}: not all are measured, perhaps. "
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
    return np.concatenate(_all_at_once(_column_of, tasks))


@dataclass(frozen=True, eq=False, repr=False)
class IndexFolder(ShardIndex):
    """An index that a pickle holds by its folder alone."""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle where it is."""
        return _reopened, (self.path, self.fingerprint)


def _reopened(folder: str, fingerprint: str) -> ShardIndex:
    index = _opened(folder, check=False, is_sealed=False)
    if index.fingerprint != fingerprint:
        raise PlanError(f"{folder} has been built anew for other lengths. Plan again.")
    return index


@dataclass(frozen=True)
class ShardRows:
    """Reads the rows of a shard from long to short, uint32[size of the shard]; keeps none.

    Attributes:
        folder: Where the files of shards are.
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


def _outside(folder: str, shards: list[str]) -> list[str]:
    """Return the shards that are not in a folder; all, if there are no others."""
    holders = {shard: _holder(shard) for shard in shards}
    inside = {holder for holder in set(holders.values()) if _is_same(holder, folder)}
    return [shard for shard in shards if holders[shard] not in inside] or shards


def _holder(shard: str) -> str:
    return shard.rpartition("/")[0] if uris.is_uri(shard) else str(Path(shard).parent)


def _is_same(folder: str, other: str) -> bool:
    if uris.is_uri(folder) or uris.is_uri(other):
        return folder.rstrip("/") == other.rstrip("/")
    return os.path.realpath(folder) == os.path.realpath(other)


def _is_of_one_process(location: Location) -> bool:
    """Return whether other processes of this machine have other files there."""
    return uris.is_uri(location) and uris.split(os.fspath(location))[1].lower() == "memory://"


def _stem(shard: str) -> str:
    """Return a shard's name without what says its format.

    Example:
        >>> _stem("s3://bucket/a-1.of-2.jsonl.gz"), _stem("/data/b.parquet")
        ('a-1.of-2', 'b')
    """
    path = Path(Path(shard).name)
    if path.suffix.lower() in text_files.CODECS:
        path = path.with_suffix("")
    return path.stem[:_MOST_CHARACTERS]


def _prepare(folder: Location, names: Sequence[str]) -> None:
    """Make a folder, and refuse one that holds files of data or of other shards.

    They would be read as parts of the index, or the index as a part of the data.
    """
    if (path := uris.local_path(folder)) is not None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise SourceError(f"{folder}: cannot be made a folder ({reason}).") from error
        remove_unfinished(path)
    there = [Path(each).name for each in uris.matches(uris.joined(escape(str(folder)), "*"))]
    ours = set(names)
    others = [
        name
        for name in there
        if name not in ours and not name.startswith((".", "_")) and files.format_of(Path(name))
    ]
    if others:
        more = len(others) - _NAMED
        named = ", ".join(others[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
        is_measured = facts_of(uris.joined(folder, others[0])) is not None
        why = (
            " They are of other data, or were measured before shards were added between others, "
            "renamed or removed: shards are numbered by name."
        )
        raise SourceError(
            f"{folder} holds files that are not of these shards: {named}."
            f"{why if is_measured else ''} Remove them, or name another folder for the index."
        )


def _kept(asked: Asked, listing: Listing, shard: str, place: str) -> ShardFacts | None:
    """Return the facts of a shard that was measured already and is as it was then."""
    facts = facts_of(place)
    now = None if facts is None else _stamp_now(listing, shard, (facts.size, facts.stamp))
    is_kept = facts is not None and now is not None and asked.is_answered_by(facts, shard, now)
    return facts if is_kept else None


def _listed(shards: Sequence[str]) -> Listing:
    """Ask remote file systems for all shards, by one listing of each folder."""
    folders = {_holder(shard) for shard in shards if uris.is_uri(shard)}
    listings = _all_at_once(_listing_of, [(folder,) for folder in sorted(folders)])
    return {uri: facts for listing in listings for uri, facts in listing.items()}


def _listing_of(folder: str) -> Listing:
    try:
        return uris.facts_of_folder(folder)
    except SourceError:  # is missing, or cannot be listed: each shard is asked for
        return {}


def _stamp_now(listing: Listing, shard: str, before: tuple[int, str]) -> tuple[int, str] | None:
    """Return size and stamp of a shard; None: it is missing. A listing alone may know less."""
    facts = listing.get(shard)
    if facts is not None and (facts.size, facts.etag or facts.time) == before:
        return before
    try:
        return uris.stamp(shard)
    except SourceNotFoundError:
        return None


def _all_at_once(function: Callable[..., R], tasks: Sequence[tuple[Any, ...]]) -> list[R]:
    """Call a function that waits for a file system, many times at once."""
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(function, *zip(*tasks, strict=True)))


def _save(
    folder: Location, names: Sequence[str], facts: Sequence[ShardFacts], about: dict[str, Any]
) -> None:
    """Merge the facts of shards, and write the index."""
    sizes = np.array([each.num_rows for each in facts], np.int64)
    if not sizes.sum():
        raise SourceError(f"{about['source']} has no rows.")
    many = [len(each.values) for each in facts]
    arrays = {
        "sizes": sizes,
        "begins": np.append(0, np.cumsum(many, dtype=np.int64)),
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
    """Hash the lengths of all shards, by the hashes and sizes of each."""
    said = [[each.fingerprint, each.num_rows] for each in facts]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def _load(
    folder: Location, *, is_sealed: bool
) -> tuple[Arrays, list[dict[str, Any]], dict[str, Any]]:
    """Read an index: its arrays, what it says of each shard, and the rest.

    With `is_sealed`, all of it is read and checked. On this machine, arrays are memory-mapped.
    """
    where = uris.joined(folder, INDEX_FILE)
    if not uris.exists(where):
        raise SourceNotFoundError(
            f"{folder} has no {INDEX_FILE}: `batchwright index SOURCE -o {folder}` makes one, also "
            "of shards that were measured already."
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


def _command(facts: Mapping[str, Any], folder: Location) -> str:
    """Write the command that measures the same again."""
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


def _check_sources(
    shards: Sequence[dict[str, Any]], facts: Mapping[str, Any], folder: Location
) -> None:
    """Raise unless every shard is as it was when it was measured."""
    again = f"Run `{_command(facts, folder)}` again."
    listing = _listed([shard["uri"] for shard in shards])

    def wrong(shard: dict[str, Any]) -> str | None:
        before = shard["size"], shard["stamp"]
        now = _stamp_now(listing, shard["uri"], before)
        if now is None:
            return "is missing"
        if now[0] < before[0]:
            return f"was cut off after it was indexed, from {before[0]:,} to {now[0]:,} bytes"
        return None if now == before else "was changed after it was indexed"

    for shard, said in zip(shards, _all_at_once(wrong, [(each,) for each in shards]), strict=True):
        if said is not None:
            kind = SourceNotFoundError if said == "is missing" else SourceError
            raise kind(f"{one_line(shard['uri'])} {said}. {again}")
