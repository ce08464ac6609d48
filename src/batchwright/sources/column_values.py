"""`column_values`: a column as it is, for what is no length: labels, groups, texts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from batchwright.errors import SourceError
from batchwright.sources import columns
from batchwright.sources.kinds import kind_of
from batchwright.sources.read import origin_of, plain_batches
from batchwright.sources.table import Place, Values

if TYPE_CHECKING:
    import datasets


def column_values(
    source: str | os.PathLike[str] | datasets.Dataset, column: str, *, text: bool = False
) -> Any:
    r"""Read the values of a column, in the order of the source's rows.

    Args:
        source: As `batchwright.sources.lengths` takes it.
        column: Which column.
        text: Refuse what is no text.

    Returns:
        [n]: a chunked array of `pyarrow`; of a `.npy`, an array. A CSV holds text only.

    Raises:
        SourceNotFoundError: There is no such file.
        ColumnNotFoundError: There is no such column.
        SourceError: The source is empty, truncated, corrupt or of an unknown kind; or the column
            holds lists, or no text where text was asked for.
        MissingExtraError: A package that this source needs is not installed.

    Complexity:
        One pass over one column, which is held in memory.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = pathlib.Path(directory, "corpus.csv")
        ...     _ = path.write_text("text,label\nto be,yes\nor not,no\n")
        ...     column_values(path, "label").to_pylist()
        ['yes', 'no']
    """
    origin = origin_of(source)
    pieces: list[Values] = []
    for open_table in origin.tables:
        table = open_table()
        columns.choose(table.columns, column, source=table.name)
        row = 0
        for batch, _ in plain_batches(table, column):
            _check_kind(batch, Place(table.name, column, row), text=text)
            pieces.append(batch)
            row += len(batch)
    if not pieces:
        raise SourceError(f"{origin.name} has no rows.")
    arrays = [piece for piece in pieces if isinstance(piece, np.ndarray)]
    if arrays:
        return np.concatenate(arrays)
    return _joined(pieces, f"{origin.name}: {column!r}")


def _check_kind(values: Values, place: Place, *, text: bool) -> None:
    kind = kind_of(values)
    if isinstance(values, np.ndarray):
        is_text, type_ = values.dtype.kind == "U", str(values.dtype)
    else:
        is_text, type_ = kind in {"text", None}, str(values.type)
    if text and not is_text:
        raise SourceError(
            f"{place.source}: {place.column!r} is of type {type_}; expected a column of text."
        )
    if kind in {"lists", "binary"}:
        raise SourceError(
            f"{place.source}: {place.column!r} is of type {type_}; expected integers or text, one "
            "value for each sample."
        )


def _joined(pieces: list[Any], where: str) -> Any:
    """Join batches of one type, or of several that go into one."""
    import pyarrow as pa

    # Offsets of 32 bits end at 2 GiB of text.
    wide = [
        piece.cast(pa.large_string()) if pa.types.is_string(piece.type) else piece
        for piece in pieces
    ]
    try:
        type_ = pa.unify_schemas(
            [pa.schema([("column", piece.type)]) for piece in wide], promote_options="permissive"
        ).field(0)
        return pa.chunked_array([piece.cast(type_.type) for piece in wide])
    except pa.ArrowException as error:
        kinds = ", ".join(sorted({str(piece.type) for piece in wide}))
        raise SourceError(
            f"{where} is of several types, {kinds}: expected one. Write it anew."
        ) from error
