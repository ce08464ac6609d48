"""Lengths out of `.npy` files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from batchwright.errors import SourceError
from batchwright.sources.table import Batches, Table, reading

_FLOAT_ROWS = 1 << 20
"""Floats are checked and converted in pieces of this many rows."""

ONLY_COLUMN = "values"
"""What messages call the one column of a file whose array has no fields."""


def table(path: Path) -> Table:
    """Open a `.npy` file: a vector, or a vector of records whose fields are the columns.

    The file is mapped, not read, and nothing in it can run code: arrays of Python objects are
    refused.

    Raises:
        SourceError: The file is no `.npy`, is truncated, holds objects, or is no vector.
    """
    with reading(str(path), ".npy"):
        try:
            array = npy.open_memmap(path, mode="r")
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
    # A plain view: what is handed on need not know that it is mapped.
    rows = np.asarray(array)
    names = rows.dtype.names

    def batches(column: str) -> Batches:
        values = rows if names is None else rows[column]
        if not values.dtype.isnative:
            values = values.astype(values.dtype.newbyteorder("="))
        if values.dtype.kind != "f":
            yield values, 1.0
            return
        for start in range(0, len(values), _FLOAT_ROWS):
            stop = min(start + _FLOAT_ROWS, len(values))
            yield values[start:stop], stop / len(values)

    return Table(str(path), ".npy", names or (ONLY_COLUMN,), batches, columnar=True)
