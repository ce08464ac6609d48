"""The mixing dial: every position is what planning there gives."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

import batchwright as bw
from batchwright.cli.group import batchwright
from batchwright.stats.dial import DialPosition

LENGTHS = np.clip(np.random.default_rng(0).lognormal(4, 0.9, 4000), 1, 600).astype(int)


def test_positions_are_those_of_plans():
    batching = bw.TokenBudget(1500, pad_to_multiple_of=4)
    positions = bw.mixing_dial(LENGTHS, batching, accumulate=8, world_size=2, seed=3, epochs=2)
    assert [each.mixing for each in positions] == ["stratified", 64, 16, 4, "update"]
    for each in positions:
        planner = bw.Planner(
            LENGTHS,
            batching=dataclasses.replace(batching, mixing=each.mixing),
            accumulate=8,
            world_size=2,
            seed=3,
        )
        stats = [planner(epoch).stats(LENGTHS) for epoch in range(2)]
        assert each.num_batches == len(planner)
        assert each.efficiency == pytest.approx(np.mean([s.efficiency for s in stats]))
        assert each.dispersion == pytest.approx(np.mean([s.dispersion for s in stats]))
    first, *_, last = positions
    assert first.efficiency > 0.95 > last.efficiency
    assert last.dispersion < 0.05  # the same share of every length in each update


def test_wide_windows_do_not_waste_batches():
    """A window that is half the epoch needs no more batches than all of it, but for a little."""
    dial = bw.mixing_dial(LENGTHS, bw.TokenBudget(1500), accumulate=8, positions=("stratified", 16))
    assert dial[1].num_batches <= 1.06 * dial[0].num_batches


def test_positions_that_cannot_be_planned_are_left_out():
    positions = bw.mixing_dial([5] * 9, bw.TokenBudget(10), accumulate=8)
    assert all(isinstance(each, DialPosition) for each in positions)


def test_a_dial_without_positions_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr("batchwright.cli.inspect.mixing_dial", lambda *_, **__: ())
    np.save(tmp_path / "lengths.npy", LENGTHS)
    bw.plan(LENGTHS, max_tokens=1500).save(tmp_path / "plan.safetensors")
    files = [str(tmp_path / "plan.safetensors"), str(tmp_path / "lengths.npy")]
    result = CliRunner().invoke(batchwright, ["inspect", *files, "--dial"])
    assert result.exit_code == 0
    assert "No position can be planned" in " ".join(result.output.split())


def test_inspect_prices_the_dial_of_a_saved_plan(tmp_path):
    np.save(tmp_path / "lengths.npy", LENGTHS)
    plan = bw.plan(LENGTHS, max_tokens=1500, accumulate=4)
    plan.save(tmp_path / "plan.safetensors")
    files = [str(tmp_path / "plan.safetensors"), str(tmp_path / "lengths.npy")]
    run = CliRunner().invoke
    told = json.loads(run(batchwright, ["inspect", *files, "--dial", "--json"]).output)["dial"]
    expected = bw.mixing_dial(LENGTHS, bw.TokenBudget(1500), accumulate=4)
    assert told == [dataclasses.asdict(each) for each in expected]
    text = run(batchwright, ["inspect", *files, "--dial"]).output
    assert "Trade-off of padding and mix" in text
    assert "stratified" in text
    alone = run(batchwright, ["inspect", files[0], "--dial"])
    assert alone.exit_code == 2
    assert "name the SOURCE" in alone.output


def test_bad_input():
    with pytest.raises(bw.errors.BudgetError, match=r"expected TokenBudget"):
        bw.mixing_dial(LENGTHS, bw.Packing(1500))
    with pytest.raises(bw.errors.BudgetError, match="epochs=0"):
        bw.mixing_dial(LENGTHS, bw.TokenBudget(1500), epochs=0)
