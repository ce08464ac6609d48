"""What other batchers were measured to do wrong, as test cases of ours."""

import numpy as np
import pytest

import batchwright as bw

CODE = np.clip(np.rint(np.random.default_rng(3).lognormal(4.8, 0.9, 20_003)), 1, 2048).astype(int)
CONFIGURATIONS = {
    "budget": {"batching": bw.TokenBudget(16_384)},
    "budget in eights": {"batching": bw.TokenBudget(16_384, batch_size_multiple_of=8)},
    "budget, at most 64": {"batching": bw.TokenBudget(16_384, max_samples=64)},
    "budget in sequence": {"batching": bw.TokenBudget(16_384), "order": bw.Sequential()},
    "updates of a shuffle": {"batching": bw.TokenBudget(16_384, mixing="update")},
    "packed": {"batching": bw.Packing(16_384)},
    "packed in sequence": {"batching": bw.Packing(16_384, method="next_fit")},
    "fixed": {"batching": bw.FixedSize(32)},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("world_size", [1, 8])
def test_the_last_batch_and_the_last_sample_are_there(name, world_size):
    """A multiple of 8 that drops the last batch; a range that never reaches the last sample."""
    plan = bw.plan(CODE, world_size=world_size, **CONFIGURATIONS[name])
    assert np.array_equal(np.sort(plan.indices), np.arange(CODE.size))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_sample_that_overflows_opens_the_next_batch(name):
    """Closing a batch after the sample that overflows it: 1.05 to 1.5 of the budget."""
    stats = bw.plan(CODE, **CONFIGURATIONS[name]).stats(CODE)
    assert stats.budget is None or stats.max_batch_tokens <= stats.budget


def test_one_long_sample_among_short_ones_keeps_the_budget():
    lengths = np.array([1] * 1000 + [900])
    for batching in (bw.TokenBudget(1000), bw.TokenBudget(1000, mixing="update")):
        stats = bw.plan(lengths, batching=batching).stats(lengths)
        assert stats.max_batch_tokens <= 1000


@pytest.mark.parametrize("epochs", [5])
def test_no_epoch_ends_early(epochs):
    """An empty bucket that was drawn ended the epoch: 540 of 100,000 samples never came."""
    planner = bw.Planner(CODE, batching=bw.TokenBudget(4096))
    for epoch in range(epochs):
        assert planner(epoch).indices.size == CODE.size


def test_the_bounds_come_from_the_data():
    """Bucket bounds of a fixed log-normal left 59 % efficiency on lengths of code."""
    assert bw.plan(CODE, max_tokens=16_384).stats(CODE).efficiency > 0.985
    shifted = CODE * 37
    assert bw.plan(shifted, max_tokens=16_384 * 37).stats(shifted).efficiency > 0.985


def test_doubling_the_budget_halves_the_batches():
    """A hidden multiple of 8 made a doubled budget barely change the number of batches."""
    counts = [len(bw.plan(CODE, max_tokens=budget)) for budget in (8192, 16_384, 32_768)]
    assert counts[0] / counts[1] == pytest.approx(2, rel=0.05)
    assert counts[1] / counts[2] == pytest.approx(2, rel=0.05)


def test_no_epoch_ends_on_the_short_samples():
    """Megabatches left in descending order make a sawtooth that ends on the shortest."""
    stats = []
    for epoch in range(10):
        plan = bw.plan(CODE, max_tokens=4096, accumulate=8, epoch=epoch)
        means = [CODE[plan[b : b + 8].indices].mean() for b in range(0, len(plan), 8)]
        tenth = len(means) // 10
        stats.append(np.mean(means[-tenth:]) / np.mean(means))
    assert np.mean(stats) == pytest.approx(1, abs=0.1)
