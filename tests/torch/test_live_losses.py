"""Live losses in one process and in two."""

import numpy as np
import pytest
import torch

import batchwright as bw
from batchwright.torch import LiveLosses, PlanBatchSampler
from tests.torch.test_update_processes import Pair

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return Pair("live", tmp_path_factory.mktemp("live"))


def test_two_ranks_have_the_same_table_and_the_same_plans(pair):
    first, second = pair("tables_and_plans_are_the_same")
    assert first == second
    assert len({told[0] for told in first["told"]}) == 4
    assert len({told[1] for told in first["told"]}) == 4
    assert len({told[2] for told in first["told"]}) == 1
    assert first["noisy_kept"] < 15  # of 100
    assert first["pending"] == 0


def test_ranks_may_have_seen_different_numbers_of_samples(pair):
    assert pair("buffers_of_other_sizes") == [[1.0, 1.0, 2.0]] * 2


def test_an_epoch_waits_for_the_exchange(pair):
    for told in pair("an_epoch_does_not_begin_before_losses_are_shared"):
        name, sentence = told["said"]
        assert name == "PlanError"
        assert "Call sync()" in sentence
        assert told["then"]
        assert told["losses"] == 0


def test_a_resume_is_exact(pair):
    for same, left, same_next in pair("a_resume_in_the_middle_of_an_epoch"):
        assert same
        assert same_next
        assert left > 5


def test_a_resume_under_another_world_size_sees_what_was_left():
    lengths = np.random.default_rng(0).integers(1, 40, 300)

    def made():
        table = bw.LossTable(300)
        order = bw.SelfPaced(table, noise_rate=0.3, epochs=1)
        return table, bw.Planner(lengths, batching=bw.TokenBudget(120), order=order, world_size=2)

    table, planner = made()
    live = LiveLosses(table)
    live.record(np.arange(300), torch.arange(300.0))
    live.sync()
    sampler = PlanBatchSampler(planner, rank=0, world_size=2)
    sampler.set_epoch(1)
    plan = planner(1)
    taken = [batch for batch, _ in zip(sampler, range(10), strict=False)]
    assert len(taken) == 10
    states = table.state_dict(), sampler.state_after(10)
    table.record(np.arange(300), np.arange(300.0)[::-1])  # later losses do not matter

    table, planner = made()
    table.load_state_dict(states[0])
    seen = []
    for rank in range(3):
        other = PlanBatchSampler(planner, rank=rank, world_size=3)
        other.load_state_dict(states[1])
        seen.extend(index for batch in other for index in batch)
    assert sorted(seen) == sorted(plan.indices[plan.offsets[20] :].tolist())


def test_a_resume_with_other_scores_is_refused():
    lengths = np.random.default_rng(0).integers(1, 40, 300)

    def sampler(scores):
        order = bw.Curriculum(scores, epochs=3)
        return PlanBatchSampler(
            bw.Planner(lengths, batching=bw.TokenBudget(120), order=order), rank=0, world_size=1
        )

    scores = np.random.default_rng(1).random(300)
    state = sampler(scores).state_after(4)
    sampler(scores).load_state_dict(state)
    with pytest.raises(bw.errors.PlanError, match="order"):
        sampler(scores[::-1]).load_state_dict(state)
