"""One column of a source: which one, and its values batch by batch."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from batchwright._format import one_line
from batchwright.errors import ColumnNotFoundError, SourceError
from batchwright.sources import files
from batchwright.sources.locations import located
from batchwright.sources.measures import MILLISECONDS, numbers_of_text
from batchwright.sources.table import (
    Batches,
    Place,
    Table,
    Values,
    kind_of,
    nulls_of,
    plain,
    reading,
    sizes_only,
    type_of,
)
from batchwright.typing import Field

if TYPE_CHECKING:
    import datasets

LENGTH_COLUMNS = (
    *("length", "lengths", "len", "num_tokens", "n_tokens", "token_count", "num_frames"),
    *("n_frames", "input_length", "seq_len", "seq_length", "sequence_length"),
)
ITEM_COLUMNS = ("input_ids",)
TEXT_COLUMNS = ("text",)
DURATION_COLUMNS = ("duration",)

_DATASET_ROWS = 4096


class Source(NamedTuple):
    """Where samples come from."""

    name: str  # for messages
    tables: Sequence[Callable[[], Table]]  # each is opened when it is read
    is_quick: bool  # whether reading one column is as quick as identifying the content
    content: Callable[[], object]  # returns what identifies its content. None: nothing does
    watch: Callable[[], Callable[[], bool]]  # returns a function that says if it is unchanged

    def rows(
        self, column: str | None, *, measure: str | None, may_be_empty: bool = False
    ) -> Iterator[tuple[Values, Place, float]]:
        """Read one column of all tables, without its encodings and without empty batches.

        Args:
            column: Its name; None: found by name, as `choose` does.
            measure: What will be measured of it. None: numbers, which a CSV holds as text.
            may_be_empty: Whether a source may have no rows, as one of several files may.

        Yields:
            Rows, where they come from, and the fraction of the source that has been read.
        """
        place = None
        for number, open_table in enumerate(self.tables):
            table = open_table()
            column = choose(table.columns, column, source=table.name, measure=measure)
            batches, row = table.batches(column), 0
            while True:
                with reading(table.name, table.kind):
                    batch = next(batches, None)
                    if batch is None:
                        break
                    values, fraction = plain(batch[0]), batch[1]
                if row + len(values) > table.most_rows:
                    raise SourceError(
                        f"{table.name} unpacks to more than {table.most_rows:,} rows, the most "
                        "that are read from a file of its size."
                    )
                if not len(values):
                    continue
                place = Place(table.name, column, row)
                if measure in {None, MILLISECONDS} and not table.typed:
                    values = numbers_of_text(values, place)
                yield values, place, (number + fraction) / len(self.tables)
                row += len(values)
        if place is None and not may_be_empty:
            raise SourceError(f"{self.name} has no rows.")


def source_of(given: object, *, lines: bool = False, sizes: bool = False) -> Source:
    """Find out what a path, a URI, a pattern or a `datasets.Dataset` stands for.

    With `lines`, a `.txt` in which every line is a sample is also accepted. With `sizes`, the items
    of lists may be replaced by nulls.
    """
    if type(given).__module__.partition(".")[0] == "datasets":
        return _live(given)
    if not isinstance(given, str | os.PathLike):
        raise SourceError(
            f"Lengths cannot be read from {one_line(repr(given), 60)}: pass a path or a "
            "datasets.Dataset. An array of lengths needs no reading."
        )
    path = located(given)
    paths = files.files_of(path)
    formats = map(files.format_of, paths)
    columnar = all(format_ is not None and format_.columnar for format_ in formats)
    return Source(
        str(path),
        [partial(files.open_file, each, lines=lines, sizes=sizes) for each in paths],
        columnar and not all(map(files.etag_of, paths)),
        partial(files.contents, paths),
        partial(files.watch, path, paths),
    )


def _live(dataset: datasets.Dataset) -> Source:
    """Open a `datasets.Dataset` as it was selected, shuffled and filtered; ignore its format."""
    kind = type(dataset).__name__
    if isinstance(dataset, dict) or not hasattr(dataset, "num_rows"):
        raise SourceError(
            f"A {kind} holds splits, or has no fixed number of rows. Pass a datasets.Dataset: one "
            "of the splits, loaded without streaming=True."
        )

    def batches(column: str) -> Batches:
        seen, stored, rows = 0, dataset.data.column(column), getattr(dataset, "_indices", None)
        if rows is not None and stored.num_chunks and kind_of(stored) == "lists":
            yield from _selected(list(map(sizes_only, stored.chunks)), rows.column(0))
            return
        for batch in dataset.select_columns([column]).with_format("arrow").iter(_DATASET_ROWS):
            seen += batch.num_rows
            for chunk in batch.column(column).chunks:
                yield sizes_only(chunk), seen / dataset.num_rows

    def fingerprint() -> str | None:
        value = getattr(dataset, "_fingerprint", None)
        return f"{value}-{dataset.num_rows}" if isinstance(value, str) else None

    def watch() -> Callable[[], bool]:
        before = fingerprint()
        return lambda: fingerprint() == before

    table = Table(f"the {kind}", "Arrow", tuple(dataset.column_names), batches)
    return Source(table.name, [lambda: table], True, fingerprint, watch)


def _selected(stored: Sequence[Any], rows: Any) -> Batches:
    """Select rows of lists of which only the sizes are needed, because taking lists is slow."""
    import pyarrow.compute as pc

    sizes = np.concatenate([pc.list_value_length(each).fill_null(0).to_numpy() for each in stored])
    is_null = np.concatenate([each.is_null().to_numpy(zero_copy_only=False) for each in stored])
    seen = 0
    for chunk in rows.chunks:
        taken = chunk.to_numpy()
        seen += taken.size
        yield nulls_of(sizes[taken], is_null[taken]), seen / len(rows)


def choose(
    names: Sequence[str], column: str | None, *, source: str, measure: str | None = None
) -> str:
    """Return the column to read: the one asked for, or the only possible one.

    Without `column`, the only column is taken; of several, the one whose name is listed in
    `LENGTH_COLUMNS`, else in `ITEM_COLUMNS`. With `measure="items"` it is the one listed in
    `ITEM_COLUMNS`, with `"milliseconds"` in `DURATION_COLUMNS`, and with a measure of text in
    `TEXT_COLUMNS`.
    """
    if column is None and names and all(name.strip().isdecimal() for name in names):
        raise SourceError(
            f"{source}: the columns are named {names[0]!r} …, so its first line may be no header. "
            "Put the names of the columns in the first line, or say which column to take."
        )
    if column is None:
        items = [name for name in names if name in ITEM_COLUMNS]
        lengths = [name for name in names if name in LENGTH_COLUMNS]
        texts = [name for name in names if name in TEXT_COLUMNS]
        durations = [name for name in names if name in DURATION_COLUMNS]
        known = {None: lengths or items, "items": items, MILLISECONDS: durations}.get(
            measure, texts
        )
        found = names if len(names) == 1 else known
        column = found[0] if len(found) == 1 else None
    if column is not None and names.count(column) == 1:
        return column
    listed = f"It has {one_line(', '.join(map(repr, names)) or 'no columns', 300)}."
    if column is None:
        seconds = measure is None and any(name in DURATION_COLUMNS for name in names)
        hint = f" For the column 'duration', pass measure={MILLISECONDS!r}." if seconds else ""
        raise SourceError(
            f"{source}: say which column to take the lengths from: --length COLUMN, and for "
            f"texts --measure words. {listed}{hint}"
        )
    if column in names:
        raise SourceError(
            f"{source} has {names.count(column)} columns named {column!r}. Rename all but one."
        )
    nearest = difflib.get_close_matches(column, names, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ColumnNotFoundError(f"{source} has no column {column!r}.{hint} {listed}")


def without_value(column: Field, *, blank: bool = True) -> np.ndarray:
    """Say which rows of a column have no value, bool[n]: null, NaN; with `blank`, only blanks.

    Example:
        >>> without_value(np.array(["cat", " ", "dog"]))
        array([False,  True, False])
    """
    if isinstance(column, np.ndarray):
        if column.dtype.kind == "U":
            is_blank: np.ndarray = np.char.strip(column) == ""
            return is_blank if blank else np.zeros(len(column), dtype=np.bool_)
        is_missing = np.isnan if column.dtype.kind == "f" else np.zeros_like
        return np.asarray(is_missing(column), dtype=np.bool_)
    import pyarrow as pa
    import pyarrow.compute as pc

    found: Any = pc.is_null(column, nan_is_null=pa.types.is_floating(column.type))
    if blank and (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        lengths = pc.utf8_length(pc.utf8_trim_whitespace(column))
        found = pc.or_kleene(found, pc.equal(lengths, pa.scalar(0)))
    return np.asarray(found.to_numpy(), dtype=np.bool_)


def _is_nested(values: Values) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_nested(values.type))  # type: ignore[union-attr]  # of pyarrow


def column_values(
    source: str | os.PathLike[str] | datasets.Dataset, column: str, *, text: bool = False
) -> Field:
    """Read a column that does not have lengths but labels or groups; with `text`, only text.

    It is kept in memory: [n], a chunked array of `pyarrow`, or, from a `.npy`, a NumPy array.
    """
    found = source_of(source)
    pieces: list[Any] = []
    values: Any
    for values, place, _ in found.rows(column, measure="characters"):
        is_array = isinstance(values, np.ndarray)
        kind = "text" if is_array and values.dtype.kind == "U" else kind_of(values)
        is_nested = not is_array and kind == "other" and _is_nested(values)
        if (text and kind not in {"text", None}) or kind in {"lists", "binary"} or is_nested:
            expected = "text" if text else "integers or text"
            raise SourceError(
                f"{place} is of type {type_of(values)}; expected {expected}, one value for each "
                "sample."
            )
        # Offsets of 32 bits end at 2 GiB of text.
        pieces.append(values.cast("large_string") if kind == "text" and not is_array else values)
    if isinstance(pieces[0], np.ndarray):
        return np.concatenate(pieces)
    import pyarrow as pa

    tables = [pa.table([piece], ["values"]) for piece in pieces]
    try:
        return pa.concat_tables(tables, promote_options="permissive").column(0)
    except pa.ArrowException as error:
        types = ", ".join(sorted({str(piece.type) for piece in pieces}))
        raise SourceError(
            f"{found.name}: {column!r} is of several types, {types}: expected one. Write the files "
            "again."
        ) from error
