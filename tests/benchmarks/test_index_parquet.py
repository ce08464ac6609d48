"""The benchmark of indexing counts the same words as a plain loop."""

import pytest
from click.testing import CliRunner

from batchwright.sources import engines
from benchmarks import index_parquet
from tests.benchmarks.test_benchmarks import result_of


@pytest.mark.slow
def test_both_ways_count_alike_and_are_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(index_parquet, "TEXTS", 20_000)
    monkeypatch.setattr(engines, "cores", lambda: 1)
    monkeypatch.setattr(index_parquet.os, "sched_setaffinity", lambda *_: None, raising=False)
    target = tmp_path / "index_parquet.json"
    done = CliRunner().invoke(
        index_parquet.main, ["--quick", "--output", str(target)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    result = result_of(target)
    assert result["texts"] == 2_000
    assert result["words"] > 2_000
    assert result["ratio"]["median"] > 0
    assert "texts a second" in done.output
