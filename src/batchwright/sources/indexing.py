"""Measures a corpus shard by shard, and merges what was found into one index."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any, Literal, NamedTuple

from batchwright._checks import check_choice, whole_number
from batchwright._files import remove_unfinished
from batchwright._format import plural
from batchwright.errors import SourceError
from batchwright.shard_index import ShardIndex
from batchwright.sources import files, text_files, uris
from batchwright.sources.engines import ENGINES, Engine, mapped
from batchwright.sources.index_folder import (
    DIGITS,
    Listing,
    all_at_once,
    folder_of,
    listed,
    open_index,
    save_index,
    stamp_now,
)
from batchwright.sources.locations import located
from batchwright.sources.measures import Tokenizer
from batchwright.sources.progress import progress_bar
from batchwright.sources.scores import Metric
from batchwright.sources.shards import Asked, ShardFacts, absolute, facts_of, index_shard
from batchwright.sources.uris import Location

_MOST_CHARACTERS = 60  # of a shard's name: with all else, 255 bytes of UTF-8
_NAMED = 5  # files that a message names


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
    r"""Measure a corpus shard by shard, and merge the results into one index.

    Calls `index_shard` for every file of the source that has no complete file in the folder. If a
    run was killed, or your own jobs have measured some or all shards, only what is missing is
    measured. Workers return a few kilobytes per shard.

    Args:
        source: A file, a folder of shards, or a pattern, as `read_lengths` takes them; or a URI of
            any of these.
        folder: Folder for the files of shards and the index. Put nothing else there.
        column: Which column; see `read_lengths`.
        measure: How it becomes lengths; see `read_lengths`.
        tokenizer: What counts tokens; see `read_lengths`.
        empty: What rows that are empty or missing count as; see `index_shard`.
        scores: Name → metric; see `index_shard`.
        on: "local" measures in processes of this machine, "ray" with Ray Data, on the cluster that
            `ray.init` connected to. Its workers must be able to reach source and folder.
        workers: Shards to measure at a time. None: one per core; on Ray, what Ray decides. 1: in
            this process.
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
    facts = all_at_once(partial(_kept, asked, listed([shard for shard, _ in tasks])), tasks)
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
    about = {"source": absolute(located(source)), "measured": asked.facts}
    save_index(home, names, complete, about)
    return Indexed(open_index(home, check=False), kept)


def index_tasks(source: Location, folder: Location) -> list[tuple[str, str]]:
    """List the shards of a source, and the file of each in the folder of their index.

    For your own engine, which calls `index_shard` with each pair. `index_shards` then finds all of
    them measured, and merges them. Files that a pattern finds in the folder itself are not shards.

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
    # Numbers make the names sort in the order of the shards.
    digits = max(DIGITS, len(str(len(shards) - 1)))
    names = [f"{n:0{digits}d}-{_stem(shard)}.parquet" for n, shard in enumerate(shards)]
    places = [str(uris.joined(home, name)) for name in names]
    return list(zip(shards, places, strict=True))


def _outside(folder: str, shards: list[str]) -> list[str]:
    """Return the shards that are not in a folder; if all are in it, return all."""
    folders = {shard: folder_of(shard) for shard in shards}
    inside = {each for each in set(folders.values()) if _is_same(each, folder)}
    return [shard for shard in shards if folders[shard] not in inside] or shards


def _is_same(folder: str, other: str) -> bool:
    if uris.is_uri(folder) or uris.is_uri(other):
        return folder.rstrip("/") == other.rstrip("/")
    return os.path.realpath(folder) == os.path.realpath(other)


def _is_of_one_process(location: Location) -> bool:
    """Return whether a location is in the memory of one process, which others cannot read."""
    return uris.is_uri(location) and uris.split(os.fspath(location))[1].lower() == "memory://"


def _stem(shard: str) -> str:
    """Return a shard's name without the suffixes of its format.

    Example:
        >>> _stem("s3://bucket/a-1.of-2.jsonl.gz"), _stem("/data/b.parquet")
        ('a-1.of-2', 'b')
    """
    path = Path(Path(shard).name)
    if path.suffix.lower() in text_files.CODECS:
        path = path.with_suffix("")
    return path.stem[:_MOST_CHARACTERS]


def _prepare(folder: Location, names: Sequence[str]) -> None:
    """Make a folder, and refuse one that has files of data or of other shards.

    Otherwise these could be read as parts of the index, or the index as a part of the data.
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
    """Return the facts of a shard that was measured before and has not changed since."""
    facts = facts_of(place)
    if facts is None:
        return None
    now = stamp_now(listing, shard, (facts.size, facts.stamp))
    return facts if now is not None and asked.is_answered_by(facts, shard, now) else None
