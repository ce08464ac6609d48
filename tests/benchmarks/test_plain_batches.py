"""The ways of making batches that are controls: what they keep, and what they do not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.mixing.plain_batches import into_updates, length_grouped, plain, windows

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
