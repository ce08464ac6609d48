"""The mixing experiment compares what it says, and says what it finds."""

import json
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import benchmarks.mixing.__main__ as command
from benchmarks.mixing.__main__ import Settings
from benchmarks.mixing.compositions import (
    GROUPED,
    GROUPED_FIXED,
    GROUPED_SHUFFLED,
    MEGABATCH,
    PLAIN,
    SAMPLES,
    STRATIFIED,
    compositions,
    mix,
)
from benchmarks.mixing.figures import Difference, results_of, sentences, table
from benchmarks.mixing.from_examples import prepare
from benchmarks.mixing.training import EVALUATE_AT, Losses, learning_rate_at, train, unigram_loss
from benchmarks.reporting import table_console

from .test_benchmarks import result_of

language_model = sys.modules[prepare.__module__]

LENGTHS = np.clip(np.random.default_rng(0).lognormal(4.75, 0.65, 3_000), 4, 256).astype(np.int64)
STEP_TOKENS = 2_048
ARMS = compositions(STEP_TOKENS)


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_has_each_sample_once_and_updates_of_about_equal_tokens(name):
    updates = ARMS[name](LENGTHS, 3)
    seen = np.concatenate([batch for update in updates for batch in update])
    assert np.array_equal(np.sort(seen), np.arange(LENGTHS.size))
    told = mix(updates, LENGTHS)
    assert told.updates == len(updates)
    assert told.tokens_per_update == pytest.approx(STEP_TOKENS, rel=0.08)
    padded = sum(len(b) * LENGTHS[b].max() for update in updates for b in update)
    assert told.padding == pytest.approx(1 - LENGTHS.sum() / padded)
    other = ARMS[name](LENGTHS, 4)
    assert any(
        not np.array_equal(np.concatenate(a), np.concatenate(b))
        for a, b in zip(updates, other, strict=False)
    )


def test_length_grouping_falls_from_long_to_short_and_its_control_does_not():
    fixed = [LENGTHS[update[0]].mean() for update in ARMS[GROUPED_FIXED](LENGTHS, 0)]
    for start in range(0, len(fixed), MEGABATCH):
        part = fixed[start : start + MEGABATCH]
        assert all(before >= after for before, after in pairwise(part))
    assert all(len(u[0]) == SAMPLES for u in ARMS[GROUPED_FIXED](LENGTHS, 0)[:-1])
    grouped, shuffled = ARMS[GROUPED](LENGTHS, 0), ARMS[GROUPED_SHUFFLED](LENGTHS, 0)
    key = sorted(tuple(np.concatenate(update)) for update in grouped)
    assert key == sorted(tuple(np.concatenate(update)) for update in shuffled)
    rises = [
        sum(
            LENGTHS[np.concatenate(a)].mean() < LENGTHS[np.concatenate(b)].mean()
            for a, b in pairwise(updates)
        )
        for updates in (grouped, shuffled)
    ]
    assert rises[0] < 0.1 * len(grouped) < 0.4 * len(grouped) < rises[1]


def test_arms_are_as_mixed_as_they_are_named():
    dispersion = {name: mix(arm(LENGTHS, 0), LENGTHS).dispersion for name, arm in ARMS.items()}
    assert dispersion[STRATIFIED] < 0.5
    assert dispersion[PLAIN] == pytest.approx(1, abs=0.4)
    assert dispersion['mixing="update", ≥ 8 batches'] < 0.05
    assert dispersion[GROUPED] > 5


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate_at(progress) for progress in np.linspace(0, 1, 101)]
    assert rates[0] == 0
    assert max(rates) == rates[10] == 1
    assert rates[-1] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.1, "higher"), (-0.1, "lower"), (0.0, "not told apart")]
)
def test_differences_are_paired_by_seed(shift, verdict):
    rng = np.random.default_rng(0)
    others = rng.normal(4, 1, 6)  # seeds differ by far more than arms do
    noise = rng.normal(0, 0.02, 6)
    noise -= noise.mean()
    difference = Difference.between((others + shift + noise).tolist(), others.tolist())
    assert difference.mean == pytest.approx(shift, abs=1e-9)
    # Student's t for 5 degrees of freedom, from a printed table.
    half = 2.5706 * noise.std(ddof=1) / np.sqrt(6)
    assert (difference.low, difference.high) == pytest.approx(
        (shift - half, shift + half), rel=1e-3
    )
    assert difference.verdict == verdict
    assert difference.lower_in == int((shift + noise < 0).sum())


