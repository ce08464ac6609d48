"""The rows of a batch: counted, chosen, and cut in two.

A batch is a tensor, or a dict, tuple, list or dataclass of fields. These belong to the rows:

- tensors and arrays, with the rows in dimension 0;
- lists and tuples with one entry a row: strings, images of varying size, dicts, None.

Numbers, strings, None and tensors without dimensions belong to the batch as a whole, and so does a
list of such of another length. Dicts, tuples and dataclasses may hold fields as well, and so may a
list whose tensors all have the batch's rows in dimension 0 and which is not one entry a row.

A list that is the batch itself holds fields if there are tensors in it, as those of a `DataLoader`
do: else rows (dicts, strings). What can be read in two ways, or in none, is refused by its name:
then `split=` says how a batch is cut.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from batchwright.errors import UpdateError
from batchwright.torch.data.containers import parts_of
from batchwright.torch.data.documents import cut_documents, is_packed
from batchwright.torch.data.row_reading import Reading, Rows, Taken

__all__ = [
    "Rows",
    "Split",
    "checked",
    "count_rows",
    "cut_documents",
    "halves",
    "num_rows",
    "select_rows",
    "tensors_of",
]

Split: TypeAlias = Callable[[Any], tuple[Any, Any]]
"""Cuts a batch in two: batch → (first half, second half)."""


def halves(batch: Any) -> tuple[Any, Any]:
    """Cut a batch in two along its rows; one packed row, between two documents.

    Args:
        batch: A batch: see the head of this module.

    Returns:
        Two batches of the same kind, whose tensors share memory with the first.

    Raises:
        UpdateError: If it holds a single row or document, or its rows are not known.

    Example:
        >>> first, second = halves({"x": torch.arange(3), "texts": ["a", "b", "c"], "scale": 2.0})
        >>> first["x"].tolist(), first["texts"], second["x"].tolist(), second["scale"]
        ([0], ['a'], [1, 2], 2.0)
    """
    if is_packed(batch):
        parts = cut_documents(batch)
        if parts is None:
            raise UpdateError("a packed row of a single document cannot be split.")
        return parts
    rows = count_rows(batch)
    if rows < 2:
        raise UpdateError(f"a batch of {'a single row' if rows else 'no rows'} cannot be split.")
    middle = rows // 2
    return select_rows(batch, slice(0, middle)), select_rows(batch, slice(middle, rows))


def checked(split: Split) -> Split:
    """Make a user's split raise `UpdateError` where it cuts nothing off, and for its own errors.

    Example:
        >>> checked(lambda batch: (batch, batch[:0]))(torch.zeros(3))
        Traceback (most recent call last):
        batchwright.errors.UpdateError: split= returned a part that is no smaller than the batch.
    """

    def cut(batch: Any) -> tuple[Any, Any]:
        try:
            first, second = split(batch)
        except UpdateError:
            raise
        except Exception as error:
            raise UpdateError(f"split= raised {type(error).__name__}: {error}") from error
        whole = _size(batch)
        if whole is not None and whole in {_size(first), _size(second)}:
            raise UpdateError("split= returned a part that is no smaller than the batch.")
        return first, second

    return cut


def _size(batch: Any) -> int | None:
    tensors = tensors_of(batch)
    return sum(each.numel() for each in tensors) if tensors else num_rows(batch)


def num_rows(batch: Any) -> int | None:
    """Return how many rows a batch has; None where `count_rows` raises.

    Example:
        >>> num_rows((torch.zeros(3, 4), ["a", "b", "c"])), num_rows("text")
        (3, None)
    """
    try:
        return count_rows(batch)
    except UpdateError:
        return None


def count_rows(batch: Any) -> int:
    """Count the rows of a batch. A packed one, as `PackCollator` makes it, has one.

    Raises:
        UpdateError: If its fields do not say, naming the one in question.

    Example:
        >>> count_rows({"x": torch.zeros(3, 4), "y": torch.zeros(2)})
        Traceback (most recent call last):
        batchwright.errors.UpdateError: batch['x'] has 3 rows and batch['y'] has 2: expected as \
many in dimension 0. Pass split= to the update for batches of this kind, or leave the field out.
    """
    if is_packed(batch):
        return 1
    reading = Reading.of(batch)
    reading.apply(batch, None)
    return reading.rows


def select_rows(batch: Any, rows: Rows) -> Any:
    """Take rows of a batch.

    Args:
        batch: A batch: see the head of this module.
        rows: Which: a slice, or their numbers in any sequence, repeated ones allowed.

    Returns:
        A batch of the same kind. Tensors share memory with the first where `rows` is a slice.

    Raises:
        UpdateError: If the batch's rows are not known, or it does not have one of these.

    Example:
        >>> select_rows((torch.tensor([5, 6, 7]), ["a", "b", "c"]), [2, 0, 0])
        (tensor([7, 5, 5]), ['c', 'a', 'a'])
    """
    if is_packed(batch):
        if Taken.of(rows, 1).numbers == [0]:
            return batch
        raise UpdateError(f"rows {rows!r} of a packed batch: it is one row, and stays whole.")
    reading = Reading.of(batch)
    return reading.apply(batch, Taken.of(rows, reading.rows))


def tensors_of(batch: Any) -> list[torch.Tensor]:
    """Return all tensors in a batch, however deep, in their sequence."""
    if isinstance(batch, torch.Tensor):
        return [batch]
    parts = parts_of(batch)
    return [] if parts is None else [each for part in parts.values() for each in tensors_of(part)]
