"""Parquet and Arrow: types that a file can hold and a kernel may not take."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from batchwright import sources
from batchwright.errors import SourceError

VALUES = ["to be", "é", "", "to be", "x"] * 3
ENCODED = [value.encode() for value in VALUES]

# Earlier versions write views, but have no way to read their lengths.
needs_casts_of_views = pytest.mark.skipif(
    int(pa.__version__.partition(".")[0]) < 18, reason="pyarrow < 18 does not cast views"
)


@pytest.mark.parametrize("writer", ["data.arrow", "stream.arrow"])
@pytest.mark.parametrize(
    "array",
    [
        pa.array(VALUES, pa.large_string()),
        pytest.param(pa.array(VALUES, pa.string_view()), marks=needs_casts_of_views),
        pa.array(VALUES).dictionary_encode(),
        pa.array(ENCODED, pa.binary()),
        pa.array(ENCODED, pa.large_binary()),
        pytest.param(pa.array(ENCODED, pa.binary_view()), marks=needs_casts_of_views),
    ],
    ids=lambda array: str(array.type),
)
def test_text_in_any_encoding(write, array, writer: str) -> None:
    lengths = sources.read_lengths(write(writer, {"text": array}), measure="bytes")
    assert lengths.tolist() == [len(value) for value in ENCODED]


@pytest.mark.parametrize(
    ("type_", "item"),
    [
        (pa.large_list(pa.int32()), 1),
        (pa.list_view(pa.int32()), 1),
        (pa.large_list_view(pa.int32()), 1),
        (pa.list_(pa.list_(pa.int8())), [1]),
        (pa.list_(pa.struct([("role", pa.string())])), {"role": "user"}),
    ],
)
def test_lists_in_any_encoding(write, type_, item) -> None:
    array = pa.array([[item] * k for k in (3, 0, 1)], type_)
    assert sources.read_lengths(write("data.arrow", {"tokens": array})).tolist() == [3, 0, 1]


def test_lists_of_fixed_size(write) -> None:
    array = pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2))
    assert sources.read_lengths(write("data.parquet", {"tokens": array})).tolist() == [2, 2]


def test_decimals_and_half_floats(write) -> None:
    decimals = pa.array([3, 4], pa.int64()).cast(pa.decimal128(21, 2))
    assert sources.read_lengths(write("data.parquet", {"length": decimals})).tolist() == [3, 4]
    halves = np.array([3, 4], dtype=np.float16)
    assert sources.read_lengths(write("data.parquet", {"length": halves})).tolist() == [3, 4]


@pytest.mark.skipif(not hasattr(pa, "json_"), reason="pyarrow < 19 has no JSON type")
def test_extension_types_are_their_storage(write) -> None:
    array = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}', "[]"]))
    lengths = sources.read_lengths(write("data.arrow", {"text": array}), measure="characters")
    assert lengths.tolist() == [8, 2]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([True, False]),
        pa.array([{"a": 1}, {"a": 2}]),
        pa.array([1, 2], pa.timestamp("s")),
        pa.array([1, 2], pa.duration("s")),
    ],
)
def test_other_types_are_refused(write, values) -> None:
    with pytest.raises(SourceError, match="expected integers, text or lists"):
        sources.read_lengths(write("data.parquet", {"length": values}))


def test_feather_as_pyarrow_writes_it(tmp_path) -> None:
    feather.write_feather(pa.table({"length": [1, 2, 3]}), tmp_path / "a.feather")
    assert sources.read_lengths(tmp_path / "a.feather").tolist() == [1, 2, 3]


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_streams(tmp_path, codec: str) -> None:
    table = pa.table({"length": range(100), "text": ["to be"] * 100})
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_stream(tmp_path / "a.arrow", table.schema, options=options) as writer:
        writer.write_table(table)
    assert sources.read_lengths(tmp_path / "a.arrow").tolist() == list(range(100))


def test_columns_with_dots_in_their_names(write) -> None:
    columns = {"a": [[1], [2, 3]], "a.b": [7, 8], "c": [{"d": 1}, {"d": 2}]}
    path = write("data.parquet", columns)
    assert sources.read_lengths(path, column="a.b").tolist() == [7, 8]
    assert sources.read_lengths(path, column="a").tolist() == [1, 2]


def test_two_columns_of_one_name_are_refused(tmp_path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["length", "length"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="2 columns named 'length'"):
        sources.read_lengths(tmp_path / "a.parquet", column="length")
