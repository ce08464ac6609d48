"""Samples of Parquet shards, by index: a data set that keeps a few shards in memory."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from batchwright._checks import whole_number
from batchwright.errors import SourceError
from batchwright.shard_index import ShardIndex
from batchwright.sources import uris
from batchwright.sources.columns import choose
from batchwright.sources.table import reading

if TYPE_CHECKING:
    import pyarrow as pa


class ParquetShards:
    """Samples of Parquet shards: rows as dicts, by their index over all shards.

    A data set for `PlanLoader` or any loader that takes indices. All rows of a shard are read when
    one of its samples is first asked for, and kept until `open_shards` others were used since. With
    ``Blocks(open_blocks=k)`` and ``open_shards=2 * k``, a process reads each shard once for every
    group of shards that it goes through. Each worker of a loader keeps its own shards.

    Args:
        index: The index, whose names are paths or URIs of the shards.
        columns: The columns to read. None: all.
        open_shards: How many shards to keep at most.

    Attributes:
        reads: Shards that this process has read.

    Raises:
        SourceError: When a sample is read: a shard is missing, damaged, or changed since indexing.

    Example:
        >>> import dataclasses, pathlib, tempfile
        >>> import pyarrow as pa, pyarrow.parquet as pq
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, texts in (("a", ["to be", "or"]), ("b", ["not to be"])):
        ...         pq.write_table(pa.table({"text": texts}), pathlib.Path(folder, name))
        ...     paths = tuple(str(pathlib.Path(folder, name)) for name in "ab")
        ...     index = dataclasses.replace(ShardIndex.build([[2, 1], [3]]), names=paths)
        ...     data = ParquetShards(index)
        ...     data[2], data.__getitems__([1, 0])
        ({'text': 'not to be'}, [{'text': 'or'}, {'text': 'to be'}])
    """

    def __init__(
        self,
        index: ShardIndex,
        columns: Sequence[str] | None = None,
        *,
        open_shards: int = 16,
    ) -> None:
        self.index = index
        if isinstance(columns, str):
            raise SourceError(
                f"ParquetShards got columns={columns!r}; expected a list, [{columns!r}]."
            )
        self.columns = None if columns is None else list(columns)
        self.open_shards = whole_number(
            "ParquetShards", "open_shards", open_shards, error=SourceError
        )
        self.reads = 0
        self._open: OrderedDict[int, pa.Table] = OrderedDict()

    def __len__(self) -> int:
        return self.index.num_samples

    def __getitem__(self, sample: int) -> dict[str, Any]:
        """Return one sample."""
        return self.__getitems__([sample])[0]

    def __getitems__(self, samples: Sequence[int]) -> list[dict[str, Any]]:
        """Return the samples of a batch, for which PyTorch's loaders ask together."""
        wanted = np.asarray(samples, dtype=np.int64)
        if wanted.size and not 0 <= int(wanted.min()) <= int(wanted.max()) < len(self):
            raise IndexError(f"samples {wanted.min()} to {wanted.max()} of {len(self)}.")
        found: list[Any] = [None] * wanted.size
        places = self.index.locate(wanted)
        for shard in np.unique(places[:, 0]).tolist():
            own = np.flatnonzero(places[:, 0] == shard)
            rows = self._table(shard).take(places[own, 1]).to_pylist()
            for place, row in zip(own.tolist(), rows, strict=True):
                found[place] = row
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the open shards."""
        return self.__dict__ | {"_open": OrderedDict(), "reads": 0}

    def _table(self, shard: int) -> pa.Table:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        name = self.index.names[shard]
        if self.index.stamps and uris.stamp(name) != self.index.stamps[shard]:
            raise SourceError(
                f"{name} was changed after it was indexed. Run `batchwright index` again, and plan "
                "again."
            )
        table = _read(name, self.columns)
        if table.num_rows != self.index.sizes[shard]:
            raise SourceError(
                f"{name} has {table.num_rows} rows, and {self.index.sizes[shard]} when it was "
                "indexed. Run `batchwright index` again, and plan again."
            )
        self.reads += 1
        while len(self._open) >= self.open_shards:
            self._open.popitem(last=False)
        self._open[shard] = table
        return table


def _read(name: str | os.PathLike[str], columns: list[str] | None) -> pa.Table:
    """Read a shard through one file, and close it."""
    with reading(str(name), "Parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        with uris.opened(name) as file:
            try:
                return pq.read_table(file, columns=columns, use_threads=False)
            except pa.ArrowInvalid:  # a column that is missing, perhaps
                names = pq.read_schema(file).names
                for column in columns or ():
                    choose(names, column, source=os.fspath(name))
                raise
