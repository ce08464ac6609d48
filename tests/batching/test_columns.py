"""Samples of several lengths: every guarantee, against a slow and obvious reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batchwright as bw
from batchwright.batching.cuts import cut_sequence
from batchwright.layout import Padded
from tests import strategies


@st.composite
def columns(draw, max_length=40):
    size, width = draw(st.integers(4, 120)), draw(st.integers(2, 3))
    kind = draw(st.sampled_from(["any", "alike", "one varies"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    lengths = rng.integers(1, max_length + 1, (size, width))
    if kind == "alike":
        lengths = np.clip(lengths[:, :1] + rng.integers(-2, 3, (size, width)), 1, max_length)
    elif kind == "one varies":
        lengths[:, 1:] = 7
    return lengths.astype(draw(st.sampled_from([np.int64, np.int32, np.uint16])))


@st.composite
def budgets(draw, width):
    kind = draw(st.sampled_from(["sum", "product", "each"]))
    if kind == "each":
        budget, area = (
            tuple(draw(st.lists(st.integers(48, 300), min_size=width, max_size=width))),
            "sum",
        )
    elif kind == "sum":
        budget, area = draw(st.integers(150, 900)), "sum"
    else:
        budget, area = draw(st.integers(48**width, 4 * 48**width)), "product"
    return bw.TokenBudget(
        budget,
        area=area,
        max_samples=draw(st.none() | st.integers(1, 20)),
        pad_to_multiple_of=draw(st.sampled_from([1, 4])),
        batch_size_multiple_of=draw(st.sampled_from([1, 4])),
    )


def fits(rows, batching):
    """Say whether a batch of these rows keeps the budget."""
    multiple = batching.pad_to_multiple_of
    longest = [
        -(-max(int(row[c]) for row in rows) // multiple) * multiple for c in range(len(rows[0]))
    ]
    if batching.max_samples is not None and len(rows) > batching.max_samples:
        return False
    if isinstance(batching.max_tokens, tuple):
        return all(
            len(rows) * length <= cap
            for length, cap in zip(longest, batching.max_tokens, strict=True)
        )
    area = np.prod(longest) if batching.area == "product" else sum(longest)
    return len(rows) * area <= batching.max_tokens


@pytest.mark.slow
@settings(deadline=None)
@given(
    lengths=columns(),
    data=st.data(),
    world=st.sampled_from([(1, 1), (2, 1), (2, 2)]),
    order=st.sampled_from([None, bw.Sequential(), bw.Shuffle(window=30)]),
    epoch=st.integers(0, 9),
)
def test_every_guarantee_holds(lengths, data, world, order, epoch):
    batching = data.draw(budgets(lengths.shape[1]))
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
    assert len(plan) == len(planner)
    assert len(plan) % (world[0] * world[1]) == 0
    assert np.array_equal(strategies.accounted(plan), np.arange(len(lengths)))
    if plan.dropped:
        return
    padded = 0
    for batch in plan:
        assert fits(lengths[batch], batching)
        multiple = batching.pad_to_multiple_of
        longest = -(-lengths[batch].astype(int).max(axis=0) // multiple) * multiple
        padded += len(batch) * int(longest.prod() if batching.area == "product" else longest.sum())
    stats = plan.stats(lengths)
    assert stats.padded_tokens == padded
    assert stats.num_batches >= stats.lower_bound
    assert planner(epoch).digest() == plan.digest()


@given(lengths=columns(), data=st.data())
def test_a_sequence_is_cut_as_late_as_it_can_be(lengths, data):
    batching = data.draw(budgets(lengths.shape[1]))
    if batching.batch_size_multiple_of > 1:
        return
    start = 0
    for size in cut_sequence(lengths.astype(np.int64), batching.layout.rows_allowed).tolist():
        assert fits(lengths[start : start + size], batching)
        if start + size < len(lengths):
            assert not fits(lengths[start : start + size + 1], batching)
        start += size
    assert start == len(lengths)


def translation(size, seed=0):
    rng = np.random.default_rng(seed)
    source = np.clip(rng.lognormal(2.5, 0.9, size), 1, 256).astype(int)
    target = np.clip(source * rng.lognormal(0.2, 0.25, size) + 1, 1, 256).astype(int)
    return np.stack([source, target], axis=1)


def test_two_columns_are_padded_little_where_one_sort_pads_much():
    lengths = translation(30_000)
    planner = bw.Planner(lengths, batching=bw.TokenBudget(2048))
    plan = planner(0)
    assert plan.stats(lengths).efficiency >= 0.96
    assert plan.stats(lengths).fill > 0.93
    # The usual way: one sort, by target and then by source.
    usual = np.lexsort((lengths[:, 0], lengths[:, 1]))
    sizes = cut_sequence(lengths[usual], Padded(2048).rows_allowed)
    longest = np.maximum.reduceat(lengths[usual], np.cumsum(sizes) - sizes).sum(axis=1)
    usual_padding = 1 - lengths.sum() / (longest * sizes).sum()
    assert 1 - plan.stats(lengths).efficiency < 0.6 * usual_padding
    # Batches are shuffled, and no epoch has those of another.
    means = [lengths[batch].mean() for batch in plan]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2
    first, second = ({tuple(sorted(batch.tolist())) for batch in planner(e)} for e in (0, 1))
    assert len(first & second) < 0.05 * len(first)


def test_saved_loaded_and_refused_for_others(tmp_path):
    lengths = translation(500)
    plan = bw.plan(lengths, batching=bw.TokenBudget((400, 500)))
    plan.save(tmp_path / "plan.safetensors")
    loaded = bw.Plan.load(tmp_path / "plan.safetensors")
    assert loaded == plan
    assert loaded.layout == plan.layout
    assert loaded.stats(lengths) == plan.stats(lengths)
    with pytest.raises(bw.errors.PlanError, match="other lengths"):
        plan.stats(lengths[:, ::-1])


def test_orders_and_costs_of_several_columns():
    lengths = translation(2000)
    order = bw.Curriculum(lengths.sum(axis=1), pacing=bw.pacing.root(start=0.3), epochs=2)
    for cost in (None, "padded", "quadratic", bw.CostModel(a=5, b=1)):
        planner = bw.Planner(
            lengths, batching=bw.TokenBudget(1000), order=order, world_size=2, cost=cost
        )
        assert {len(planner(epoch)) for epoch in range(4)} == {len(planner)}
        assert planner(3).stats(lengths).num_samples == 2000


def test_one_column_as_two_dimensions_is_one_column():
    lengths = translation(300)[:, 0]
    batching = bw.TokenBudget(600)
    assert bw.plan(lengths[:, None], batching=batching) == bw.plan(lengths, batching=batching)


def test_bad_input():
    lengths = translation(100)
    with pytest.raises(bw.errors.LengthsError, match=r"expected \[n\] or \[n, k\]"):
        bw.plan(np.ones((2, 2, 2), dtype=int), max_tokens=10)
    with pytest.raises(bw.errors.LengthsError, match=r"(is|are) 0, (the first is )?lengths\[1\]"):
        bw.plan([[3, 4], [1, 0]], max_tokens=10)
    with pytest.raises(bw.errors.BudgetError, match="too small for 1 of 2 samples .index 1: .9, 8"):
        bw.plan([[3, 4], [9, 8]], max_tokens=16)
    dropped = bw.plan([[3, 4], [9, 8]], batching=bw.TokenBudget(16, oversize="drop"))
    assert dropped.dropped["oversize"].tolist() == [1]
    with pytest.raises(bw.errors.BudgetError, match="expected one budget, or one for each column"):
        bw.plan(lengths, batching=bw.TokenBudget((600, 600, 600)))
    with pytest.raises(bw.errors.BudgetError, match="mixing"):
        bw.plan(lengths, batching=bw.TokenBudget(600, mixing="update"))
    with pytest.raises(bw.errors.BudgetError, match="a budget for each of several columns"):
        bw.plan(lengths[:, 0], batching=bw.TokenBudget((600, 600)))
