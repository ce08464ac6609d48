"""Columns of Parquet, Arrow and `.npy` files, one batch of rows in memory at a time."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from batchwright.errors import SourceError
from batchwright.sources.table import Batches, Columns, checked, native_file, sizes_only

_BATCH_BYTES = 16 << 20
_BATCH_ROWS = 1 << 16
_NPY_ROWS = 1 << 20
_BUFFER_BYTES = 1 << 20
_FILE_FORMAT = b"ARROW1"
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def parquet(path: Path) -> Columns:
    """Open a Parquet file."""
    import pyarrow.parquet as pq

    def batches(column: str) -> Batches:
        seen = 0
        # A buffer makes the reader stream a column chunk instead of loading it whole.
        options: Any = {"buffer_size": _BUFFER_BYTES, "page_checksum_verification": True}
        with native_file(path) as source, pq.ParquetFile(source, **options) as file:
            facts = file.metadata
            groups = [facts.row_group(g) for g in range(facts.num_row_groups)]
            chunks = [group.column(c) for group in groups for c in range(group.num_columns)]
            # A row may be one integer or a whole book: bound the bytes, not the rows.
            num_bytes = sum(
                chunk.total_uncompressed_size
                for chunk in chunks
                if f"{chunk.path_in_schema}.".startswith(f"{column}.")
            )
            total = max(1, facts.num_rows)
            size = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, num_bytes // total)))
            for batch in file.iter_batches(batch_size=size, columns=[column]):
                seen += batch.num_rows
                yield checked(batch.column(column)), min(1.0, seen / total)

    with native_file(path) as source, pq.ParquetFile(source) as file:
        return tuple(file.schema_arrow.names), batches


def arrow(path: Path, *, sizes: bool = False) -> Columns:
    """Open an Arrow IPC file, in the file or the stream format.

    With `sizes`, items of lists in a stream are nulls: only how many there are is read.
    """
    import pyarrow as pa

    with path.open("rb") as file:
        is_stream = file.read(len(_FILE_FORMAT)) != _FILE_FORMAT
    with native_file(path) as source:
        opened = pa.ipc.open_stream(source) if is_stream else pa.ipc.open_file(source)
        columns = tuple(opened.schema.names)

    def file_batches(column: str) -> Batches:
        options = pa.ipc.IpcReadOptions(included_fields=[columns.index(column)])
        with native_file(path) as source:
            reader = pa.ipc.open_file(source, options=options)
            for i in range(reader.num_record_batches):
                yield checked(reader.get_batch(i).column(0)), (i + 1) / reader.num_record_batches

    def stream_batches(column: str) -> Batches:
        options = pa.ipc.IpcReadOptions(included_fields=[columns.index(column)])
        location: Any = os.fsencode(path)
        # Mapped: reading would load every column of a batch, whole images for one length.
        with path.open("rb") as file, pa.memory_map(location) as source:
            size = source.size()
            reader = iter(pa.ipc.open_stream(source, options=options))
            while True:
                # Touching mapped pages that the file has lost would end the process.
                if os.fstat(file.fileno()).st_size < size:
                    raise SourceError(f"{path} was cut off while it was read.")
                batch = next(reader, None)
                if batch is None:
                    break
                # A copy: the file may be overwritten while the values are used.
                values = batch.column(0)
                copy = sizes_only(values) if sizes else pa.concat_arrays([checked(values)])
                yield copy, source.tell() / size
            check_end_of_stream(source, path)

    return columns, stream_batches if is_stream else file_batches


def check_end_of_stream(source: Any, path: Path) -> None:
    """Raise unless an Arrow stream, read whole, has its mark of the end.

    One that was cut off between two batches reads without complaint.
    """
    end = source.tell()
    source.seek(end - len(_END_OF_STREAM))
    if source.read(len(_END_OF_STREAM)) != _END_OF_STREAM:
        raise SourceError(
            f"{path} is truncated: it stops after {end:,} bytes without an end-of-stream mark. "
            "Write it again."
        )


def npy(path: Path) -> Columns:
    """Open a `.npy` file: a vector, or a vector of records whose fields are the columns.

    Arrays of Python objects are refused, because loading them can run code. The file is read, not
    mapped: overwriting it later does not change what was read.
    """
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, about a header that is not quite right
        is_first = npy_format.read_magic(file) == (1, 0)
        read = npy_format.read_array_header_1_0 if is_first else npy_format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise SourceError(
                f"{path} holds Python objects, which are not loaded, because loading them can run "
                "code. Save the lengths as integers: np.save(path, np.asarray(lengths, dtype=int))"
            )
        # NumPy divides by zero, and ends the process, where items have no size.
        if len(shape) != 1 or shape[0] < 0 or not dtype.itemsize:
            raise SourceError(
                f"{path} holds an array of shape {shape} and type {dtype}; expected one length "
                "per sample, [n]."
            )
        array = npy_format.open_memmap(path, mode="r")  # compares size and header
        dtype, rows, offset = array.dtype, len(array), array.offset
        del array
    names = dtype.names
    columns = ("values",) if names is None else tuple(n for n in names if not dtype[n].shape)

    def batches(column: str) -> Batches:
        # Integers are read at once: no conversion needs memory.
        size = max(1, rows if dtype.kind in "iu" else _NPY_ROWS)
        with path.open("rb") as file:
            file.seek(offset)
            for start in range(0, rows, size):
                count = min(size, rows - start)
                values = np.fromfile(file, dtype, count)
                if len(values) < count:
                    raise SourceError(f"{path} was cut off while it was read.")
                values = values if names is None else values[column].copy()
                native = values.dtype.newbyteorder("=")
                yield values.astype(native, copy=False), (start + count) / rows

    return columns, batches
