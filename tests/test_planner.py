import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

import batchwright as bw
from batchwright.order import Pools

LENGTHS = np.clip(np.rint(np.random.default_rng(1).lognormal(4.5, 0.8, 8000)), 1, 1024).astype(int)


@pytest.mark.parametrize("batching", [bw.TokenBudget(4096), bw.Packing(2048), bw.FixedSize(16)])
@pytest.mark.parametrize("world_size", [1, 4])
@pytest.mark.parametrize("step_tokens", [30_000, 100_000])
def test_step_tokens_are_met(batching, world_size, step_tokens):
    planner = bw.Planner(LENGTHS, batching=batching, world_size=world_size, step_tokens=step_tokens)
    stats = planner(0).stats(LENGTHS)
    assert stats.step_tokens_mean == pytest.approx(step_tokens, rel=0.05)
    assert stats.accumulate == planner.accumulate
    assert stats.budget is None or stats.max_batch_tokens <= stats.budget


@pytest.mark.parametrize("order", [bw.Shuffle(), bw.Sequential()])
def test_other_ranks_make_as_many_updates_of_step_tokens(order):
    planner = bw.Planner(LENGTHS, max_tokens=20_000, order=order, world_size=2, step_tokens=70_000)
    updates = len(planner) // (2 * planner.accumulate)
    alone = planner.resized(1, 2 * planner.accumulate)
    assert len(alone) == len(planner) == updates * alone.accumulate
    few = planner.resized(1, 1)  # too few batches for so many tokens: more updates
    assert len(few) > updates


@pytest.mark.parametrize("mixing", ["stratified", "update", 4])
def test_step_tokens_hold_along_the_dial(mixing):
    batching = bw.TokenBudget(4096, mixing=mixing)
    stats = bw.plan(LENGTHS, batching=batching, step_tokens=64_000).stats(LENGTHS)
    assert stats.step_tokens_mean == pytest.approx(64_000, rel=0.05)


def test_the_budget_does_not_decide_the_update():
    """Two settings: memory changes what a batch holds, not what an update learns from."""
    tokens = {
        budget: bw.plan(LENGTHS, max_tokens=budget, step_tokens=60_000)
        .stats(LENGTHS)
        .step_tokens_mean
        for budget in (2048, 4096, 8192)
    }
    assert max(tokens.values()) / min(tokens.values()) < 1.01


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 9))
def test_resized_is_a_planner_made_so(world_size, accumulate, epoch):
    small = LENGTHS[:500]
    planner = bw.Planner(small, batching=bw.TokenBudget(2048), seed=5)
    other = bw.Planner(
        small,
        batching=bw.TokenBudget(2048),
        seed=5,
        world_size=world_size,
        accumulate=accumulate,
    )
    resized = planner.resized(world_size, accumulate)
    assert resized(epoch) == other(epoch)
    assert planner.world_size == 1
    assert len(resized) == len(other)


def test_resizing_keeps_the_batches_of_an_update():
    planner = bw.Planner(LENGTHS[:500], max_tokens=2048, accumulate=3)
    assert planner.resized(2).accumulate == 3
    assert planner.resized(2)(1) == planner.resized(2, 3)(1)


def test_an_epoch_of_fewer_tokens_than_an_update_is_one_update():
    planner = bw.Planner([5, 3, 8], max_tokens=10, step_tokens=1000)
    assert len(planner) == planner.accumulate == 2


def test_resizing_keeps_the_tokens_of_an_update():
    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(4096), step_tokens=64_000, world_size=2)
    wider = planner.resized(4)
    assert wider.accumulate < planner.accumulate
    before, after = planner(0).stats(LENGTHS), wider(0).stats(LENGTHS)
    assert after.step_tokens_mean == pytest.approx(before.step_tokens_mean, rel=0.05)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give max_tokens, batching, or the batch_size of today, got none"),
        ({"batch_size": 0}, "batch_size=0: expected an integer of at least 1"),
        ({"batch_size": 2, "accumulate": 2, "step_tokens": 50}, "Give one"),
        ({"batch_size": 2, "max_tokens": 9, "batching": bw.FixedSize(2)}, "got both"),
        ({"batch_size": 2, "world_size": 0}, "world_size=0: expected an integer of at least 1"),
        (
            {"max_tokens": 9, "batching": bw.FixedSize(2)},
            "give either max_tokens or batching, got both",
        ),
        ({"max_tokens": 9, "accumulate": 2, "step_tokens": 50}, "Give one"),
        ({"max_tokens": 9, "world_size": 0}, "world_size=0: expected an integer of at least 1"),
        ({"max_tokens": 9, "accumulate": 1.5}, "accumulate=1.5"),
        ({"max_tokens": 9, "step_tokens": -1}, "step_tokens=-1"),
        ({"max_tokens": 0}, r"TokenBudget\(max_tokens=0\)"),
        ({"max_tokens": "many"}, r"max_tokens='many'"),
        ({"batching": 7}, "batching=7: expected TokenBudget"),
        ({"batching": bw.TokenBudget}, "expected TokenBudget"),
        ({"max_tokens": 9, "cost": "cubic"}, "cost='cubic' is unknown"),
    ],
)
def test_bad_settings(options, said):
    for planning in (bw.plan, bw.Planner):
        with pytest.raises(bw.errors.BudgetError, match=said):
            planning([5, 3, 2, 8], **options)


