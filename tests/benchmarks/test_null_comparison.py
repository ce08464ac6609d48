"""The comparison of a strategy with its own twin runs, and keeps what it found."""

import pytest
from click.testing import CliRunner

from benchmarks.null_comparison import main

from .test_benchmarks import result_of

TASK = """
from tests.compare.conftest import make_task

task = make_task()
"""


@pytest.mark.slow
def test_twins_are_compared(tmp_path):
    task, target = tmp_path / "job.py", tmp_path / "result.json"
    task.write_text(TASK, encoding="utf-8")
    options = ["--runs", "1", "--seeds", "1", "--task", str(task), "--output", str(target)]
    done = CliRunner().invoke(main, options, catch_exceptions=False)
    assert done.exit_code == 0
    result = result_of(target)
    (run,) = result["runs"]
    assert run["ratios"] == [pytest.approx(run["ratio"])]
    assert result["near"] == (abs(run["ratio"] - 1) <= result["within"])
    assert f"within 2% of 1: {result['near']:d} of 1" in done.output
    assert run["updates"] == 16
