"""The six applications in their small form: each learns something from real data."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchwright.compare import check_task, load_task
from benchmarks.applications import APPLICATIONS
from tests.patience import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]

# What a model that does not look at its input gets, in the small form.
CHANCE = {
    "translation": math.log(2_048),
    "text_classification": 0.2,
    "language_model": math.log(1_024),
    "vision_transformer": 0.2,
    "image_classification": 0.2,
    "speech_recognition": 0.0,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_the_small_form_learns_and_its_figures_make_sense(name, tmp_path):
    file = tmp_path / "result.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "batchwright", "compare", f"examples/{name}.py"),
            *("--quick", "--json", "--output", str(file)),
        ],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": "src", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    if "could not be fetched" in done.stderr or "no apt-get here" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    kept = json.loads(file.read_text(encoding="utf-8"))
    del kept["sha256"]  # of the rest
    assert result == kept | {"said": result["said"]}
    assert result["complete"]
    sign = 1 if result["better"] == "lower" else -1
    for each in result["summary"]:
        assert each["failed"] == 0
        assert each["worst_batch"] <= 1
        assert 0 <= each["padding"] < 0.8
        assert each["peak_bytes"] > 0
        if each["name"] != "dense limit":
            assert sign * each["metric"] < sign * CHANCE[name]
    planned = [each for each in result["summary"] if each["name"].startswith("planned")]
    assert all(each["padding"] <= result["summary"][0]["padding"] for each in planned)


@pytest.mark.slow
def test_the_form_in_full_is_a_task_too():
    check_task(load_task(REPOSITORY / "examples" / "image_classification.py"))