def test_max_tokens_is_short_for_a_token_budget():
    short = bw.Planner(LENGTHS, max_tokens=4096, accumulate=2)
    assert short(3) == bw.Planner(LENGTHS, batching=bw.TokenBudget(4096), accumulate=2)(3)
    assert short.batching == bw.TokenBudget(4096)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: bw.TokenBudget(9, mixing="random"), "mixing='random'"),
        (lambda: bw.TokenBudget(9, mixing=0), "mixing=0"),
        (lambda: bw.TokenBudget(9, oversize="split"), "oversize='split'"),
        (lambda: bw.TokenBudget(9, pad_to_multiple_of=16), "not even one row"),
        (lambda: bw.TokenBudget(9, max_samples=0), "max_samples=0"),
        (lambda: bw.Packing(9, method="first"), "method='first'"),
        (lambda: bw.Packing(9, align=16), "nothing fits"),
        (lambda: bw.FixedSize(0), "batch_size=0"),
    ],
)
def test_bad_batchings(make, said):
    with pytest.raises(bw.errors.BudgetError, match=said):
        make()


def test_a_sample_above_the_budget_is_named_with_the_ways_out():
    with pytest.raises(
        bw.errors.BudgetError,
        match=r"max_tokens=600 is too small for 1 of 3 samples \(index 2: 700 tokens as laid out\). "
        "Raise it, or choose oversize='drop' or 'truncate'",
    ):
        bw.plan([5, 600, 700], max_tokens=600)
    with pytest.raises(
        bw.errors.BudgetError, match="capacity=600 .*'drop' or 'truncate' or 'split'"
    ):
        bw.plan([5, 600, 700], batching=bw.Packing(600))
    # What was chosen already is not advised again.
    for batching, ways in (
        (bw.TokenBudget(10, oversize="drop"), "'truncate'"),
        (bw.Packing(10, oversize="drop"), "'truncate' or 'split'"),
    ):
        said = f"too small for 2 of 2 samples .* Raise it, or choose oversize={ways}\\."
        with pytest.raises(bw.errors.BudgetError, match=said):
            bw.plan([50, 60], batching=batching)
    with pytest.raises(bw.errors.BudgetError, match=r"as laid out\). Raise it\.$"):
        bw.plan([[50, 60]], batching=bw.TokenBudget(10, oversize="drop"))
    # The multiple counts: 597 tokens are 600 as they lie in memory.
    with pytest.raises(bw.errors.BudgetError, match="600 tokens as laid out"):
        bw.plan([5, 597], batching=bw.TokenBudget(598, pad_to_multiple_of=8))


def test_a_function_that_loses_samples_is_refused():
    def lossy(order, lengths, rng):
        return bw.Plan(order[:-1], np.array([0, order.size - 1]))

    with pytest.raises(bw.errors.PlanError, match="put 3 samples into batches, expected the 4"):
        bw.plan([5, 3, 2, 8], batching=lossy)
    with pytest.raises(bw.errors.PlanError, match="returned list, expected a Plan"):
        bw.plan([5, 3, 2, 8], batching=lambda *_: [])


def test_an_order_of_the_users_own_is_a_binding_sequence():
    def longest_first(lengths, *, seed, epoch):
        return np.argsort(-lengths)

    plan = bw.plan([5, 3, 2, 8], batching=bw.FixedSize(2), order=longest_first)
    assert plan.indices.tolist() == [3, 0, 1, 2]
    with pytest.raises(bw.errors.PlanError, match="samples 0 to 9, there are 0 to 3"):
        bw.plan([5, 3, 2, 8], batching=bw.FixedSize(2), order=lambda *_, **__: np.array([0, 9]))
    with pytest.raises(bw.errors.PlanError, match="expected at least one"):
        bw.plan([5, 3, 2, 8], batching=bw.FixedSize(2), order=lambda *_, **__: np.array([]))


