"""Curricula: who is eligible, how often each is drawn, and what stays constant."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batchwright as bw
from batchwright import pacing
from tests import strategies

ONES = np.ones(1000, dtype=np.int64)


def scores(size, seed=0):
    return np.random.default_rng(seed).random(size)


@given(
    lengths=strategies.lengths(min_size=4),
    epochs=st.floats(0.3, 4),
    parts=st.integers(1, 6),
    start=st.floats(0.05, 1),
    direction=st.sampled_from(["easy", "hard"]),
    unit=st.sampled_from(["tokens", "samples"]),
    epoch=st.integers(0, 5),
)
def test_only_eligible_samples_are_drawn(lengths, epochs, parts, start, direction, unit, epoch):
    difficulty = scores(lengths.size)
    order = bw.Curriculum(
        difficulty,
        pacing=pacing.linear(start=start),
        epochs=epochs,
        parts=parts,
        direction=direction,
        unit=unit,
    )
    pools = order(lengths, seed=3, epoch=epoch)
    if epoch >= epochs:
        assert np.array_equal(np.sort(pools.members), np.arange(lengths.size))
        return
    rank = np.argsort(np.argsort(difficulty if direction == "easy" else -difficulty))
    draws = order.draws(lengths)
    counts = draws.plan(epoch)[1]
    of_part = np.repeat(np.arange(parts), counts.sum(axis=1))
    sequence = np.concatenate(list(pools))
    # Parts of equal weights are one pool: a sample may come as late as the last of them.
    latest = np.array([of_part[stop - 1] for stop in pools.offsets[1:]])
    for pool, part in zip(pools, latest, strict=True):
        progress = (epoch + (part + 0.5) / parts) / epochs
        share = float(pacing.linear(start=start)(min(progress, 1.0)))
        assert rank[pool].max() < max(1, np.ceil(round(share * lengths.size, 6)))
    assert sequence.size == counts.sum()


def test_the_eligible_are_drawn_equally_often():
    order = bw.Curriculum(
        scores(1000), pacing=pacing.single_step(start=0.25, reach=0.5), epochs=4, unit="samples"
    )
    easy = np.argsort(scores(1000))[:250]
    for epoch in (0, 1):
        members = order(ONES, seed=0, epoch=epoch).members
        times = np.bincount(members, minlength=1000)
        assert set(times[easy].tolist()) == {4}
        assert times.sum() == 1000
    for epoch in (2, 3, 4):
        assert set(np.bincount(order(ONES, seed=0, epoch=epoch).members).tolist()) <= {0, 1, 2}


def test_a_share_is_rounded_up_to_whole_samples():
    order = bw.Curriculum(range(10), pacing=bw.pacing.linear(start=0.01), epochs=4)
    assert order.eligible([0, 0.25, 0.5, 1, 2]).tolist() == [1, 3, 6, 10, 10]


def test_a_band_leaves_out_both_ends_for_good():
    order = bw.Curriculum(scores(1000), epochs=2, band=(0.1, 0.8))
    rank = np.argsort(np.argsort(scores(1000)))
    for epoch in range(4):
        drawn = np.unique(order(ONES, seed=0, epoch=epoch).members)
        assert rank[drawn].min() >= 100
        assert rank[drawn].max() < 800
    assert drawn.size == 700


def test_the_control_has_the_same_sizes_and_other_samples():
    order = bw.Curriculum(scores(1000), epochs=2, unit="samples")
    control = order.control(seed=5)
    for epoch in (0, 1):
        first, second = (each(ONES, seed=0, epoch=epoch) for each in (order, control))
        assert np.array_equal(first.offsets, second.offsets)
        shared = np.intersect1d(np.unique(first.members), np.unique(second.members)).size
        assert shared < 0.95 * np.unique(first.members).size
    assert abs(np.corrcoef(control.difficulty, scores(1000))[0, 1]) < 0.1


def test_ties_are_broken_at_random_not_by_place():
    order = bw.Curriculum(np.zeros(1000), pacing=pacing.constant(share=0.5), epochs=9)
    drawn = np.unique(order(ONES, seed=0, epoch=0).members)
    assert drawn.size == 500
    assert abs(drawn.mean() - 500) < 40


@given(lengths=strategies.lengths(min_size=30), seed=st.integers(0, 9))
def test_an_epoch_has_as_many_tokens_as_the_data(lengths, seed):
    """Whichever samples are drawn: so that batches stay as full as they are."""
    order = bw.Curriculum(-lengths.astype(float), pacing=pacing.root(start=0.3), epochs=3)
    draws = order.draws(lengths)
    for epoch in range(3):
        expected = (draws.plan(epoch)[1] @ draws.sizes).sum()
        total = float(lengths.sum())
        assert expected == pytest.approx(total, abs=1.5 * 4 * float(lengths.max()))


@settings(max_examples=40, deadline=None)
@given(
    lengths=strategies.lengths(min_size=40),
    batching=strategies.token_budgets() | strategies.packings() | strategies.fixed_sizes(),
    world=st.sampled_from([(1, 1), (2, 1), (2, 2)]),
)
@pytest.mark.slow
def test_every_epoch_of_a_curriculum_has_the_same_number_of_batches(lengths, batching, world):
    order = bw.Curriculum(scores(lengths.size), pacing=pacing.root(start=0.5), epochs=2.5)
    try:
        planner = bw.Planner(
            lengths,
            batching=batching,
            order=order,
            world_size=world[0],
            accumulate=world[1],
            last="repeat",
        )
    except bw.errors.PlanError as error:
        assert "draws from" in str(error)
        return
    for epoch in range(6):
        plan = planner(epoch)
        assert len(plan) == len(planner)
        assert "deferred" not in plan.dropped
        stats = plan.stats(lengths)
        if plan.layout.budget is not None:
            assert stats.max_batch_tokens <= plan.layout.budget


def test_padding_still_goes():
    lengths = np.clip(np.random.default_rng(0).lognormal(4.3, 1.0, 4000), 4, 512).astype(int)
    batching = bw.TokenBudget(2048)
    plain = bw.Planner(lengths, batching=batching)(0).stats(lengths).efficiency
    for difficulty in (scores(4000), lengths.astype(float), -lengths.astype(float)):
        order = bw.Curriculum(difficulty, pacing=pacing.root(start=0.1))
        planner = bw.Planner(lengths, batching=batching, order=order)
        for epoch in range(5):
            assert planner(epoch).stats(lengths).efficiency >= 0.97 * plain


def test_bad_input():
    with pytest.raises(bw.errors.LengthsError, match=r"difficulty\[1\] is nan, and 1 of 3"):
        bw.Curriculum([0.0, np.nan, 1.0])
    with pytest.raises(bw.errors.LengthsError, match="shape"):
        bw.Curriculum([[0.0, 1.0]])
    with pytest.raises(bw.errors.LengthsError, match="cannot be read as numbers"):
        bw.Curriculum(["easy", "hard"])
    with pytest.raises(bw.errors.LengthsError, match="difficulty has 3 entries for 1,000 samples"):
        bw.Curriculum([1, 2, 3])(ONES, seed=0, epoch=0)
    with pytest.raises(bw.errors.PlanError, match="band"):
        bw.Curriculum([1, 2], band=(0.5, 0.5))
    with pytest.raises(bw.errors.PlanError, match="epochs=0"):
        bw.Curriculum([1, 2], epochs=0)
    for wrong in (lambda progress: 0 * progress, lambda progress: progress + np.nan):
        with pytest.raises(bw.errors.PlanError, match="expected above 0, at most 1"):
            bw.Curriculum([1, 2], pacing=wrong)(ONES[:2], seed=0, epoch=0)


def test_a_pacing_that_never_fills_a_batch_is_refused():
    order = bw.Curriculum(scores(1000), pacing=pacing.constant(share=0.01))
    with pytest.raises(
        bw.errors.PlanError, match="draws from 10 samples at first, fewer than the 3"
    ):
        bw.Planner(ONES, batching=bw.FixedSize(32), order=order)
