"""Shards that were indexed by the command, and read on nodes of two ranks; then on fewer ranks."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchwright.cli import main
from tests import reference
from tests.launched import launched

SCRIPT = Path(__file__).parent / "scripts" / "shards_job.py"
SHARDS, SIZE = 12, 60


@pytest.fixture
def index(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    rng = np.random.default_rng(0)
    for shard in range(SHARDS):
        texts = [" ".join(["word"] * many) for many in rng.integers(1, 40, SIZE).tolist()]
        table = pa.table({"text": texts, "id": shard * SIZE + np.arange(SIZE)})
        pq.write_table(table, corpus / f"{shard:02d}.parquet")
    folder = tmp_path / "index"
    command = ["index", str(corpus), "-o", str(folder), "--length", "text", "--measure", "words"]
    assert main(command) == 0
    return folder


def run(tmp_path, index, ranks, batches):
    output = tmp_path / f"output-{ranks}"
    output.mkdir()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", ranks]
    words = [SCRIPT, index, tmp_path / "state.json", output, batches]
    done = launched([*torchrun, *words], cwd=SCRIPT.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((output / f"{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.slow
def test_each_sample_is_read_once_on_nodes_that_read_few_shards(tmp_path, index):
    first = run(tmp_path, index, ranks=4, batches=10)
    rest = run(tmp_path, index, ranks=2, batches=10_000)
    read = [sample for rank in first + rest for batch in rank["read"] for sample in batch]
    assert sorted(read) == list(range(SHARDS * SIZE))
    for node in (first[:2], first[2:]):
        batches = [
            {sample // SIZE for sample in batch}
            for both in zip(*(rank["read"] for rank in node), strict=True)
            for batch in both
        ]
        assert reference.most_open(batches) <= 2
        assert all(rank["reads"] <= 4 for rank in node)
    assert all(rank["reads"] <= SHARDS for rank in rest)
