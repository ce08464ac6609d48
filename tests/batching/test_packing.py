import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.batching import buckets, packing
from batchwright.batching.packers import best_fit_decreasing, next_fit
from batchwright.lengths import runs
from tests import reference, strategies


def rows_of(plan, lengths):
    return [lengths[row].tolist() for row in plan]


@given(strategies.lengths(), st.integers(strategies.CAP, 300))
def test_best_fit_is_best_fit_one_sample_at_a_time(lengths, capacity):
    plan = bw.plan(lengths, batching=bw.Packing(capacity))
    fast = sorted(sum(row) for row in rows_of(plan, lengths.astype(int)))
    slow = sorted(sum(row) for row in reference.best_fit_decreasing(lengths.tolist(), capacity))
    assert fast == slow


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(20, 40))
def test_best_fit_is_near_the_optimum(lengths, capacity):
    """D. S. Johnson, 1973: at most 11/9 of the optimum, and 6/9 of a row (Dósa 2007)."""
    rows = len(bw.plan(lengths, batching=bw.Packing(capacity)))
    assert rows <= 11 / 9 * reference.fewest_rows(lengths, capacity) + 6 / 9


@given(
    strategies.lengths(),
    st.integers(strategies.CAP, 300),
    st.none() | st.integers(1, 9),
)
def test_every_sample_stays_in_its_row(lengths, capacity, max_samples):
    values, counts = runs(lengths, np.arange(lengths.size))
    cut = best_fit_decreasing(values, counts, capacity, max_samples=max_samples)
    ordered = np.argsort(-lengths.astype(int), kind="stable")
    out, offsets = cut.all(np.arange(cut.num_batches), 7, ordered.__getitem__)
    assert sorted(out.tolist()) == list(range(lengths.size))
    for start, stop in pairwise(offsets.tolist()):
        assert stop > start
        assert lengths[out[start:stop]].sum() <= capacity
        assert max_samples is None or stop - start <= max_samples


@given(
    strategies.lengths(),
    st.integers(strategies.CAP, 300),
    st.none() | st.integers(1, 9),
)
def test_next_fit_is_next_fit_one_sample_at_a_time(lengths, capacity, max_samples):
    offsets = next_fit(lengths.astype(np.int64), capacity, max_samples=max_samples)
    parts = [lengths[a:b].tolist() for a, b in pairwise(offsets.tolist())]
    assert parts == reference.next_fit(lengths.tolist(), capacity, max_samples)


def test_next_fit_keeps_the_sequence():
    lengths = np.random.default_rng(0).integers(1, 90, 500)
    plan = bw.plan(lengths, batching=bw.Packing(256, method="next_fit"), order=bw.Sequential())
    assert plan.indices.tolist() == list(range(500))


def test_long_samples_are_split_into_pieces_that_make_them_up():
    lengths = np.array([25, 7, 10, 31])
    plan = bw.plan(lengths, batching=bw.Packing(10, oversize="split"))
    pieces = sorted(zip(plan.indices.tolist(), plan.starts.tolist(), strict=True))
    assert pieces == [
        (0, 0), (0, 10), (0, 20), (1, 0), (2, 0), (3, 0), (3, 10), (3, 20), (3, 30),
    ]  # fmt: skip
    stats = plan.stats(lengths)
    assert (stats.num_tokens, stats.num_samples, stats.split) == (73, 4, 2)
    assert stats.max_batch_tokens <= 10


def test_truncation_is_told():
    lengths = np.array([25, 7, 10, 31])
    stats = bw.plan(lengths, batching=bw.Packing(10, oversize="truncate")).stats(lengths)
    assert (stats.num_tokens, stats.truncated) == (37, 2)


@pytest.mark.parametrize("capacity", [8192, 8193, 8191])
def test_no_capacity_is_special(capacity):
    """One peer's packer packed nothing where the capacity was no power of two."""
    rng = np.random.default_rng(0)
    lengths = np.clip(np.rint(rng.lognormal(5.5, 0.9, 30_000)), 1, 2048).astype(int)
    stats = bw.plan(lengths, batching=bw.Packing(capacity)).stats(lengths)
    assert stats.num_batches <= 1.001 * -(-stats.num_tokens // capacity)


def test_packing_is_global_not_by_the_thousand():
    """One peer packs a thousand rows at a time: 0.37 % more rows than there need be."""
    rng = np.random.default_rng(0)
    lengths = np.clip(np.rint(rng.lognormal(5.5, 0.9, 100_000)), 1, 2048).astype(int)
    stats = bw.plan(lengths, batching=bw.Packing(2048)).stats(lengths)
    assert stats.num_batches <= 1.0003 * stats.lower_bound


def test_a_short_sample_longer_than_everything_left():
    assert len(bw.plan([1], batching=bw.Packing(1))) == 1
    assert len(bw.plan([3, 3, 3], batching=bw.Packing(5))) == 3


@pytest.mark.parametrize(
    ("module", "name", "batching", "columns"),
    [
        (packing, "best_fit_decreasing", bw.Packing(100), 1),
        (packing, "pack_columns", bw.Packing((100, 100)), 2),
        (buckets, "best_edges", bw.Buckets(3, max_tokens=100), 1),
        (buckets, "best_pairs", bw.Buckets(3, max_tokens=200), 2),
    ],
)
def test_what_all_epochs_share_is_found_once_by_a_planner(
    monkeypatch, module, name, batching, columns
):
    found = getattr(module, name)
    calls = []
    monkeypatch.setattr(module, name, lambda *args, **kw: calls.append(1) or found(*args, **kw))
    lengths = np.random.default_rng(0).integers(1, 40, (300, columns))
    planner = bw.Planner(lengths if columns > 1 else lengths[:, 0], batching=batching)
    digests = [planner(epoch).digest() for epoch in range(3)]
    made = len(calls)
    assert made == 1
    # A copy in another process has to find it again, and finds the same.
    copy = pickle.loads(pickle.dumps(planner))  # noqa: S301
    assert [copy(epoch).digest() for epoch in range(3)] == digests
    assert len(calls) <= 2
