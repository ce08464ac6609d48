"""Buckets: the least padding that a few shapes allow, and only those shapes."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batchwright as bw
from batchwright.batching.edges import best_edges
from tests import strategies


def padded_tokens(values, counts, edges):
    return sum(
        count * min(edge for edge in edges if edge >= value)
        for value, count in zip(values, counts, strict=True)
    )


def brute_force(values, counts, num_shapes):
    """Try every choice."""
    chosen = itertools.combinations(values[:-1], min(num_shapes, len(values)) - 1)
    return min(padded_tokens(values, counts, [*each, values[-1]]) for each in chosen)


histograms = st.dictionaries(st.integers(1, 60), st.integers(1, 50), min_size=1, max_size=9)


@given(histogram=histograms, num_shapes=st.integers(1, 6))
def test_edges_are_as_good_as_the_best_of_all_choices(histogram, num_shapes):
    values, counts = (np.array(each) for each in zip(*sorted(histogram.items()), strict=True))
    edges = best_edges(values, counts, num_shapes).tolist()
    assert len(edges) == min(num_shapes, len(values))
    assert edges == sorted(set(edges))
    assert edges[-1] == values[-1]
    assert padded_tokens(values, counts, edges) == brute_force(
        values.tolist(), counts.tolist(), num_shapes
    )


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 99),
    sigma=st.floats(0.2, 1.5),
    num_shapes=st.integers(1, 16),
    cap=st.sampled_from([100, 1000, 5000]),
)
def test_padding_is_never_above_that_of_quantile_or_equal_token_edges(seed, sigma, num_shapes, cap):
    lengths = np.random.default_rng(seed).lognormal(4.5, sigma, 3000)
    lengths = np.sort(np.clip(lengths, 1, cap).astype(int))
    values, counts = np.unique(lengths, return_counts=True)
    best = padded_tokens(values, counts, best_edges(values, counts, num_shapes).tolist())
    share = (np.arange(num_shapes) + 1) / num_shapes
    quantiles = np.quantile(lengths, share, method="higher")
    tokens = np.cumsum(lengths)
    equal_tokens = lengths[np.searchsorted(tokens, share * tokens[-1] - 1e-6)]
    for others in (quantiles, equal_tokens):
        edges = sorted({*others.tolist(), int(lengths[-1])})
        assert best <= padded_tokens(values, counts, edges)


buckets = st.builds(
    bw.Buckets,
    st.integers(1, 6),
    max_tokens=st.integers(strategies.CAP + 10, 400),
    max_samples=st.none() | st.integers(1, 20),
    pad_to_multiple_of=st.sampled_from([1, 8]),
    batch_size_multiple_of=st.sampled_from([1, 4]),
)


@settings(deadline=None)
@given(
    lengths=strategies.lengths(min_size=8),
    batching=buckets,
    world=st.sampled_from([(1, 1), (2, 1), (2, 2)]),
    order=st.sampled_from([None, bw.Shuffle(window=20)]),
    epoch=st.integers(0, 5),
)
@pytest.mark.slow
def test_every_guarantee_holds(lengths, batching, world, order, epoch):
    try:
        planner = bw.Planner(
            lengths,
            batching=batching,
            order=order,
            world_size=world[0],
            accumulate=world[1],
            last="drop",
        )
    except bw.errors.PlanError as error:
        assert "samples cannot fill" in str(error)
        return
    plan = planner(epoch)
    assert np.array_equal(strategies.accounted(plan), np.arange(lengths.size))
    if plan.dropped:
        return
    assert len(plan) == len(planner)
    assert len(plan) % (world[0] * world[1]) == 0
    shapes = {length: rows for rows, length in plan.layout.shapes}
    assert len(shapes) <= batching.num_shapes
    assert planner(epoch + 1).layout.shapes == plan.layout.shapes
    edges = sorted(shapes)
    padded = 0
    for batch in plan:
        needed = -(-int(lengths[batch].max()) // batching.pad_to_multiple_of)
        edge = min(e for e in edges if e >= needed * batching.pad_to_multiple_of)
        # All samples of a batch are padded to the same length that each of them is nearest to.
        for index in batch:
            assert edge == min(e for e in edges if e >= lengths[index])
        assert len(batch) <= shapes[edge]
        assert shapes[edge] * edge <= batching.max_tokens
        padded += shapes[edge] * edge
    stats = plan.stats(lengths)
    assert stats.padded_tokens == padded
    assert stats.shapes <= len(shapes)
    assert stats.max_batch_tokens <= batching.max_tokens


@pytest.mark.parametrize("order", [bw.Shuffle(), bw.Shuffle(window=100)], ids=["all", "windows"])
def test_the_bucket_of_every_batch_holds_its_samples(order):
    lengths = np.random.default_rng(0).integers(1, 90, 300)
    plan = bw.plan(lengths, batching=bw.Buckets(4, max_tokens=180), order=order)
    for batch in plan:
        longest = lengths[batch].max()
        rows = next(rows for rows, length in plan.layout.shapes if length >= longest)
        assert len(batch) <= rows


def test_edges_of_the_users_own():
    lengths = np.array([3, 10, 7, 16, 1, 12])
    batching = bw.Buckets(edges=[8, 16], max_tokens=32)
    plan = bw.plan(lengths, batching=batching)
    assert plan.layout.shapes == ((4, 8), (2, 16))
    assert sorted(map(len, plan)) in ([1, 2, 3], [1, 1, 1, 3])
    with pytest.raises(bw.errors.BudgetError, match=r"edges=\[8, 16\] is too small for"):
        bw.plan([17, 3], batching=batching)
    dropped = bw.plan([17, 3], batching=bw.Buckets(edges=[8, 16], max_tokens=32, oversize="drop"))
    assert dropped.dropped["oversize"].tolist() == [0]


def test_dropped_samples_get_no_shape():
    lengths = [3, 500, 5, 400, 8, 8]
    plan = bw.plan(lengths, batching=bw.Buckets(2, max_tokens=16, oversize="drop"))
    assert plan.dropped["oversize"].tolist() == [1, 3]
    assert plan.layout.shapes == ((3, 5), (2, 8))


def test_a_plan_of_buckets_is_saved_with_its_shapes(tmp_path):
    plan = bw.plan([3, 10, 7, 16], batching=bw.Buckets(2, max_tokens=32))
    plan.save(tmp_path / "plan.safetensors")
    loaded = bw.Plan.load(tmp_path / "plan.safetensors")
    assert loaded.layout == plan.layout
    assert loaded.layout.shapes is not None


def test_a_curriculum_keeps_the_shapes():
    lengths = np.clip(np.random.default_rng(0).lognormal(3, 1, 500), 1, 200).astype(int)
    order = bw.Curriculum(lengths.astype(float), pacing=bw.pacing.root(start=0.3), epochs=3)
    planner = bw.Planner(lengths, batching=bw.Buckets(4, max_tokens=800), order=order)
    shapes = {planner(epoch).layout.shapes for epoch in range(5)}
    assert len(shapes) == 1
    assert {len(planner(epoch)) for epoch in range(5)} == {len(planner)}


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ({"max_tokens": 10}, "either num_shapes"),
        ({"num_shapes": 2, "edges": [3], "max_tokens": 10}, "either num_shapes"),
        ({"edges": [3, 3], "max_tokens": 10}, "rising whole numbers"),
        ({"edges": [3, 30], "max_tokens": 10}, "within max_tokens=10"),
        ({"edges": [3.5], "max_tokens": 10}, "rising whole numbers"),
        ({"edges": [4, 6], "max_tokens": 10, "pad_to_multiple_of": 4}, "multiples of"),
        ({"num_shapes": 0, "max_tokens": 10}, "num_shapes=0"),
        ({"num_shapes": 2, "max_tokens": 10, "oversize": "split"}, "oversize"),
    ],
)
def test_bad_settings(settings_, said):
    with pytest.raises(bw.errors.BudgetError, match=said):
        bw.Buckets(**settings_)


def test_a_binding_sequence_is_refused():
    batching = bw.Buckets(2, max_tokens=32)
    with pytest.raises(bw.errors.BudgetError, match="the order binds their sequence"):
        bw.plan([3, 10, 7, 16], batching=batching, order=bw.Sequential())
