"""`lengths`: one length per sample, out of whatever holds the data."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from batchwright._format import one_line
from batchwright.errors import SourceError
from batchwright.sources import cache as kept
from batchwright.sources import columns, files, huggingface
from batchwright.sources.kinds import kind_of, plain
from batchwright.sources.measures import Measure, measured
from batchwright.sources.progress import Advance, progress_bar
from batchwright.sources.table import Batches, Place, Table, reading
from batchwright.sources.tokenization import Tokenizer, tokenization
from batchwright.sources.whole_numbers import numbers_of_text

if TYPE_CHECKING:
    import datasets


_SLOW = frozenset({"words", "tokens"})
"""Measures that take longer than to read what they measure."""


def lengths(
    source: str | os.PathLike[str] | datasets.Dataset,
    *,
    column: str | None = None,
    measure: str | None = None,
    tokenizer: Tokenizer | None = None,
    cache: bool | str | os.PathLike[str] = True,
    progress: bool | None = None,
) -> np.ndarray:
    r"""Read one length per sample, in the order of the source's rows.

    Every row has exactly one length in the result, or there is an error: rows are never skipped,
    and a truncated file is refused wherever its format allows to notice. Reading never executes
    code from a file, and holds a few batches of one column in memory besides the result, which
    nobody changes who writes the files anew. Lengths of zero, of an empty text for instance, and
    negative integers are returned as they are; planning refuses them.

    What cannot be meant is refused: a row of a text format much longer than 16 MiB; text that
    unpacks to more than 64 MiB and 200 times the size of its file; more than 8 million rows and
    200 for each byte of a text file, 10,000 for each byte of another.

    Args:
        source: A file (`.npy`, `.parquet`, `.arrow`, `.feather`, `.ipc`, `.jsonl`, `.ndjson`,
            `.csv`, `.tsv`; the text formats also as `.gz`, `.bz2`, `.zst` or `.lz4`); a directory
            of such files, or a pattern such as `"data/train-*.parquet"`, read in the order of
            their names; a directory written by `datasets.save_to_disk`; or a `datasets.Dataset`.
        column: Which column to take. By default the only one; of several the one named `length`,
            `num_tokens` or the like (`columns.LENGTH_COLUMNS`), else `input_ids`; with a measure
            of text, the one named `text`.
        measure: How a column that is not of integers becomes lengths: `"characters"` (Unicode code
            points), `"words"` (as `str.split()` has them), `"bytes"` (of UTF-8), `"tokens"` (needs
            `tokenizer`), or `"items"` (of a list). By default integers are lengths, and so are
            whole floats; of lists the items are counted; text needs a measure.
        tokenizer: The path of a `tokenizer.json` or of a directory that holds one, a tokenizer of
            `tokenizers` or `transformers`, or a function from a list of texts to a list of their
            lengths. Truncation and padding are off; special tokens count as the tokenizer itself
            adds them. Implies `measure="tokens"`.
        cache: Keep what was read on disk, under a hash of the files' content: asked the same
            about the same content, wherever it lies, only the hash is computed again. True for the
            usual place (`BATCHWRIGHT_CACHE`, else `batchwright` in `XDG_CACHE_HOME` or in
            `~/.cache`), a directory, or False. A function as tokenizer is never cached, nor what
            is read as quickly as it is hashed.
        progress: Show a progress bar on standard error: True, False, or None for where that is a
            terminal and reading takes more than a second.

    Returns:
        integer[n]: of the file's own dtype for a column of integers, otherwise int64.

    Raises:
        SourceNotFoundError: There is no such file.
        ColumnNotFoundError: There is no such column.
        LengthsError: A row is null, or a number that is not whole.
        SourceError: The source is empty, truncated, corrupt or of an unknown kind; or the measure
            does not fit the column.
        MissingExtraError: A package that this source needs is not installed.

    Complexity:
        One pass over one column.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = pathlib.Path(directory, "corpus.csv")
        ...     _ = path.write_text("id,text\n1,to be or not\n2,to be\n")
        ...     lengths(path, measure="words", cache=False)
        array([4, 2])
    """
    counting = None if tokenizer is None else tokenization(tokenizer)
    how = Measure.named(measure, counting)
    origin = origin_of(source)
    folder = kept.place(cache=cache)
    before, key = origin.state(), ""
    # Where to tell the content takes as long as to measure it, nothing is kept.
    worth = how.name in _SLOW or not origin.columnar
    if folder is not None and worth and (counting is None or counting.key):
        content = origin.content()
        if content is not None:
            key = kept.key(content, column, how.name, counting and counting.key)
    found = kept.load(folder, key) if folder and key else None
    if found is not None:
        return found
    with progress_bar(f"Reading {Path(origin.name).name}", show=progress) as advance:
        result = _read(origin, column, how, advance)
    # A file that changed meanwhile must not be remembered under what it was.
    if folder and key and origin.state() == before:
        kept.save(folder, key, result)
    return result


class Origin(NamedTuple):
    """What a source stands for.

    Attributes:
        name: What messages call it.
        tables: How to open its tables, in order.
        columnar: Whether one column is read by itself, and needs no parsing.
        content: What tells its content from any other; None: nothing does.
        state: What changes while somebody writes into it.
    """

    name: str
    tables: Sequence[Callable[[], Table]]
    columnar: bool
    content: Callable[[], object]
    state: Callable[[], object]


def origin_of(source: Any) -> Origin:
    """Find out what a source stands for."""
    if huggingface.is_live(source):
        table = huggingface.table(source)
        content = partial(huggingface.fingerprint, source)
        return Origin(table.name, [lambda: table], columnar=True, content=content, state=content)
    if not isinstance(source, str | os.PathLike):
        raise SourceError(
            f"Lengths cannot be read out of {one_line(repr(source), 60)}: pass a path or a "
            "datasets.Dataset. An array of lengths needs no reading."
        )
    path = Path(source)
    paths = files.files_of(path)
    tables = [partial(files.open_file, each) for each in paths]
    columnar = all(map(files.is_columnar, paths))
    return Origin(
        str(path), tables, columnar, partial(kept.contents, paths), partial(kept.state, paths)
    )


def _read(origin: Origin, column: str | None, measure: Measure, advance: Advance) -> np.ndarray:
    """Read every table."""
    pieces: list[np.ndarray] = []
    kind: str | None = None
    for number, open_table in enumerate(origin.tables):
        table = open_table()
        column = columns.choose(table.columns, column, source=table.name, measure=measure.name)
        row, before = 0, 0.0
        for batch, fraction in plain_batches(table, column):
            place = Place(table.name, column, row)
            untyped = not table.typed and measure.name is None
            values = numbers_of_text(batch, place) if untyped else batch
            found = kind_of(values)
            if kind is not None and found is not None and found != kind:
                raise SourceError(f"{place.row(0)} begins to be {found}, but {kind} came before.")
            kind = kind or found
            for piece in measured(values, measure, place):
                pieces.append(piece)
                row += len(piece)
                share = (row - place.first_row) / len(values)
                advance((number + before + (fraction - before) * share) / len(origin.tables))
            before = fraction
        advance((number + 1) / len(origin.tables))
    result = _joined(pieces)
    if len(result) == 0:
        raise SourceError(f"{origin.name} has no rows.")
    return result


def plain_batches(table: Table, column: str) -> Batches:
    """Read a column, without its encodings and without empty batches.

    Raises:
        SourceError: The table has more rows than its size allows.
    """
    rows = 0
    for values, fraction in table.batches(column):
        rows += len(values)
        if rows > table.most_rows:
            raise SourceError(
                f"{table.name} unpacks to more than {table.most_rows:,} rows: more than a file of "
                "its size is believed to hold."
            )
        if len(values):
            with reading(table.name, table.kind):
                decoded = plain(values)
            yield decoded, fraction


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    """Join the pieces, letting go of each as it is copied. The list is emptied."""
    if len(pieces) == 1:
        return pieces.pop()
    dtype = np.result_type(*{piece.dtype for piece in pieces}) if pieces else np.dtype(np.int64)
    joined = np.empty(sum(map(len, pieces)), dtype=dtype)
    stop = len(joined)
    while pieces:
        piece = pieces.pop()
        start = stop - len(piece)
        joined[start:stop] = piece
        stop = start
    return joined
