"""Real files of every format, and a cache of their own."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
import pyarrow.csv as pa_csv  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402


@pytest.fixture(autouse=True)
def cache_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> Path:
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BATCHWRIGHT_CACHE", str(directory))
    return directory


def write_parquet(path: Path, table) -> None:
    pq.write_table(table, path, row_group_size=7)


def write_arrow_file(path: Path, table) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


def write_arrow_stream(path: Path, table) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


def write_json_lines(path: Path, table) -> None:
    text = "".join(json.dumps(row) + "\n" for row in table.to_pylist())
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(text)


def write_delimited(path: Path, table) -> None:
    flat = table.select([n for n in table.column_names if not pa.types.is_list(table[n].type)])
    buffer = io.BytesIO()
    delimiter = "\t" if ".tsv" in path.suffixes else ","
    pa_csv.write_csv(flat, buffer, pa_csv.WriteOptions(delimiter=delimiter))
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wb") as file:
        file.write(buffer.getvalue())


def write_npy(path: Path, table) -> None:
    np.save(path, table["length"].to_numpy())


WRITERS: dict[str, Callable] = {
    "data.parquet": write_parquet,
    "data.arrow": write_arrow_file,
    "stream.arrow": write_arrow_stream,
    "data.feather": write_arrow_file,
    "data.ipc": write_arrow_file,
    "data.jsonl": write_json_lines,
    "data.ndjson": write_json_lines,
    "data.csv": write_delimited,
    "data.tsv": write_delimited,
    "data.jsonl.gz": write_json_lines,
    "data.csv.gz": write_delimited,
    "data.npy": write_npy,
}
WITH_COLUMNS = [name for name in WRITERS if name != "data.npy"]
WITH_TYPES = [name for name in WITH_COLUMNS if ".csv" not in name and ".tsv" not in name]
ALIASES = ("data.feather", "data.ipc", "data.ndjson", "data.tsv")
"""What is read by the code of another suffix: `test_formats.py` looks at each."""


@pytest.fixture
def write(tmp_path: Path) -> Callable:
    """Return a function that writes columns into a file of the format that a name stands for."""

    def write_(name: str, columns: dict) -> Path:
        path = tmp_path / name
        WRITERS[name](path, pa.table(columns))
        return path

    return write_
