"""Columns of Parquet, Arrow and `.npy` files, one batch of rows in memory at a time."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy_format

from batchwright.errors import SourceError
from batchwright.sources.table import Batches, Columns, checked, native_file

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

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
            total = max(1, file.metadata.num_rows)
            size = _rows_per_batch(file.metadata, column)
            for batch in file.iter_batches(batch_size=size, columns=[column]):
                seen += batch.num_rows
                yield checked(batch.column(column)), min(1.0, seen / total)

    with native_file(path) as source, pq.ParquetFile(source) as file:
        return tuple(file.schema_arrow.names), batches


def _rows_per_batch(metadata: pq.FileMetaData, column: str) -> int:
    # A row may be one integer or a whole book: bound the bytes, not the rows.
    groups = [metadata.row_group(g) for g in range(metadata.num_row_groups)]
    chunks = [group.column(c) for group in groups for c in range(group.num_columns)]
    size = sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if chunk.path_in_schema == column or chunk.path_in_schema.startswith(f"{column}.")
    )
    bytes_per_row = max(1, size // max(1, metadata.num_rows))
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // bytes_per_row))


def arrow(path: Path) -> Columns:
    """Open an Arrow IPC file, in the file or the stream format."""
    import pyarrow as pa

    with path.open("rb") as file:
        is_stream = file.read(len(_FILE_FORMAT)) != _FILE_FORMAT
    open_ipc = pa.ipc.open_stream if is_stream else pa.ipc.open_file
    with native_file(path) as source:
        columns = tuple(open_ipc(source).schema.names)

    def batches(column: str) -> Batches:
        options = pa.ipc.IpcReadOptions(included_fields=[columns.index(column)])
        return (_stream_batches if is_stream else _file_batches)(path, options)

    return columns, batches


def _file_batches(path: Path, options: pa.ipc.IpcReadOptions) -> Batches:
    import pyarrow as pa

    with native_file(path) as source:
        reader = pa.ipc.open_file(source, options=options)
        for i in range(reader.num_record_batches):
            yield checked(reader.get_batch(i).column(0)), (i + 1) / reader.num_record_batches


def _stream_batches(path: Path, options: pa.ipc.IpcReadOptions) -> Batches:
    import pyarrow as pa

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
            yield pa.concat_arrays([checked(batch.column(0))]), source.tell() / size
        # A stream cut between two batches reads without complaint; only its end mark is missing.
        end = source.tell()
        source.seek(end - len(_END_OF_STREAM))
        if source.read(len(_END_OF_STREAM)) != _END_OF_STREAM:
            raise SourceError(
                f"{path} is truncated: it stops after {end:,} bytes without an end-of-stream mark. "
                "Write it again."
            )


def _check_header(path: Path) -> None:
    """Refuse a `.npy` header on which NumPy divides by zero and ends the process."""
    with path.open("rb") as file:
        first = npy_format.read_magic(file) == (1, 0)
        read = npy_format.read_array_header_1_0 if first else npy_format.read_array_header_2_0
        shape, _, dtype = read(file)
    if not dtype.itemsize or min(shape, default=0) < 0:
        raise SourceError(
            f"{path} holds an array of shape {shape} and type {dtype}; expected one length per "
            "sample, [n]."
        )


def npy(path: Path) -> Columns:
    """Open a `.npy` file: a vector, or a vector of records whose fields are the columns.

    Arrays of Python objects are refused, because loading them can run code. The file is read, not
    mapped: overwriting it later does not change what was read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, about a header that is not quite right
        try:
            _check_header(path)
            array = npy_format.open_memmap(path, mode="r")  # compares size and header
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
