"""Directories and patterns: shards in the order of their names."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchwright import sources
from batchwright.errors import LengthsError, SourceError, SourceNotFoundError

from .conftest import write_json_lines


def test_a_directory_is_read_in_the_order_of_names(tmp_path) -> None:
    for part in (2, 0, 1):
        table = pa.table({"length": np.arange(3, dtype=np.int32) + 10 * part})
        pq.write_table(table, tmp_path / f"part-{part}.parquet")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "README.md").write_text("shards")
    (tmp_path / "._part-0.parquet").write_text("left by a file manager")
    lengths = sources.read_lengths(tmp_path)
    assert lengths.dtype == np.int32
    assert lengths.tolist() == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    assert sources.read_lengths(tmp_path / "part-[12].parquet").tolist() == lengths[3:].tolist()


def test_shards_of_npy_and_of_several_dtypes(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.array([1], dtype=np.uint64))
    np.save(tmp_path / "b.npy", np.array([2], dtype=np.int8))
    lengths = sources.read_lengths(tmp_path)
    assert lengths.dtype == np.int64
    assert lengths.tolist() == [1, 2]


def test_a_bad_row_is_named_with_its_shard(tmp_path) -> None:
    write_json_lines(tmp_path / "a.jsonl", pa.table({"n": [1, 2]}))
    write_json_lines(tmp_path / "b.jsonl", pa.table({"n": [3.0, 0.5]}))
    with pytest.raises(LengthsError, match=r"b\.jsonl: row 1 of 'n'"):
        sources.read_lengths(tmp_path)


def test_several_kinds_are_refused(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    (tmp_path / "b.csv").write_text("n\n1\n")
    with pytest.raises(SourceError, match=r"several kinds \(\.npy, CSV\)"):
        sources.read_lengths(tmp_path)


def test_jsonl_and_ndjson_are_one_kind(tmp_path) -> None:
    write_json_lines(tmp_path / "a.jsonl", pa.table({"n": [1]}))
    write_json_lines(tmp_path / "b.ndjson", pa.table({"n": [2]}))
    write_json_lines(tmp_path / "c.jsonl.gz", pa.table({"n": [3]}))
    assert sources.read_lengths(tmp_path).tolist() == [1, 2, 3]


def test_every_shard_needs_the_column(tmp_path) -> None:
    write_json_lines(tmp_path / "a.jsonl", pa.table({"n": [1]}))
    write_json_lines(tmp_path / "b.jsonl", pa.table({"m": [1]}))
    with pytest.raises(SourceError, match=r"b\.jsonl has no column 'n'"):
        sources.read_lengths(tmp_path)


def test_directories_and_patterns_of_nothing(tmp_path) -> None:
    with pytest.raises(SourceNotFoundError, match="no file of a known kind"):
        sources.read_lengths(tmp_path)
    with pytest.raises(SourceNotFoundError, match="no file of a known kind"):
        sources.read_lengths(tmp_path / "*.parquet")


def test_a_file_whose_name_looks_like_a_pattern(tmp_path) -> None:
    np.save(tmp_path / "a[1].npy", np.arange(3))
    assert sources.read_lengths(tmp_path / "a[1].npy").tolist() == [0, 1, 2]
