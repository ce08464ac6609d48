"""Columns out of Parquet and Arrow files, one batch of rows in memory at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchwright.errors import SourceError
from batchwright.sources.table import Batches, Table, reading

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_BYTES = 16 << 20
"""About how much of a column is decoded at a time."""

_BATCH_ROWS = 1 << 16
_STREAM_BUFFER_BYTES = 1 << 20
_FILE_FORMAT = b"ARROW1"
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def parquet(path: Path) -> Table:
    """Open a Parquet file.

    Raises:
        SourceError: The file is truncated, corrupt, or no Parquet.
    """
    with reading(str(path), "Parquet"):
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            columns = tuple(file.schema_arrow.names)

    def batches(column: str) -> Batches:
        import pyarrow.parquet as pq

        # A buffer makes the reader stream a column chunk instead of loading it whole.
        with pq.ParquetFile(
            path, buffer_size=_STREAM_BUFFER_BYTES, page_checksum_verification=True
        ) as file:
            total = file.metadata.num_rows
            rows = _rows_per_batch(file.metadata, column)
            seen = 0
            for batch in file.iter_batches(batch_size=rows, columns=[column]):
                seen += batch.num_rows
                yield checked(batch.column(column)), seen / total

    return Table(str(path), "Parquet", columns, batches, columnar=True)


def _rows_per_batch(metadata: pq.FileMetaData, column: str) -> int:
    # A row may be one integer or a whole book: bound the bytes, not the rows.
    size = 0
    for g in range(metadata.num_row_groups):
        group = metadata.row_group(g)
        for c in range(group.num_columns):
            chunk = group.column(c)
            if chunk.path_in_schema == column or chunk.path_in_schema.startswith(f"{column}."):
                size += chunk.total_uncompressed_size
    bytes_per_row = max(1, size // max(1, metadata.num_rows))
    return max(1, min(_BATCH_ROWS, BATCH_BYTES // bytes_per_row))


def arrow(path: Path) -> Table:
    """Open an Arrow IPC file of either format, file or stream. It is mapped, not read.

    Raises:
        SourceError: The file is truncated, corrupt, or no Arrow.
    """
    with reading(str(path), "Arrow"):
        import pyarrow as pa

        with path.open("rb") as file:
            is_stream = file.read(len(_FILE_FORMAT)) != _FILE_FORMAT
        open_ipc = pa.ipc.open_stream if is_stream else pa.ipc.open_file
        with pa.memory_map(str(path)) as source:
            columns = tuple(open_ipc(source).schema.names)

    def batches(column: str) -> Batches:
        import pyarrow as pa

        options = pa.ipc.IpcReadOptions(included_fields=[columns.index(column)])
        with pa.memory_map(str(path)) as source:
            read = _stream_batches if is_stream else _file_batches
            yield from read(source, options, str(path))

    return Table(str(path), "Arrow", columns, batches, columnar=True)


def _file_batches(source: pa.MemoryMappedFile, options: pa.ipc.IpcReadOptions, _: str) -> Batches:
    import pyarrow as pa

    reader = pa.ipc.open_file(source, options=options)
    for i in range(reader.num_record_batches):
        yield checked(reader.get_batch(i).column(0)), (i + 1) / reader.num_record_batches


def _stream_batches(
    source: pa.MemoryMappedFile, options: pa.ipc.IpcReadOptions, name: str
) -> Batches:
    import pyarrow as pa

    size = source.size()
    for batch in pa.ipc.open_stream(source, options=options):
        yield checked(batch.column(0)), source.tell() / size
    # A stream cut between two batches reads without complaint; only its end mark is missing.
    end = source.tell()
    source.seek(end - len(_END_OF_STREAM))
    if source.read(len(_END_OF_STREAM)) != _END_OF_STREAM:
        raise SourceError(
            f"{name} is truncated: it stops after {end:,} bytes without an end-of-stream mark. "
            "Write it again."
        )


def checked(values: pa.Array[Any]) -> pa.Array[Any]:
    """Return `values` unchanged after checking every offset and every byte of UTF-8 in it.

    Kernels trust the offsets of an array: those of a damaged file would be read out of bounds.
    """
    values.validate(full=True)
    return values