def test_pools_are_kept_by_every_batching():
    def halves(lengths, *, seed, epoch):
        return Pools(np.arange(lengths.size), np.array([0, lengths.size // 2, lengths.size]))

    for batching in (
        bw.TokenBudget(4096),
        bw.TokenBudget(4096, mixing="update"),
        bw.Packing(2048),
        bw.FixedSize(16),
        bw.Packing(2048, method="next_fit"),
    ):
        plan = bw.plan(LENGTHS, batching=batching, order=halves, world_size=2, accumulate=2)
        late = (plan.indices >= LENGTHS.size // 2).astype(int)
        assert (np.diff(late) >= 0).all()


def test_windows_of_a_shuffle_stay_in_sequence():
    plan = bw.plan(LENGTHS, max_tokens=4096, order=bw.Shuffle(window=1000), world_size=2)
    windows = plan.indices // 1000
    assert (np.diff(windows) >= 0).all()


def test_epochs_differ():
    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(4096))
    assert planner(0) != planner(1)
    assert planner(0) != bw.Planner(LENGTHS, batching=bw.TokenBudget(4096), seed=1)(0)


def test_a_batching_that_never_fits_says_so():
    calls = 0

    def growing(order, lengths, rng):
        nonlocal calls
        calls += 1
        size = 1 if calls > 8 else 4
        return bw.Plan(order, np.append(np.arange(0, order.size, size), order.size))

    planner = bw.Planner(LENGTHS[:100], batching=growing)
    planner(0)
    calls = 9
    with pytest.raises(bw.errors.PlanError, match="more than the 25 batches .* pure function"):
        planner(1)


@pytest.mark.slow
def test_the_same_plan_whatever_the_processor_can_do():
    """A processor without AVX plans the same bytes: no sort and no sum may hang on it."""
    code = (
        "import numpy as np, batchwright as bw;"
        "n = np.arange(60_000) * 7919 % 1997 + 1;"
        "print(*(bw.plan(n, world_size=8, accumulate=4, **kw).digest() for kw in ("
        "{'max_tokens': 4096}, {'batching': bw.Packing(2048)},"
        "{'batching': bw.TokenBudget(4096, mixing='update')},"
        "{'batching': bw.Packing(2048), 'cost': 'quadratic'})))"
    )
    dispatched = " ".join(name for name in __cpu_dispatch__ if __cpu_features__.get(name))
    seen = set()
    for features in ("", dispatched):
        environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": features}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        seen.add(done.stdout)
    assert len(seen) == 1


def test_tokens_of_an_update_are_counted_for_the_update_that_is_found():
    lengths = [14, 34, 34, 34, 34, 34, 34, 34, 14]
    batching = bw.TokenBudget(1020, batch_size_multiple_of=2, mixing="update")
    planner = bw.Planner(lengths, batching=batching, step_tokens=280, seed=896)
    for epoch in range(20):
        assert len(planner(epoch)) == len(planner)


def test_a_planner_keeps_what_it_was_given():
    lengths, weights = np.arange(1, 60), np.arange(1.0, 60.0)
    groups = np.arange(59) % 3
    orders = [
        bw.Shuffle(),
        bw.Weighted(weights),
        bw.ClassBalanced(groups),
        bw.Mixture(groups, temperature=2.0),
        bw.Curriculum(weights, pacing=bw.pacing.root(p=2)),
    ]
    planners = [bw.Planner(lengths, batching=bw.TokenBudget(100), order=each) for each in orders]
    before = [pickle.loads(pickle.dumps(each))(3).digest() for each in planners]  # noqa: S301
    for array in (lengths, weights, groups):
        array[:] = array[::-1].copy()
    assert [pickle.loads(pickle.dumps(each))(3).digest() for each in planners] == before  # noqa: S301
    assert [each(3).digest() for each in planners] == before


@pytest.mark.parametrize("order", [bw.Shuffle(), bw.Sequential()])
@pytest.mark.parametrize("last", ["short", "drop"])
def test_the_samples_of_an_update_are_those_of_its_batches(order, last):
    lengths = np.random.default_rng(0).integers(1, 60, 46)
    batching = bw.FixedSize(1)
    planner = bw.Planner(
        lengths, batching=batching, order=order, world_size=2, accumulate=3, last=last
    )
    plan, updates = planner(2), -(-len(planner) // 6)
    for update in range(updates):
        batches = [batch.tolist() for batch in plan[update * 6 : update * 6 + 6]]
        assert planner.samples_of(2, update).tolist() == sum(batches, [])
        for rank in range(2):
            own = sum(batches[rank::2], [])
            assert planner.samples_of(2, update, rank).tolist() == own
    for wrong in ((0, updates), (0, -1), (-1, 0), (0, 0, 2), (0, 0, -1), (0, 0.5), (0, 0, True)):
        with pytest.raises(bw.errors.PlanError, match="expected an integer of at least 0"):
            planner.samples_of(*wrong)


def test_the_samples_of_an_update_are_found_without_the_others(monkeypatch):
    planner = bw.Planner(np.arange(1, 20_001) % 512 + 1, max_tokens=4096, world_size=4)
    expected = planner(5)[4:8].indices.tolist()
    monkeypatch.delattr(bw.Plan, "_arrays")
    assert planner.samples_of(5, 1).tolist() == expected
