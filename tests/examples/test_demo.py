"""The demonstration: its arms, and the whole of it in its small form."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from demo_arms import (
    Evaluation,
    into_updates,
    learning_rate_at,
    length_grouped,
    plain,
    reached,
    windows,
)
from hypothesis import given
from hypothesis import strategies as st

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "examples" / "demo.py"

lengths_of_samples = st.lists(st.integers(1, 64), min_size=60, max_size=400).map(np.array)


@pytest.mark.parametrize("make", [plain, length_grouped])
@given(lengths=lengths_of_samples, seed=st.integers(0, 9))
def test_batches_of_one_size_hold_every_sample_once_within_the_budget(make, lengths, seed):
    batches = make(lengths, 256, np.random.default_rng(seed))
    size = 256 // lengths.max()
    assert sorted(np.concatenate(batches).tolist()) == list(range(lengths.size))
    assert [batch.size for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert all(batch.size * lengths[batch].max() <= 256 for batch in batches)


def test_megabatches_are_random_and_sorted_from_long_to_short():
    lengths = np.random.default_rng(0).integers(1, 65, size=4 * 10 * 3)
    batches = length_grouped(lengths, 256, np.random.default_rng(0), megabatch=10)
    order = np.concatenate(batches)
    megabatches = [set(part.tolist()) for part in np.split(order, 3)]
    for part in np.split(order, 3):
        assert (np.diff(lengths[part]) <= 0).all()
    assert set(range(40)) not in megabatches


@given(lengths=lengths_of_samples, num_updates=st.integers(1, 6))
def test_updates_are_consecutive_batches_with_about_the_same_tokens(lengths, num_updates):
    batches = plain(lengths, 128, np.random.default_rng(0))
    tokens = [int(lengths[batch].sum()) for batch in batches]
    updates = into_updates(batches, lengths, num_updates)
    assert [batch.tolist() for update in updates for batch in update] == [
        batch.tolist() for batch in batches
    ]
    if max(tokens) <= sum(tokens) / num_updates:
        assert len(updates) == num_updates
        for update in updates:
            of_update = sum(int(lengths[batch].sum()) for batch in update)
            assert abs(of_update - sum(tokens) / num_updates) <= max(tokens)


def test_windows_are_of_constant_size():
    batches = [np.array([i]) for i in range(6)]
    assert [[int(b[0]) for b in update] for update in windows(batches, 2)] == [
        [0, 1],
        [2, 3],
        [4, 5],
    ]


def test_the_learning_rate_rises_then_falls_and_never_exceeds_its_peak():
    rates = [learning_rate_at(progress) for progress in np.linspace(0.01, 1.5, 150)]
    assert max(rates) == pytest.approx(1)
    assert np.argmax(rates) == 19
    assert rates[99] == pytest.approx(math.sqrt(0.2))


def test_when_a_loss_was_reached_lies_between_evaluations():
    curve = [Evaluation(0, 0.0, 5.0), Evaluation(100, 2.0, 3.0), Evaluation(200, 4.0, 2.0)]
    assert reached(curve, 2.5) == Evaluation(150, 3.0, 2.5)
    assert reached(curve, 3.0) == Evaluation(100, 2.0, 3.0)
    assert reached(curve, 1.9) is None


@pytest.mark.slow
def test_the_small_form_runs_and_its_figures_make_sense(tmp_path):
    output = tmp_path / "new" / "demo.json"
    done = run("--quick", "--threads", "1", "--seed", "1", "--json", str(output))
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text(encoding="utf-8"))
    arms = {arm["name"]: arm for arm in result["arms"]}
    assert list(arms) == [
        "plain",
        "length-grouped",
        "planned",
        "dense limit",
        "planned, auto",
    ]
    assert result["machine"]["cores"] >= 1
    assert result["machine"]["threads"] == 1
    assert result["machine"]["torch"].startswith("2.")
    assert str(REPOSITORY) not in output.read_text(encoding="utf-8")
    num_updates = arms["planned"]["num_updates"]
    assert num_updates > 20
    for name, arm in arms.items():
        trained = arm["tokens_per_update"] * arm["num_updates"]
        if name == "dense limit":  # shows its speed only, and not in every turn
            assert 5 < arm["num_updates"] <= num_updates
            assert arm["tokens_per_update"] == pytest.approx(
                arms["planned"]["tokens_per_update"], rel=0.1
            )
        else:
            assert arm["num_updates"] == num_updates
            assert trained == pytest.approx(result["lengths"]["num_tokens"])
        assert arm["tokens_per_second"] == pytest.approx(trained / arm["seconds"])
        assert 0 < arm["worst_batch_over_budget"] <= 1
        assert name in done.stdout
    assert arms["dense limit"]["padding"] == 0
    assert arms["planned"]["padding"] < 0.05
    assert 0.3 < arms["plain"]["padding"] < 1
    assert arms["plain"]["speed_over_plain"] == arms["dense limit"]["speed_over_limit"] == 1
    assert arms["plain"]["time_over_plain"] == 1
    trials = result["precision"]["trials"]
    assert trials[0]["mode"] == "fp32"
    assert any(f"chose {trial['mode']}" in done.stdout for trial in trials)
    assert arms["planned, auto"]["padding"] < 0.15
    for name in ("plain", "length-grouped", "planned", "planned, auto"):
        first, *_, last = arms[name]["evaluations"]
        assert first["loss"] == pytest.approx(math.log(result["settings"]["vocabulary"]), abs=1e-4)
        assert last["loss"] < first["loss"] - 1
        assert arms[name]["final_loss"] < first["loss"] - 1
    dial = {each["mixing"]: each for each in result["mixing"]}
    assert dial["stratified"]["efficiency"] > dial["update"]["efficiency"]
    assert all(each["dispersion"] < 5 for each in result["mixing"])
    assert f"{arms['planned']['speed_over_plain']:.2f}" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_an_interrupt_ends_it_without_a_traceback(tmp_path):
    output = tmp_path / "demo.json"
    command = [sys.executable, str(SCRIPT), "--quick", "--threads", "1", "--json", str(output)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert "functions" in process.stdout.readline()
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Interrupted" in stdout
    assert "Traceback" not in stderr
    assert not output.exists()


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(), timeout=280
    )


def environment():
    path = os.pathsep.join([str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "100"}
