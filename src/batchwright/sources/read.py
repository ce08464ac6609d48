"""`read_lengths`: one length per sample, from any source of data."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from batchwright._array_file import read_checked_npy, write_checked_npy
from batchwright._checks import check_choice
from batchwright._format import plural
from batchwright.errors import LengthsError, SourceError
from batchwright.sources.columns import Source, source_of
from batchwright.sources.measures import MISSING, Measure, Tokenizer, measure_of, measured
from batchwright.sources.progress import Advance, progress_bar
from batchwright.sources.table import Place, Values, kind_of

if TYPE_CHECKING:
    import datasets

_SLOW = frozenset({"words", "tokens"})
"""Measures that take longer than reading the data."""


_CACHE_FORMAT = 3
"""Part of every key: raise it when the measurements, or the format of the cache, change."""


def read_lengths(
    source: str | os.PathLike[str] | datasets.Dataset,
    *,
    column: str | None = None,
    measure: str | None = None,
    tokenizer: Tokenizer | None = None,
    empty: Literal["drop", "one"] | None = None,
    cache: bool | str | os.PathLike[str] = True,
    progress: bool | None = None,
) -> np.ndarray:
    r"""Read one length per sample, in the order of the source's rows.

    Every row has exactly one length in the result, or there is an error: rows are never skipped. A
    truncated file is refused if its format shows that, as are sizes that suggest damage: rows of
    text of more than 16 MiB, text that unpacks to more than 200 times its file, millions of rows
    from a few bytes. Reading never executes code from a file, and keeps only a few batches of one
    column in memory besides the result. Planning refuses lengths below 1, reading does not.

    Args:
        source: A file (`.npy`, `.parquet`, `.arrow`, `.feather`, `.ipc`, `.jsonl`, `.ndjson`,
            `.csv`, `.tsv`; the text formats also as `.gz`, `.bz2`, `.zst` or `.lz4`); the index of
            a tokenised corpus: `.idx` of Megatron or fairseq, `.ds.index` of datatrove; a directory
            of such files, or a pattern such as `"data/train-*.parquet"`, read in the order of
            their names; a directory written by `datasets.save_to_disk`; or a `datasets.Dataset`. A
            path may be a URI that `fsspec` opens, such as `"s3://bucket/train-*.parquet"`: with the
            package for it (`s3fs`, `gcsfs`, …), and the options of fsspec's own configuration.
        column: By default the only one; if there are several, the one named `length`, `num_tokens`
            or similar, else `input_ids`; with a measure of text, the one named `text`; in
            milliseconds, `duration`. An `.idx` also has `document_length`: documents of several
            sequences.
        measure: How a column that is not of integers becomes lengths: `"characters"` (Unicode code
            points), `"words"` (as in `str.split()`), `"bytes"` (of UTF-8), `"tokens"` (needs
            `tokenizer`), `"items"` (of a list), or `"milliseconds"` (of seconds, such as the
            `duration` in a manifest of lhotse or NeMo). By default integers and whole floats are
            lengths, and the items of lists are counted; text needs a measure.
        tokenizer: The path of a `tokenizer.json` or of a directory that holds one, a tokenizer of
            `tokenizers` or `transformers`, or a function from a list of texts to a list of their
            lengths. Truncation and padding are off; special tokens count as the tokenizer itself
            adds them. Implies `measure="tokens"`.
        empty: What to do with rows that are empty (of length 0) or missing (null, NaN, nothing in a
            CSV). ``"drop"``: they are 0, and `Planner(lengths, empty="drop")` leaves them out;
            ``"one"``: they count as 1. None: empty rows are 0, missing ones an error.
        cache: Whether to keep the lengths on disk, under a hash of the files' content (for remote
            files, of their ETags): True for the default place (`BATCHWRIGHT_CACHE`, else
            `batchwright` in `XDG_CACHE_HOME` or in `~/.cache`), a directory, or False. Lengths from
            a function are never cached, nor are those that are read as quickly as they are hashed.
        progress: Show a progress bar on standard error: True, False, or None: if it is a terminal
            and reading takes more than a second.

    Returns:
        integer[n]: with the file's own dtype for a column of integers, otherwise int64.

    Raises:
        SourceNotFoundError: There is no such file.
        ColumnNotFoundError: There is no such column.
        LengthsError: Rows are missing and `empty` is None, or a number is not whole.
        SourceError: The source is empty, truncated, corrupt or of an unknown kind; or the measure
            does not fit the column.
        MissingExtraError: A package that this source needs is not installed.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = pathlib.Path(directory, "corpus.csv")
        ...     _ = path.write_text("id,text\n1,to be or not\n2,to be\n")
        ...     read_lengths(path, measure="words", cache=False)
        array([4, 2])
    """
    if empty is not None:
        check_choice("read_lengths", "empty", empty, ("drop", "one"), SourceError)
    rows = read_rows(source, column, measure, tokenizer, cache=cache, progress=progress)
    return settled(rows, empty)


class Rows(NamedTuple):
    """The lengths of rows, of which some may be missing."""

    source: str  # for messages
    lengths: np.ndarray  # integer[n]; `MISSING` for missing rows
    column: str | None = None  # from which they were read, if known

    def described(self, *, only_missing: bool = False) -> str:
        """Count the rows that are empty or missing, and name the first; empty if none is."""
        found = is_missing = self.lengths == MISSING
        if not only_missing:
            found = is_missing | (self.lengths == 0)
        count, missing = int(np.count_nonzero(found)), int(np.count_nonzero(is_missing))
        if not count:
            return ""
        what = {0: "empty", count: "missing"}.get(missing, "empty or missing")
        of = "" if self.column is None else f" of {self.column!r}"
        said = counted_rows(count, len(self.lengths), int(np.argmax(found)), of, what)
        return f"{self.source}: {said}"


def counted_rows(count: int, of: int, first: int, column: str, what: str) -> str:
    """Say how many rows are empty or missing, and which is the first.

    Example:
        >>> counted_rows(65, 6_400, 61, " of 'text'", "empty")
        "65 of 6,400 rows of 'text' are empty, the first is row 61 (counted from 0)"
    """
    be, named = ("is", f"row {first:,}") if count == 1 else ("are", f"the first is row {first:,}")
    return f"{count:,} of {plural(of, 'row')}{column} {be} {what}, {named} (counted from 0)"


def settled(rows: Rows, empty: Literal["drop", "one"] | None) -> np.ndarray:
    """Give missing rows a length; see `read_lengths`."""
    lengths = rows.lengths
    if empty == "one":
        return np.where((lengths == 0) | (lengths == MISSING), lengths.dtype.type(1), lengths)
    if not (missing := lengths == MISSING).any():
        return lengths
    if empty == "drop":
        return np.where(missing, 0, lengths)
    raise LengthsError(
        f"{rows.described(only_missing=True)}. Fill or filter them, count them as 1 with "
        'empty="one", or read them as 0 with empty="drop" and leave them out with '
        'Planner(lengths, empty="drop").'
    )


def read_rows(
    source: str | os.PathLike[str] | datasets.Dataset,
    column: str | None,
    measure: str | None,
    tokenizer: Tokenizer | None,
    *,
    cache: bool | str | os.PathLike[str] = True,
    progress: bool | None = None,
) -> Rows:
    """Read one length per row, as `read_lengths` does, where rows may be missing."""
    how = measure_of(measure, tokenizer)
    found = source_of(source, sizes=True)
    folder = cache_directory(cache=cache)
    is_unchanged, file = found.watch(), None
    # If hashing the content takes as long as measuring it, nothing is cached.
    worth = how.name in _SLOW or not found.is_quick
    if folder is not None and worth and (how.count_tokens is None or how.key):
        content = found.content()
        if content is not None:
            # Everything that the result depends on, as values for JSON.
            facts = json.dumps([_CACHE_FORMAT, content, column, how.name, how.key])
            key = hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()
            file = folder / f"lengths-{key}.npy"
            if (result := read_checked_npy(file)) is not None:
                return Rows(found.name, result, column)
    with progress_bar(f"Reading {Path(found.name).name}", show=progress) as advance:
        result, column = lengths_of(found, column, how, advance)
    # A file that changed while it was read must not be cached under its former content.
    if file is not None and is_unchanged():
        _save(file, result)
    return Rows(found.name, result, column)


def lengths_of(
    source: Source,
    column: str | None,
    measure: Measure,
    advance: Advance,
    *,
    look: Callable[[Values, Place], object] | None = None,
    may_be_empty: bool = False,
) -> tuple[np.ndarray, str | None]:
    """Return lengths, and the column they were read from; `look` is called with its rows."""
    pieces: list[np.ndarray] = []
    kind: str | None = None
    before = 0.0
    read = source.rows(column, measure=measure.name, may_be_empty=may_be_empty)
    for values, place, fraction in read:
        found = kind_of(values)
        if kind is not None and found is not None and found != kind:
            raise SourceError(f"{place.row(0)} holds {found}, but the rows before it hold {kind}.")
        kind, column = kind or found, place.column
        if look is not None:
            look(values, place)
        done = 0
        for piece in measured(values, measure, place):
            pieces.append(piece)
            done += len(piece)
            advance(before + (fraction - before) * done / len(values))
        before = fraction
    advance(1.0)
    if len(pieces) == 1:
        return pieces[0], column
    stop = sum(map(len, pieces))
    dtypes = {piece.dtype for piece in pieces}
    joined = np.empty(stop, np.result_type(*dtypes) if dtypes else np.int64)
    while pieces:  # each is released when it is copied
        piece = pieces.pop()
        joined[stop - len(piece) : stop] = piece
        stop -= len(piece)
    return joined, column


def cache_directory(*, cache: bool | str | os.PathLike[str]) -> Path | None:
    """Return the directory of the cache: a given one, the environment's, or None for no cache."""
    if cache is False:
        return None
    if cache is not True:
        named = Path(cache)
        if named.exists() and not named.is_dir():
            raise SourceError(f"cache={str(named)!r} is a file; expected a directory, or False.")
        return named
    if own := os.environ.get("BATCHWRIGHT_CACHE"):
        return Path(own)
    try:
        shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # no home
        return None
    return Path(shared, "batchwright")


def _save(file: Path, lengths: np.ndarray) -> None:
    """Cache lengths, completely or not at all; warn if they cannot be written."""
    if file.exists() and not file.is_file():  # a pipe would wait
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_checked_npy(file, lengths, SourceError)
    except (OSError, SourceError) as error:
        warnings.warn(
            f"The lengths could not be kept in {file.parent}: {error} They are read again next "
            "time. Pass cache=False, or another directory.",
            RuntimeWarning,
            stacklevel=3,
        )
