"""The six applications, and three more jobs: each learns something from real data."""

import importlib
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import language_model
import pytest
import speech_recognition
from debian_packages import NoPackageError

from batchwright.compare import Settings, Task, check_task, compare, load_task, summarize
from benchmarks.applications import APPLICATIONS, MORE_JOBS
from tests.patience import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Part:
    """What is trained here of the small form of an application.

    Args:
        share: Of its tokens.
        strategies: Of its strategies.
        loss: Of a few samples in the end, at most; 1 before training. Between that and what is
            reached lies at least a quarter of what the loss falls by.
        chance: The metric of a model that does not look at its input. None: it takes longer to
            get better than that, and only the loss has to fall.
    """

    share: float
    strategies: tuple[str, ...]
    loss: float
    chance: float | None = None


PARTS = {
    "translation": Part(0.16, ("plain", "planned"), 0.925, math.log(2_048)),
    "text_classification": Part(0.2, ("plain", "planned+curriculum"), 0.84),
    "language_model": Part(0.16, ("plain", "planned"), 0.915, math.log(1_024)),
    "vision_transformer": Part(0.3, ("plain", "planned"), 0.925, 0.2),
    "speech_recognition": Part(0.4, ("plain", "planned+curriculum"), 0.52),
    "docstrings": Part(0.25, ("plain", "planned"), 0.8),
    "dictionary": Part(0.4, ("plain", "planned"), 0.95),
    "spoken_prompts": Part(0.5, ("plain", "planned"), 0.88),
}


def with_losses(task: Task, losses: list[float]) -> Task:
    """Return the same task; each of its evaluations also appends the loss of a few samples."""
    probe = task.collate([task.samples[index] for index in range(16)])

    def evaluate(model):
        losses.append(float(task.loss_sum(model, probe)))
        return task.evaluate(model)

    return replace(task, evaluate=evaluate)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_the_small_form_learns(name, monkeypatch, one_thread, library):
    monkeypatch.setattr(language_model, "functions", lambda: library)
    few = partial(speech_recognition.prepare, num_syllables=120)
    monkeypatch.setattr(speech_recognition, "prepare", few)
    part, example = PARTS[name], importlib.import_module(name)
    try:
        whole = example.task(quick=True)
    except NoPackageError as error:
        pytest.skip(str(error))
    assert set(part.strategies) <= set(whole.strategies)
    losses: list[float] = []
    task = with_losses(whole, losses).shortened(part.share)
    settings = Settings(evaluations=1, longer=0)
    measured = compare(task, part.strategies, seeds=(0,), settings=settings)
    before, *after = losses
    assert len(after) == len(part.strategies)
    assert max(after) < part.loss * before
    summary = summarize(measured.runs, task)
    first, *others = summary
    for each in summary:
        assert each.failed == 0
        assert each.worst_batch <= 1 or (each is first and whole.batch_size is not None)
        assert 0 <= each.padding < 0.85
        assert each.peak_bytes > 0
        if each.name != "dense limit":
            assert math.isfinite(each.metric)
            if part.chance is not None:
                assert task.sign * each.metric < task.sign * part.chance
    planned = [each for each in others if each.name.startswith("planned")]
    assert planned
    assert all(each.padding <= first.padding for each in planned)


@pytest.mark.slow
def test_the_command_runs_the_small_form(tmp_path):
    """Of the one that is trained in seconds; the others differ in their task only."""
    pytest.importorskip("sklearn")
    file = tmp_path / "result.json"
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "batchwright",
                "compare",
                "examples/applications/image_classification.py",
            ),
            *("--quick", "--json", "--output", str(file)),
        ],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": "src", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    kept = json.loads(file.read_text(encoding="utf-8"))
    del kept["sha256"]  # of the rest
    assert result == kept | {"said": result["said"]}
    assert result["complete"]
    for each in result["summary"]:
        assert each["failed"] == 0
        assert each["worst_batch"] <= 1
        assert each["padding"] == 0
        assert each["peak_bytes"] > 0
        assert each["metric"] > 0.2


def test_each_job_is_trained_here():
    assert {*PARTS, "image_classification"} == {*APPLICATIONS, *MORE_JOBS}


@pytest.mark.slow
def test_the_form_in_full_is_a_task_too():
    check_task(load_task(REPOSITORY / "examples" / "applications" / "image_classification.py"))
