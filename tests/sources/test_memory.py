"""Files much larger than what is held of them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow

ROWS = 120_000
TEXT = "the quick brown fox jumps over the lazy dog " * 24  # about 1 KiB; 120 MB in all

READ = """
import resource, sys
sys.path[:0] = {path!r}
from batchwright import sources
import pyarrow.parquet, pyarrow.csv, pyarrow.json, pyarrow.compute
pyarrow.set_cpu_count(2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
n = sources.read_lengths(sys.argv[1], column=sys.argv[2], measure=sys.argv[3] or None, cache=False)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(n), int(n.sum()), (after - before) // 1024)
"""


def read(path: Path, column: str, measure: str) -> tuple[int, int, int]:
    """Return rows, tokens, and by how many MiB the process grew at most."""
    done = subprocess.run(
        [sys.executable, "-c", READ.format(path=sys.path), str(path), column, measure],
        capture_output=True,
        text=True,
        check=True,
    )
    rows, tokens, grown = map(int, done.stdout.split())
    return rows, tokens, grown


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("large")
    files = {kind: directory / f"a.{kind}" for kind in ("parquet", "jsonl", "csv")}
    rng = np.random.default_rng(0)
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    with (
        # One row group, and text that no dictionary shortens.
        pq.ParquetWriter(files["parquet"], schema, use_dictionary=False, compression="none") as pq_,
        files["jsonl"].open("w") as jsonl,
        files["csv"].open("w") as csv,
    ):
        csv.write("id,text\n")
        batches = []
        for start in range(0, ROWS, 10_000):
            ids = range(start, start + 10_000)
            rows = [TEXT[:size] for size in rng.integers(900, len(TEXT), 10_000)]
            batches.append(pa.record_batch([pa.array(ids), pa.array(rows)], schema=schema))
            jsonl.writelines(
                json.dumps({"id": i, "text": t}) + "\n" for i, t in zip(ids, rows, strict=True)
            )
            csv.writelines(f"{i},{t}\n" for i, t in zip(ids, rows, strict=True))
        pq_.write_table(pa.Table.from_batches(batches), row_group_size=ROWS)
    return files


@pytest.mark.parametrize(
    ("kind", "measure"),
    [("parquet", "bytes"), ("parquet", "words"), ("jsonl", "words"), ("csv", "bytes")],
)
def test_text_is_read_in_a_fraction_of_its_size(texts, kind: str, measure: str) -> None:
    path = texts[kind]
    assert path.stat().st_size > 100 << 20
    rows, tokens, grown = read(path, "text", measure)
    assert rows == ROWS
    assert tokens > ROWS * 100
    assert grown < 60, f"grew by {grown} MiB"


def test_small_integers_stay_small(tmp_path) -> None:
    rows = 20_000_000
    lengths = np.random.default_rng(0).integers(1, 2000, rows, dtype=np.int16)
    pq.write_table(pa.table({"length": lengths}), tmp_path / "a.parquet")
    found, tokens, grown = read(tmp_path / "a.parquet", "length", "")
    assert (found, tokens) == (rows, int(lengths.sum()))
    # 38 MiB of result; as int64 it would be 153. Pieces are let go as they are joined.
    assert grown < 120, f"grew by {grown} MiB"
