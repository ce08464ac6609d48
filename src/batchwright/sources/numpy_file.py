"""Lengths out of `.npy` files."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from batchwright.errors import SourceError
from batchwright.sources.table import Batches, Table, reading

_PIECE_ROWS = 1 << 20
"""Rows read at a time, unless they are integers, of which a copy is all that is needed."""

ONLY_COLUMN = "values"
"""What messages call the one column of a file whose array has no fields."""


def table(path: Path) -> Table:
    """Open a `.npy` file: a vector, or a vector of records whose fields are the columns.

    Nothing in the file can run code: arrays of Python objects are refused. It is read, not
    mapped: who writes it anew while lengths out of it are used does not change them.

    Raises:
        SourceError: The file is no `.npy`, is truncated, holds objects, or is no vector.
    """
    name = str(path)
    with reading(name, ".npy"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, over a header that is not quite right
        try:
            array = npy.open_memmap(path, mode="r")  # checks that the file is as long as it says
        except ValueError as error:
            if "Python objects" not in str(error):
                raise
            raise SourceError(
                f"{path} holds Python objects, which are not loaded, because loading them can run "
                "code. Save the lengths as integers: np.save(path, np.asarray(lengths, dtype=int))"
            ) from error
    if array.ndim != 1:
        raise SourceError(
            f"{path} holds an array of shape {array.shape}; expected one length per sample, [n]."
        )
    dtype, rows, offset = array.dtype, len(array), array.offset
    del array
    names = dtype.names
    if names is not None:
        names = tuple(each for each in names if not dtype[each].shape)

    def batches(column: str) -> Batches:
        size = max(1, rows if dtype.kind in "iu" else _PIECE_ROWS)
        with ExitStack() as opened:
            with reading(name, ".npy"):
                file = opened.enter_context(path.open("rb"))
                file.seek(offset)
            for start in range(0, rows, size):
                count = min(size, rows - start)
                with reading(name, ".npy"):
                    values = np.fromfile(file, dtype, count)
                if len(values) < count:
                    raise SourceError(f"{name} was cut off while it was read.")
                values = values if names is None else values[column].copy()
                native = values.dtype.newbyteorder("=")
                yield values.astype(native, copy=False), (start + count) / rows

    return Table(name, ".npy", (ONLY_COLUMN,) if names is None else names, batches)
