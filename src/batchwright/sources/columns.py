"""Which column a length is taken from."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from batchwright.errors import ColumnNotFoundError, SourceError

LENGTH_COLUMNS = (
    "length",
    "lengths",
    "len",
    "num_tokens",
    "n_tokens",
    "token_count",
    "num_frames",
    "n_frames",
    "input_length",
    "seq_len",
    "seq_length",
    "sequence_length",
)
"""Columns that are taken for lengths when no column is named."""

ITEM_COLUMNS = ("input_ids",)
"""Columns whose items are counted when no column is named and none holds lengths."""

TEXT_COLUMNS = ("text",)
"""Columns that a measure of text is applied to when no column is named."""


def choose(
    names: Sequence[str], column: str | None, *, source: str, measure: str | None = None
) -> str:
    """Return the column to read: the one asked for, or the only one that can be meant.

    Without `column`, the only column is taken; of several, the one whose name is listed in
    `LENGTH_COLUMNS`, else in `ITEM_COLUMNS`. With `measure="items"` it is the one listed in
    `ITEM_COLUMNS`, and with a measure of text the one listed in `TEXT_COLUMNS`.

    Args:
        names: The columns that there are.
        column: The one that was asked for, or None.
        source: What messages call the source.
        measure: What will be measured, or None.

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
            break  # two columns that could be meant: not ours to choose
    raise SourceError(f"{source}: say which column to take the lengths from. {_listed(names)}")


def _listed(names: Sequence[str], limit: int = 20) -> str:
    if not names:
        return "It has no columns."
    shown = ", ".join(repr(name) for name in names[:limit])
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"It has {shown}{more}."
