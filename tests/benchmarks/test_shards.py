"""Plans of data in shards that no file holds, in small, and what docs say of them."""

import json
import subprocess
import sys

import pytest

from benchmarks import machine
from benchmarks.blocks.planner import shards, shards_ahead


@pytest.mark.slow
def test_small_shards_are_planned_and_checked(tmp_path):
    target = tmp_path / "shards.json"
    command = [sys.executable, "-m", "benchmarks.shards", "--quick", "--output", str(target)]
    done = subprocess.run(
        command, cwd=machine.REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(target.read_text())
    (row,) = facts["rows"]
    assert row["each_sample_once"]
    assert row["open_shards"] <= 16
    assert row["efficiency"] > 0.99
    assert row["dispersion"] < 1
    assert "| shards open on a node | ≤ 16 |" in shards(facts)
    assert "Calculated for 10¹⁰ samples in 1,000,000 shards" in shards_ahead(facts)
