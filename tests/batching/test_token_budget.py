from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright._random import generator
from batchwright.batching.cuts import RowLimit, count_in_windows, cut_in_windows
from tests import reference, strategies

LENGTHS = np.clip(np.rint(np.random.default_rng(0).lognormal(5.5, 0.9, 40_000)), 1, 2048).astype(
    np.int64
)


@given(
    strategies.lengths(min_size=12),
    st.integers(strategies.CAP, 300),
    st.integers(2, 6),
    st.integers(0, 5),
)
def test_windows_hold_consecutive_samples(lengths, max_tokens, window, spare):
    """The samples of a window are a run of the sequence, in exactly its number of batches."""
    lengths = lengths.astype(np.int64)
    limit = RowLimit(max_tokens)
    num_batches = count_in_windows(lengths, limit, window) + spare
    if num_batches > lengths.size:
        return
    cut = cut_in_windows(lengths, limit, window, num_batches=num_batches)
    if cut is None:  # then one sort over everything needs more, too
        assert len(reference.cut_sorted(lengths.tolist(), **vars(limit))) > num_batches
        return
    sizes, edges = cut
    assert sizes.size == num_batches
    assert sizes.sum() == lengths.size
    assert (sizes >= 1).all()
    assert edges[0] == 0
    assert edges[-1] == num_batches
    assert all(a % window == 0 for a in edges[:-1])
    start = 0
    for first, last in pairwise(edges.tolist()):
        stop = start + int(sizes[first:last].sum())
        inside = np.sort(lengths[start:stop])[::-1]
        for batch in np.split(inside, np.cumsum(sizes[first:last])[:-1]):
            assert reference.padded_tokens(batch.tolist()) <= max_tokens
        start = stop


def test_an_update_is_what_a_plain_shuffle_draws():
    """With `mixing="update"`, the samples of each update are a run of the drawn sequence."""
    batching = bw.TokenBudget(4096, mixing="update")
    planner = bw.Planner(LENGTHS, batching=batching, world_size=4, accumulate=4, seed=3)
    plan = planner(0)
    sequence = bw.Shuffle()(LENGTHS, seed=3, epoch=0).sequence(generator(3, "batching", 0, 0))
    place = np.empty_like(sequence)
    place[sequence] = np.arange(sequence.size)
    for start in range(0, len(plan), 16):
        inside = np.sort(place[plan[start : start + 16].indices])
        assert inside[-1] - inside[0] == inside.size - 1
    assert plan.stats(LENGTHS).efficiency > 0.85  # sorted inside the update


@pytest.mark.slow
@pytest.mark.parametrize("update", [2, 8, 32])
def test_the_dial_is_monotone_and_its_end_is_a_shuffle(update):
    stats = {}
    for mixing in ("update", 4, "stratified"):
        batching = bw.TokenBudget(4096, mixing=mixing)
        each = [
            bw.plan(LENGTHS, batching=batching, accumulate=update, seed=seed).stats(LENGTHS)
            for seed in range(5)
        ]
        stats[mixing] = np.mean([(s.efficiency, s.dispersion) for s in each], axis=0)
    assert stats["update"][0] < stats[4][0] < stats["stratified"][0]
    assert stats["update"][1] == pytest.approx(1, abs=0.15)


def test_mixing_of_one_batch_is_the_sequence_itself():
    plan = bw.plan(LENGTHS, batching=bw.TokenBudget(4096, mixing=1))
    assert plan.stats(LENGTHS).dispersion < 2


def test_the_least_padding_of_one_sort():
    stats = bw.plan(LENGTHS, max_tokens=16_384).stats(LENGTHS)
    assert stats.efficiency > 0.995
    assert stats.gap < 0.01


def test_a_target_number_makes_all_batches_a_little_smaller():
    """33 batches for 32 slots: 64 half-full ones, not 31 halves beside one whole."""
    lengths = np.full(33 * 8, 128)
    plan = bw.plan(lengths, max_tokens=1024, world_size=32)
    assert len(plan) == 64
    assert plan.sizes.max() <= 5
    assert plan.stats(lengths).imbalance_padded < 1.3


def test_padding_to_a_multiple_counts():
    lengths = np.array([9, 9, 9, 9])
    plan = bw.plan(lengths, batching=bw.TokenBudget(32, pad_to_multiple_of=8))
    assert len(plan) == 2
    assert plan.stats(lengths).max_batch_tokens == 32


def test_a_window_larger_than_the_epoch_is_the_epoch():
    wide = bw.plan(LENGTHS, batching=bw.TokenBudget(4096, mixing=10**9), world_size=2)
    assert wide == bw.plan(LENGTHS, max_tokens=4096, world_size=2)