def results_with(shifts):
    """Make results of which arms end so much over plain."""
    rng = np.random.default_rng(1)
    base, told = rng.normal(4, 0.1, 5), mix(ARMS[PLAIN](LENGTHS, 0), LENGTHS)
    losses = {}
    for name in ARMS:
        ends = base + shifts.get(name, 0.0) + rng.normal(0, 1e-3, 5) * (name != PLAIN)
        losses[name] = [Losses(EVALUATE_AT, (*[5.0] * 7, end)) for end in ends.tolist()]
    return results_of(dict.fromkeys(ARMS, [told] * 5), losses)


def test_sentences_follow_the_figures():
    said = " ".join(sentences(results_with({GROUPED: 0.2, STRATIFIED: -0.1})))
    assert f"higher: {GROUPED}." in said
    assert f"lower: {STRATIFIED}." in said
    assert f"{GROUPED} ends 0.200 nats higher than {STRATIFIED}" not in said
    assert f"{GROUPED} ends 0.300 nats higher than {STRATIFIED}" in said
    against = " ".join(sentences(results_with({GROUPED: -0.2, STRATIFIED: 0.1})))
    assert f"higher: {STRATIFIED}." in against
    assert f"{GROUPED} ends 0.300 nats lower than {STRATIFIED}" in against


def test_the_table_has_a_row_for_each_arm():
    console = table_console()
    with console.capture() as captured:
        console.print(table(results_with({})))
    text = captured.get()
    assert "…" not in text
    for name in ARMS:
        assert name in text


def texts():
    """Make as many functions of all lengths as the jobs here need, and more than they check."""
    return [f"def f{i}(x):\n" + f"    x = x + {i % 7}\n" * (1 + i**2 % 11) for i in range(400)]


@pytest.mark.slow
def test_training_learns_and_a_seed_repeats_it(monkeypatch):
    monkeypatch.setattr(language_model, "functions", texts)
    job = prepare(num_samples=300, num_validation=40, vocabulary=400, context=128)
    updates = ARMS[STRATIFIED](job.lengths, 0)
    steps = []
    losses = train(job, updates, lambda: steps.append(1))
    assert len(steps) == len(updates)
    assert losses == train(job, updates, lambda: None)
    assert losses.at[-1] == 1
    assert all(before < after for before, after in pairwise(losses.at))
    assert all(at >= planned for at, planned in zip(losses.at, EVALUATE_AT, strict=False))
    # The first guess is "all tokens alike".
    assert losses.final < losses.validation[0] < np.log(400)
    assert unigram_loss(job) < np.log(400)
    late = np.array(losses.at) >= 0.75
    assert losses.late == pytest.approx(np.array(losses.validation)[late].mean())


@pytest.mark.slow
def test_a_run_reports_every_arm(tmp_path, monkeypatch):
    monkeypatch.setattr(language_model, "functions", texts)
    small = Settings(num_samples=120, num_validation=10, vocabulary=300, context=64, width=32)
    monkeypatch.setattr(command, "QUICK", small)
    target = tmp_path / "mixing.json"
    threads = torch.get_num_threads()
    arguments = ["--quick", "--seeds", "1", "--output", str(target)]
    done = CliRunner().invoke(command.main, arguments, catch_exceptions=False)
    torch.set_num_threads(threads)
    assert done.exit_code == 0, done.output
    result = result_of(target)
    assert [arm["name"] for arm in result["arms"]] == list(ARMS)
    for arm in result["arms"]:
        assert np.isfinite(arm["final_loss"])
        assert arm["over_plain"]["seeds"] == 1
        assert arm["over_plain"]["low"] is None
    assert "one seed cannot say more" in " ".join(result["said"])
    assert json.dumps(result, allow_nan=False)
