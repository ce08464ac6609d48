"""What epochs of an order draw: counted again, slowly, from their plans."""

import json

import numpy as np
import pytest

import batchwright as bw
from batchwright import pacing

RNG = np.random.default_rng(0)
LENGTHS = np.clip(RNG.lognormal(3, 0.7, 300), 1, 150).astype(int)
GROUPS = np.repeat(["a", "b", "c"], [200, 80, 20])
ORDERS = {
    "shuffle": bw.Shuffle(),
    "curriculum": bw.Curriculum(RNG.random(300), pacing=pacing.root(start=0.3), epochs=3),
    "mixture": bw.Mixture(GROUPS, schedule=[(0, {"a": 1}), (1, {"b": 1, "c": 1})], epochs=4),
    "weighted": bw.Weighted(RNG.random(300)),
    "balanced": bw.ClassBalanced(GROUPS),
}


@pytest.mark.parametrize("name", ORDERS)
def test_figures_are_those_of_the_plans(name):
    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(300), order=ORDERS[name])
    told = bw.coverage(planner, epochs=5, groups=GROUPS)
    times = dict.fromkeys(range(300), 0)
    for row in range(5):
        drawn = planner(row).indices.tolist()
        for index in drawn:
            times[index] += 1
        assert told.draws[row] == len(drawn)
        assert told.tokens[row] == sum(int(LENGTHS[index]) for index in drawn)
        assert told.seen[row] == sum(count > 0 for count in times.values()) / 300
        assert told.most[row] == max(times.values())
        total, squares = sum(times.values()), sum(count**2 for count in times.values())
        assert told.effective_samples[row] == pytest.approx(total**2 / squares)
        for column, group in enumerate("abc"):
            own = [index for index in drawn if GROUPS[index] == group]
            assert told.shares[row, column] == pytest.approx(len(own) / len(drawn))
            passes = sum(times[index] for index in np.flatnonzero(group == GROUPS))
            assert told.passes[row, column] == pytest.approx(passes / (group == GROUPS).sum())
    assert told.targets is None
    assert json.loads(json.dumps(told.facts()))["groups"] == ["a", "b", "c"]
    assert len(str(told).splitlines()) == 6


def test_a_mixture_is_compared_with_its_own_targets():
    planner = bw.Planner(LENGTHS, batching=bw.FixedSize(10), order=ORDERS["mixture"])
    told = bw.coverage(planner, epochs=6)
    assert told.groups == ("a", "b", "c")
    assert told.shares == pytest.approx(told.targets, abs=1 / 150)
    assert told.targets[-1].tolist() == pytest.approx([0, 0.5, 0.5])
    assert "of 0.500" in str(told)


def test_a_curriculum_tells_its_progress_and_who_is_eligible():
    planner = bw.Planner(LENGTHS, batching=bw.FixedSize(10), order=ORDERS["curriculum"])
    told = bw.coverage(planner, epochs=[0, 2, 7])
    assert told.progress.tolist() == pytest.approx([1 / 6, 5 / 6, 1])
    expected = pacing.root(start=0.3)([1 / 6, 5 / 6, 1])
    assert told.eligible == pytest.approx(expected, abs=1 / 300)
    plain = bw.coverage(bw.Planner(LENGTHS, batching=bw.FixedSize(10)), epochs=2)
    assert np.isnan(plain.progress).all()
    assert plain.facts()["progress"] == [None, None]
    assert "–" in str(plain)


def test_bad_input():
    planner = bw.Planner(LENGTHS, batching=bw.FixedSize(10))
    with pytest.raises(bw.errors.PlanError, match="no epoch"):
        bw.coverage(planner, epochs=0)
    with pytest.raises(bw.errors.LengthsError, match="groups has 2 entries for 300 samples"):
        bw.coverage(planner, groups=[0, 1])
