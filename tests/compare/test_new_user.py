"""A task that somebody wrote from the documentation alone, unchanged: it ran at the first try."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE

HERE = Path(__file__).resolve().parent
TASK = HERE / "new_user_task.py"


@pytest.mark.slow
def test_a_task_written_from_the_documentation_alone_runs(tmp_path):
    assert len(TASK.read_text(encoding="utf-8").splitlines()) <= 40
    done = subprocess.run(
        [
            *(sys.executable, "-m", "batchwright", "compare", str(TASK), "--quick"),
            *("--strategies", "plain,planned", "--output", "out.json"),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(HERE.parents[1] / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    plain, planned, _ = json.loads((tmp_path / "out.json").read_text())["summary"]
    assert planned["padding"] < plain["padding"]
    # The mean alone has 0.146.
    assert max(plain["metric"], planned["metric"]) < 0.12
