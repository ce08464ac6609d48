"""Columns as they are: the same values out of every format."""

import json

import numpy as np
import pytest

import batchwright as bw
from batchwright.sources.columns import column_values

pa = pytest.importorskip("pyarrow")


def test_values_are_those_of_the_rows_whatever_their_type(tmp_path):
    import pyarrow.parquet as pq

    rows = pa.table(
        {
            "name": pa.array(["a", "b", "a"] * 50).dictionary_encode(),
            "number": pa.array([3, 1, 2] * 50, pa.int16()),
            "flag": [True, False, True] * 50,
        }
    )
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=40)
    for name in rows.column_names:
        found = column_values(tmp_path / "rows.parquet", name)
        assert found.to_pylist() == rows[name].to_pylist()


def test_shards_are_read_in_the_order_of_their_names(tmp_path):
    for number in (2, 0, 1):
        lines = [json.dumps({"label": f"{number}{k}"}) + "\n" for k in range(3)]
        (tmp_path / f"part-{number}.jsonl").write_text("".join(lines))
    found = column_values(tmp_path, "label").to_pylist()
    assert found == [f"{number}{k}" for number in range(3) for k in range(3)]


def test_integers_that_become_fractions_are_one_column(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n')
    (tmp_path / "b.jsonl").write_text('{"x": 1.5}\n')
    assert column_values(tmp_path, "x").to_pylist() == [1.0, 1.5]


def test_fields_of_a_npy_are_columns(tmp_path):
    rows = np.array([(1, "a"), (2, "b")], dtype=[("length", "i4"), ("label", "U1")])
    np.save(tmp_path / "rows.npy", rows)
    assert column_values(tmp_path / "rows.npy", "label", text=True).tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "column", "text", "said"),
    [
        ([{"x": 1}], "y", False, "has no column 'y'"),
        ([{"x": 1}], "x", True, "expected text, one value"),
        ([{"x": [1]}], "x", False, "one value for each sample"),
    ],
)
def test_what_is_no_column_of_values_is_refused(tmp_path, rows, column, text, said):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(bw.errors.SourceError, match=said):
        column_values(path, column, text=text)


def test_shards_of_several_types_and_of_no_rows_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n')
    (tmp_path / "b.jsonl").write_text('{"x": "one"}\n')
    with pytest.raises(bw.errors.SourceError, match="several types"):
        column_values(tmp_path, "x")
    (tmp_path / "none.csv").write_text("x\n")
    with pytest.raises(bw.errors.SourceError, match="no rows"):
        column_values(tmp_path / "none.csv", "x")
