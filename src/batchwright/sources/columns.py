"""One column of a source: which one, and its values batch by batch."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from batchwright._format import one_line
from batchwright.errors import ColumnNotFoundError, SourceError
from batchwright.sources import cache, files
from batchwright.sources.measures import numbers_of_text
from batchwright.sources.table import Batches, Place, Table, Values, checked, kind_of, type_of

if TYPE_CHECKING:
    import datasets

LENGTH_COLUMNS = (
    *("length", "lengths", "len", "num_tokens", "n_tokens", "token_count", "num_frames"),
    *("n_frames", "input_length", "seq_len", "seq_length", "sequence_length"),
)
ITEM_COLUMNS = ("input_ids",)
TEXT_COLUMNS = ("text",)

_DATASET_ROWS = 4096


class Source(NamedTuple):
    """Where samples come from.

    Attributes:
        name: What messages call it.
        tables: How to open its tables, in order.
        columnar: Whether one column is read by itself, and needs no parsing.
        content: Returns what identifies its content; None: nothing does.
        state: Returns what changes while somebody writes to it.
    """

    name: str
    tables: Sequence[Callable[[], Table]]
    columnar: bool
    content: Callable[[], object]
    state: Callable[[], object]

    def rows(
        self, column: str | None, *, measure: str | None = None, parse_numbers: bool = False
    ) -> Iterator[tuple[Values, Place, float]]:
        """Read one column of all tables.

        Args:
            column: Its name; None: found by name, as `choose` does.
            measure: What will be measured of it, for `choose`.
            parse_numbers: Whether text of a file without types is read as numbers.

        Yields:
            Rows, where they come from, and the fraction of the source that has been read.
        """
        for number, open_table in enumerate(self.tables):
            table = open_table()
            column = choose(table.columns, column, source=table.name, measure=measure)
            row = 0
            for values, fraction in table.rows(column):
                place = Place(table.name, column, row)
                if parse_numbers and not table.typed:
                    values = numbers_of_text(values, place)  # noqa: PLW2901
                yield values, place, (number + fraction) / len(self.tables)
                row += len(values)


def source_of(given: Any, *, lines: bool = False) -> Source:
    """Find out what a path or a dataset stands for.

    Args:
        given: A path, a pattern, or a `datasets.Dataset`.
        lines: Whether a `.txt` is taken, in which every line is a sample.
    """
    if type(given).__module__.partition(".")[0] == "datasets":
        return _live(given)
    if not isinstance(given, str | os.PathLike):
        raise SourceError(
            f"Lengths cannot be read from {one_line(repr(given), 60)}: pass a path or a "
            "datasets.Dataset. An array of lengths needs no reading."
        )
    path = Path(given)
    paths = files.files_of(path)
    return Source(
        str(path),
        [partial(files.open_file, each, lines=lines) for each in paths],
        all(map(files.is_columnar, paths)),
        partial(cache.contents, paths),
        partial(cache.state, paths),
    )


def _live(dataset: Any) -> Source:
    """Open a `datasets.Dataset` as selected, shuffled and filtered; its format is ignored."""
    kind = type(dataset).__name__
    if isinstance(dataset, dict):
        raise SourceError(
            f"A {kind} holds splits, which are planned one by one. Pass one of them: "
            f"{', '.join(map(repr, dataset))}."
        )
    if not hasattr(dataset, "num_rows"):
        raise SourceError(
            f"A {kind} has no fixed number of rows. Pass a datasets.Dataset, for instance one "
            "loaded without streaming=True."
        )

    def batches(column: str) -> Batches:
        seen = 0
        for batch in dataset.select_columns([column]).with_format("arrow").iter(_DATASET_ROWS):
            seen += batch.num_rows
            for chunk in batch.column(column).chunks:
                yield checked(chunk), seen / dataset.num_rows

    def fingerprint() -> str | None:
        value = getattr(dataset, "_fingerprint", None)
        return f"{value}-{dataset.num_rows}" if isinstance(value, str) else None

    table = Table(f"the {kind}", "Arrow", tuple(dataset.column_names), batches)
    return Source(table.name, [lambda: table], True, fingerprint, fingerprint)


def choose(
    names: Sequence[str], column: str | None, *, source: str, measure: str | None = None
) -> str:
    """Return the column to read: the one asked for, or the only one that can be meant.

    Without `column`, the only column is taken; of several, the one whose name is listed in
    `LENGTH_COLUMNS`, else in `ITEM_COLUMNS`. With `measure="items"` it is the one listed in
    `ITEM_COLUMNS`, and with a measure of text the one listed in `TEXT_COLUMNS`.

    Raises:
        ColumnNotFoundError: `column` is not among `names`.
        SourceError: The choice is not clear.

    Example:
        >>> choose(["id", "num_tokens"], None, source="corpus.parquet")
        'num_tokens'
    """
    if column is None:
        column = _default(names, source, measure)
    if column not in names:
        nearest = difflib.get_close_matches(column, names, n=1, cutoff=0.5)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ColumnNotFoundError(f"{source} has no column {column!r}.{hint} {_listed(names)}")
    if names.count(column) > 1:
        raise SourceError(
            f"{source} has {names.count(column)} columns named {column!r}. Rename all but one."
        )
    return column


def _default(names: Sequence[str], source: str, measure: str | None) -> str:
    if names and all(name.strip().isdecimal() for name in names):
        raise SourceError(
            f"{source}: the columns are named {names[0]!r} …, so its first line may be no header. "
            "Put the columns' names in the first line, or say which column to take."
        )
    if len(names) == 1:
        return names[0]
    if measure is None:
        tiers = [LENGTH_COLUMNS, ITEM_COLUMNS]
    else:
        tiers = [ITEM_COLUMNS if measure == "items" else TEXT_COLUMNS]
    for tier in tiers:
        known = [name for name in names if name in tier]
        if len(known) == 1:
            return known[0]
        if known:
            break  # two columns that could be meant
    raise SourceError(f"{source}: say which column to take the lengths from. {_listed(names)}")


def _listed(names: Sequence[str], limit: int = 20) -> str:
    if not names:
        return "It has no columns."
    shown = ", ".join(repr(name) for name in names[:limit])
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"It has {shown}{more}."


def column_values(
    source: str | os.PathLike[str] | datasets.Dataset, column: str, *, text: bool = False
) -> Any:
    r"""Read a column that holds no lengths: labels, groups, texts. It is held in memory.

    Args:
        source: As `batchwright.sources.read_lengths` takes it.
        column: Which column.
        text: Refuse anything but text.

    Returns:
        [n]: a chunked array of `pyarrow`; of a `.npy`, an array. A CSV holds text only.

    Raises:
        ColumnNotFoundError: There is no such column.
        SourceError: The source cannot be read; or the column holds lists, or no text where text
            was asked for.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = pathlib.Path(directory, "corpus.csv")
        ...     _ = path.write_text("text,label\nto be,yes\nor not,no\n")
        ...     column_values(path, "label").to_pylist()
        ['yes', 'no']
    """
    found = source_of(source)
    pieces: list[Any] = []
    for values, place, _ in found.rows(column):
        kind = kind_of(values)
        if isinstance(values, np.ndarray) and values.dtype.kind == "U":
            kind = "text"
        if text and kind not in {"text", None}:
            raise SourceError(f"{place} is of type {type_of(values)}; expected a column of text.")
        if kind in {"lists", "binary"}:
            raise SourceError(
                f"{place} is of type {type_of(values)}; expected integers or text, one value for "
                "each sample."
            )
        pieces.append(values)
    if not pieces:
        raise SourceError(f"{found.name} has no rows.")
    if isinstance(pieces[0], np.ndarray):
        return np.concatenate(pieces)
    return _chunked(pieces, f"{found.name}: {column!r}")


def _chunked(pieces: list[Any], where: str) -> Any:
    """Join batches of one type, or of several that one type can hold."""
    import pyarrow as pa

    # Offsets of 32 bits end at 2 GiB of text.
    tables = [
        pa.table(
            [piece.cast(pa.large_string()) if pa.types.is_string(piece.type) else piece], ["x"]
        )
        for piece in pieces
    ]
    try:
        return pa.concat_tables(tables, promote_options="permissive").column(0)
    except pa.ArrowException as error:
        types = ", ".join(sorted({str(table.column(0).type) for table in tables}))
        raise SourceError(
            f"{where} is of several types, {types}: expected one. Write the files again."
        ) from error
