"""The variety experiment compares arms that differ in variety alone, and keeps what is finished."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import benchmarks.mixing.variety as command
from batchwright.stats.variety import variety
from benchmarks.mixing.from_examples import prepare, text_classification
from benchmarks.mixing.variety import ARMS, GOALS, MOST, PLAIN, TODAY, figures, fitted

from .test_benchmarks import result_of
from .test_mixing import texts

LENGTHS = np.clip(np.random.default_rng(0).lognormal(3.5, 0.7, 3_000), 4, 127).astype(np.int64)


@pytest.mark.parametrize("batches", [1, 8])
@pytest.mark.parametrize("slack", [0.0, 0.1, 1.0])
def test_arms_have_as_many_updates_in_every_epoch(batches, slack):
    planner = fitted(LENGTHS, 4_096, batches, slack, seed=0)
    wanted = round(LENGTHS.sum() / 4_096)
    assert wanted * 0.9 <= len(planner) / batches <= wanted
    assert planner.accumulate == batches
    control = command._plain(LENGTHS, 4_096, batches, np.random.default_rng(0))
    assert len(control) == wanted
    drawn = np.concatenate([batch for update in control for batch in update])
    assert np.array_equal(np.sort(drawn), np.arange(LENGTHS.size))


def test_slack_gives_the_variety_that_is_asked_for(monkeypatch):
    job = command.Reading([{"tokens": np.empty(each)} for each in LENGTHS], [], command.FULL[CLASS])
    monkeypatch.setattr(command, "job_of", lambda application, quick: job)
    found = {}
    for arm in GOALS:
        slack = command.slack_of.__wrapped__(CLASS, 1, arm, quick=False)
        planner = fitted(LENGTHS, command.FULL[CLASS].step_tokens[1], 1, slack, seed=0)
        found[arm] = variety(planner, epochs=8).batch
    assert found[TODAY] < 0.4 < found["half"] < 0.6
    assert found[MOST] > 0.75


CLASS = "classification"


def run_of(arm, seed, loss):
    return {
        "application": CLASS,
        "batches": 1,
        "arm": arm,
        "seed": seed,
        "padding": 0.1,
        "dispersion": 1.0,
        "at": [0.5, 0.8, 1.0],
        "validation": [9.0, loss + 1, loss],
    }


def test_differences_are_paired_by_the_seeds_that_both_have():
    losses = {PLAIN: [3.0, 4.0, 5.0], TODAY: [3.1, 4.1, 5.4], MOST: [3.0, 4.1]}
    runs = [run_of(arm, *each) for arm, many in losses.items() for each in enumerate(many)]
    rows = {row["arm"]: row for row in figures(runs)}
    assert list(rows) == [PLAIN, TODAY, MOST]
    assert "over_plain" not in rows[PLAIN]
    assert rows[TODAY]["over_plain"]["mean"] == pytest.approx(0.2)
    assert rows[TODAY]["late_over_plain"]["mean"] == pytest.approx(0.2)
    assert rows[MOST]["over_no_slack"]["mean"] == pytest.approx(-0.05)
    assert rows[MOST]["over_plain"]["seeds"] == 2


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[prepare.__module__], "functions", texts)
    glosses = [
        (f"{'a b c d e f g h i j k l m n o p'[: 1 + 2 * (i % 16)]} {i}", i % 45) for i in range(200)
    ]
    monkeypatch.setattr(text_classification, "unpacked", lambda package: package)
    monkeypatch.setattr(text_classification, "glosses", lambda folder: glosses)
    small = {
        name: replace(
            each,
            num_samples=100,
            num_validation=8,
            vocabulary=300,
            width=32,
            step_tokens={1: 256, 8: 512},
        )
        for name, each in command.QUICK.items()
    }
    monkeypatch.setattr(command, "QUICK", small)
    target = tmp_path / "variety.json"
    arguments = ["--quick", "--jobs", "1", "--seeds", "1", "--output", str(target)]
    train_one, done, threads = command.train_one, [], torch.get_num_threads()

    def stopped(run, quick):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(run)
        return train_one(run, quick)

    command.job_of.cache_clear()
    command.slack_of.cache_clear()
    try:
        monkeypatch.setattr(command, "train_one", stopped)
        first = CliRunner().invoke(command.main, arguments)
        assert first.exit_code == 130
        total = len(small) * sum(map(len, ARMS.values()))
        assert f"3 of {total} trainings are kept" in first.output
        assert len(result_of(target)["runs"]) == 3
        monkeypatch.setattr(command, "train_one", train_one)
        again = CliRunner().invoke(command.main, arguments, catch_exceptions=False)
    finally:
        torch.set_num_threads(threads)
        command.job_of.cache_clear()
        command.slack_of.cache_clear()
    assert again.exit_code == 0, again.output
    result = result_of(target)
    assert len(result["runs"]) == total
    assert len({json.dumps([run[key] for key in KEYS]) for run in result["runs"]}) == total
    assert all(np.isfinite(run["validation"]).all() for run in result["runs"])
    assert json.dumps(result, allow_nan=False)


KEYS = ("application", "batches", "arm", "seed")
