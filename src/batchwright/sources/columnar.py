"""Columns of Parquet, Arrow and `.npy` files, one batch of rows in memory at a time."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from numpy.lib import format as npy_format

from batchwright.errors import SourceError
from batchwright.sources.locations import AnyPath, Uri, size_of
from batchwright.sources.table import Batches, Columns, checked, items, native_file, sizes_only

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_BYTES = 16 << 20
_BATCH_ROWS = 1 << 16
_NPY_ROWS = 1 << 20
_BUFFER_BYTES = 1 << 20
_REMOTE_BUFFER_BYTES = 8 << 20  # a request takes as long as reading a megabyte or more
_FILE_FORMAT = b"ARROW1"
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def parquet(path: AnyPath) -> Columns:
    """Open a Parquet file. From a remote one, only the metadata and the column are read."""
    import pyarrow.parquet as pq

    is_remote = isinstance(path, Uri)

    def batches(column: str) -> Batches:
        seen = 0
        # A buffer makes the reader stream a column chunk instead of loading it whole.
        options: Any = {
            "buffer_size": _REMOTE_BUFFER_BYTES if is_remote else _BUFFER_BYTES,
            "page_checksum_verification": True,
            "metadata": metadata,
        }
        with (
            native_file(path, read_ahead=False) as source,
            pq.ParquetFile(source, **options) as file,
        ):
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

    with native_file(path, read_ahead=False) as source, pq.ParquetFile(source) as file:
        metadata = file.metadata if is_remote else None  # a path may be written to meanwhile
        return tuple(file.schema_arrow.names), batches


def arrow(path: AnyPath, *, sizes: bool = False) -> Columns:
    """Open an Arrow IPC file, in the file or the stream format.

    With `sizes`, items of lists in a stream are nulls: only their number is read. From a remote
    stream, all columns are read, because it has no table of where they are.
    """
    import pyarrow as pa

    with native_file(path, read_ahead=False) as source:
        is_stream = source.read(len(_FILE_FORMAT)) != _FILE_FORMAT
        source.seek(0)
        opened = pa.ipc.open_stream(source) if is_stream else pa.ipc.open_file(source)
        columns = tuple(opened.schema.names)

    def file_batches(column: str) -> Batches:
        options = pa.ipc.IpcReadOptions(included_fields=[columns.index(column)])
        with native_file(path, read_ahead=False) as source:
            reader = pa.ipc.open_file(source, options=options)
            for i in range(reader.num_record_batches):
                yield checked(reader.get_batch(i).column(0)), (i + 1) / reader.num_record_batches

    def stream_batches(column: str) -> Batches:
        options = pa.ipc.IpcReadOptions(included_fields=[columns.index(column)])
        with _whole_stream(path) as (source, check):
            size = source.size()
            reader = iter(pa.ipc.open_stream(source, options=options))
            while True:
                check()
                batch = next(reader, None)
                if batch is None:
                    break
                # A copy: the file may be overwritten while the values are used.
                values = batch.column(0)
                copy = sizes_only(values) if sizes else pa.concat_arrays([checked(values)])
                yield copy, source.tell() / size
            check_end_of_stream(source, path)

    return columns, stream_batches if is_stream else file_batches


@contextmanager
def _whole_stream(path: AnyPath) -> Iterator[tuple[pa.NativeFile, Callable[[], None]]]:
    """Open an Arrow stream, mapped if possible; also yield a function that raises if it is cut."""
    import pyarrow as pa

    if isinstance(path, Uri):
        with native_file(path) as remote:
            yield remote, lambda: None
        return
    location: Any = os.fsencode(path)
    # Mapped: reading would load every column of a batch, whole images for one length.
    with path.open("rb") as file, pa.memory_map(location) as source:
        size = source.size()

        def check() -> None:
            # Touching mapped pages that the file has lost would end the process.
            if os.fstat(file.fileno()).st_size < size:
                raise SourceError(f"{path} was cut off while it was read.")

        yield source, check


def check_end_of_stream(source: Any, path: AnyPath) -> None:
    """Raise unless an Arrow stream, which was read completely, has an end-of-stream mark.

    A stream that was cut off between two batches raises no other error.
    """
    end = source.tell()
    source.seek(end - len(_END_OF_STREAM))
    if source.read(len(_END_OF_STREAM)) != _END_OF_STREAM:
        raise SourceError(
            f"{path} is truncated: it stops after {end:,} bytes without an end-of-stream mark. "
            "Write it again."
        )


def npy(path: AnyPath) -> Columns:
    """Open a `.npy` file: a vector, or a vector of records whose fields are the columns.

    Arrays of Python objects are refused, because loading them can run code. The file is read, not
    mapped: overwriting it later does not change what was read.
    """
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy, about an unusual header
        version = npy_format.read_magic(file)
        is_first = version == (1, 0)
        read = npy_format.read_array_header_1_0 if is_first else npy_format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise SourceError(
                f"{path} holds Python objects, which are not loaded, because loading them can run "
                "code. Save the lengths as integers: np.save(path, np.asarray(lengths, dtype=int))"
            )
        # NumPy divides by zero, and ends the process, if items have no size.
        if len(shape) != 1 or shape[0] < 0 or not dtype.itemsize:
            raise SourceError(
                f"{path} holds an array of shape {shape} and type {dtype}; expected one length "
                "per sample, [n]."
            )
        rows, offset, size = shape[0], file.tell(), size_of(path)
        if offset + rows * dtype.itemsize > size:
            raise SourceError(
                f"{path} is truncated: it has {size:,} bytes, but its header says {rows:,} values "
                f"of {dtype.itemsize} bytes after the first {offset:,} bytes."
            )
    names = dtype.names
    if names is not None and version > (2, 0):  # NumPy has read UTF-8 as Latin-1
        names = dtype.names = tuple(name.encode("latin-1").decode() for name in names)
    columns = ("values",) if names is None else tuple(n for n in names if not dtype[n].shape)

    def batches(column: str) -> Batches:
        # Integers are read at once: no conversion needs memory, and no transfer holds another copy.
        at_once = dtype.kind in "iu" and not isinstance(path, Uri)
        size = max(1, rows if at_once else _NPY_ROWS)
        with path.open("rb") as file:
            file.seek(offset)
            for start in range(0, rows, size):
                count = min(size, rows - start)
                values = items(file, dtype, count)
                if len(values) < count:
                    raise SourceError(f"{path} was cut off while it was read.")
                values = values if names is None else values[column].copy()
                native = values.dtype.newbyteorder("=")
                yield values.astype(native, copy=False), (start + count) / rows

    return columns, batches
