"""Mixtures: exact proportions, at every part, over the whole run."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batchwright as bw

GROUPS = np.repeat(["de", "fr", "ko"], [700, 250, 50])
ONES = np.ones(1000, dtype=np.int64)


def times(order, epochs, lengths=ONES, size=1000):
    drawn = [order(lengths, seed=0, epoch=epoch).members for epoch in range(epochs)]
    return np.bincount(np.concatenate(drawn), minlength=size)


@settings(deadline=None)
@given(
    stages=st.lists(
        st.tuples(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0.01, 1)),
        min_size=2,
        max_size=5,
    ),
    parts=st.integers(1, 30),
    num_samples=st.integers(30, 500),
    epochs=st.integers(1, 6),
)
def test_realised_counts_are_within_a_sample_of_a_drifting_target(
    stages, parts, num_samples, epochs
):
    times = np.linspace(0, 1, len(stages))
    schedule = [
        (float(time), dict(zip(["de", "fr", "ko"], stage, strict=True)))
        for time, stage in zip(times, stages, strict=True)
    ]
    order = bw.Mixture(
        GROUPS, schedule=schedule, epochs=epochs, parts=parts, num_samples=num_samples
    )
    draws = order.draws(ONES)
    realised, target, size = np.zeros(3), np.zeros(3), 0
    for epoch in range(epochs + 1):
        counts, wanted = draws.plan(epoch)[1], draws.targets(epoch)
        for part in range(parts):
            realised, target = realised + counts[part], target + wanted[part]
            progress = min((epoch + (part + 0.5) / parts) / epochs, 1)
            exact = np.array(
                [np.interp(progress, times, [s[k] / sum(s) for s in stages]) for k in range(3)]
            )
            assert wanted[part] == pytest.approx(exact * num_samples / parts)
            assert np.abs(realised - target).max() < 1
        members = order(ONES, seed=1, epoch=epoch).members
        seen = [(GROUPS[members] == name).sum() for name in order.names]
        assert seen == counts.sum(axis=0).tolist()
        size += members.size
        assert size == round(num_samples * (epoch + 1)) or abs(size - num_samples * (epoch + 1)) < 1


def test_inside_a_group_nobody_is_left_behind():
    order = bw.Mixture(GROUPS, weights={"de": 1, "fr": 1, "ko": 1})
    counts = times(order, 5)
    for name in order.names:
        own = counts[name == GROUPS]
        assert own.max() - own.min() <= 1
        assert own.sum() == pytest.approx(5000 / 3, abs=1)


def test_groups_without_a_weight_are_never_drawn():
    counts = times(bw.Mixture(GROUPS, weights={"ko": 1, "fr": 0}), 2)
    assert counts[GROUPS == "ko"].sum() == 2000
    assert not counts[GROUPS != "ko"].any()


@pytest.mark.parametrize(
    ("temperature", "shares"),
    [(1, [0.7, 0.25, 0.05]), (np.inf, [1 / 3] * 3), (2, [0.5362, 0.3205, 0.1433])],
)
def test_temperature(temperature, shares):
    order = bw.Mixture(GROUPS, temperature=temperature)
    assert order.shares(0).tolist() == pytest.approx(shares, abs=2e-4)


def test_shares_of_tokens():
    lengths = np.where(GROUPS == "ko", 90, 10)
    order = bw.Mixture(GROUPS, weights={"de": 1, "ko": 1}, unit="tokens")
    counts = times(order, 4, lengths)
    tokens = [(counts * lengths)[name == GROUPS].sum() for name in ("de", "ko")]
    assert tokens[0] == pytest.approx(tokens[1], abs=90)
    assert sum(tokens) == pytest.approx(4 * lengths.sum(), abs=90)


def test_a_function_as_a_schedule_and_integers_as_groups():
    order = bw.Mixture(
        np.arange(1000) % 2, schedule=lambda progress: {0: 1 - progress, 1: progress}, epochs=10
    )
    shares = [(order(ONES, seed=0, epoch=epoch).members % 2).mean() for epoch in range(10)]
    assert shares == pytest.approx(np.arange(0.05, 1, 0.1), abs=0.002)


def test_planned_counts_are_constant_and_updates_mixed():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3 + (GROUPS == "ko") * 1.5, 0.8), 1, 400).astype(int)
    order = bw.Mixture(GROUPS, temperature=3)
    planner = bw.Planner(lengths, batching=bw.TokenBudget(800), order=order, world_size=2)
    for epoch in range(40):
        plan = planner(epoch)
        assert len(plan) == len(planner)
        assert plan.stats(lengths).max_batch_tokens <= 800
        assert plan.indices.size + plan.dropped.get("deferred", np.empty(0)).size == 1000


def test_bad_input():
    with pytest.raises(bw.errors.LengthsError, match="weights name \\['es'\\], which no sample"):
        bw.Mixture(GROUPS, weights={"es": 1})
    with pytest.raises(bw.errors.LengthsError, match="all 0"):
        bw.Mixture(GROUPS, weights={"de": 0})
    with pytest.raises(bw.errors.LengthsError, match="expected at least 0"):
        bw.Mixture(GROUPS, weights={"de": -1, "ko": 3})
    with pytest.raises(bw.errors.PlanError, match="give one of weights, temperature and schedule"):
        bw.Mixture(GROUPS)
    with pytest.raises(bw.errors.PlanError, match="expected rising numbers"):
        bw.Mixture(GROUPS, schedule=[(1, {"de": 1}), (0, {"ko": 1})])
    with pytest.raises(bw.errors.PlanError, match="temperature=0"):
        bw.Mixture(GROUPS, temperature=0)
    with pytest.raises(bw.errors.LengthsError, match="groups has 1,000 entries for 3 samples"):
        bw.Mixture(GROUPS, temperature=1)(ONES[:3], seed=0, epoch=0)


def test_classes_are_balanced_from_an_epoch_on():
    order = bw.ClassBalanced(GROUPS, after=2)
    assert np.array_equal(np.sort(order(ONES, seed=0, epoch=1).members), np.arange(1000))
    members = order(ONES, seed=0, epoch=2).members
    assert sorted(np.unique(GROUPS[members], return_counts=True)[1].tolist()) == [333, 333, 334]
    at_once = bw.ClassBalanced(GROUPS)
    assert np.array_equal(np.sort(members), np.sort(at_once(ONES, seed=0, epoch=0).members))
    half = bw.ClassBalanced(GROUPS, temperature=2)(ONES, seed=0, epoch=0).members
    assert np.unique(GROUPS[half], return_counts=True)[1].tolist() == pytest.approx(
        [536, 320, 143], abs=1
    )
    planner = bw.Planner(ONES, batching=bw.FixedSize(32), order=order)
    assert {len(planner(epoch)) for epoch in range(6)} == {len(planner)}


@pytest.mark.parametrize(
    "order",
    [
        bw.Mixture(GROUPS, temperature=2.0),
        bw.Mixture(GROUPS, weights={"de": 1, "ko": 1}, unit="tokens", num_samples=7),
        bw.Mixture(GROUPS, schedule=[(0.0, {"de": 1}), (1.0, {"ko": 1})], epochs=2e9),
        bw.ClassBalanced(GROUPS, after=3),
    ],
    ids=["temperature", "weights", "schedule", "classes"],
)
def test_an_epoch_far_ahead_is_reached_in_bounded_steps(order, monkeypatch):
    steps = 0
    shares = bw.Mixture.shares

    def counted(self, progress):
        nonlocal steps
        steps += 1
        return shares(self, progress)

    monkeypatch.setattr(bw.Mixture, "shares", counted)
    far = order(ONES, seed=0, epoch=10**9)
    assert steps < 1024 * 8 + 200
    assert far.members.size in {1000, 7}
    steps = 0
    following = order(ONES, seed=0, epoch=10**9 + 1)
    assert steps <= 16
    assert not np.array_equal(following.members, far.members)
    # No matter by which way it is reached.
    fresh = copy.deepcopy(order)  # without what is kept
    assert np.array_equal(fresh(ONES, seed=0, epoch=10**9 + 1).members, following.members)


def test_passes_go_on_far_ahead():
    order = bw.Mixture(GROUPS, weights={"de": 1, "fr": 1, "ko": 1})
    drawn = [order(ONES, seed=0, epoch=epoch).members for epoch in range(3070, 3075)]
    counts = np.bincount(np.concatenate(drawn), minlength=1000)
    for name in order.names:
        own = counts[name == GROUPS]
        assert own.max() - own.min() <= 2
        assert own.sum() == pytest.approx(5000 / 3, abs=2)


def test_an_epoch_is_never_empty():
    lengths = np.where(GROUPS == "ko", 90, 10)
    order = bw.Mixture(GROUPS, weights={"de": 1, "ko": 9}, unit="tokens", num_samples=1)
    sizes = {order(lengths, seed=0, epoch=epoch).members.size for epoch in range(50)}
    assert min(sizes) == 1
