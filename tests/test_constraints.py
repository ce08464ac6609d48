"""Constraints inside a batch: of one group, no two samples of a key, groups that stay whole."""

import pickle
import re
import warnings
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.batching.constrained import Constrained
from batchwright.batching.stretches import Sizes, spread
from batchwright.plan_source import PlannerSource
from batchwright.resume import Position, chart, read_position
from tests import reference, strategies


@dataclass(frozen=True)
class Job:
    """The arguments of a planner."""

    lengths: np.ndarray
    batching: object
    order: object
    constraints: dict[str, np.ndarray]
    settings: dict[str, object] = field(default_factory=dict)

    def planner(self, **changed: object) -> bw.Planner:
        arguments = {"batching": self.batching, "order": self.order, **self.settings}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*samples cannot fill", UserWarning)
            return bw.Planner(self.lengths, **(arguments | self.constraints | changed))

    def check(self, plan: bw.Plan) -> None:
        """Check every guarantee of a plan of an epoch, or of what is left of one."""
        batches = [batch.tolist() for batch in plan]
        listed = {name: values.tolist() for name, values in self.constraints.items()}
        assert not reference.broken(batches, **listed)
        entries, layout = plan.entry_lengths(self.lengths), plan.layout
        assert not layout.too_large(entries, plan.offsets).any()


def dropping() -> st.SearchStrategy[object]:
    """Batchings that some samples, and more groups, do not fit into."""
    return st.builds(
        bw.TokenBudget,
        st.integers(8, 60),
        max_samples=st.none() | st.integers(2, 20),
        oversize=st.just("drop"),
    ) | st.builds(
        bw.Packing,
        st.integers(8, 60),
        max_samples=st.none() | st.integers(2, 20),
        oversize=st.just("drop"),
    )


def batchings(tightest: int) -> st.SearchStrategy[object]:
    """Batchings that hold any sample, and any group."""
    budgets = st.integers(tightest, 2 * tightest)
    return (
        st.builds(
            bw.TokenBudget,
            budgets,
            max_samples=st.none() | st.integers(5, 20),
            pad_to_multiple_of=st.sampled_from([1, 4]),
            batch_size_multiple_of=st.sampled_from([1, 4]),
            slack=st.sampled_from([0.0, 0.2]),
        )
        | st.builds(
            bw.Packing,
            budgets,
            method=st.sampled_from(["best_fit", "next_fit"]),
            max_samples=st.none() | st.integers(5, 20),
            align=st.sampled_from([1, 4]),
        )
        | st.builds(bw.FixedSize, st.integers(5, 20))
        | st.builds(bw.Buckets, st.integers(1, 2), max_tokens=budgets.map(lambda most: 2 * most))
    )


def copied(value: object) -> object:
    return pickle.loads(pickle.dumps(value))  # noqa: S301


@st.composite
def jobs(draw: st.DrawFn, *, fits: bool = True) -> Job:
    """Planners with one constraint or several."""
    lengths = draw(strategies.lengths(min_size=8, max_size=60, max_length=30))
    if fits and draw(st.integers(0, 4)) == 0:
        lengths = np.stack((lengths, lengths[::-1]), axis=1)
    size = len(lengths)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    names = draw(st.sets(st.sampled_from(["within", "unique", "together"]), min_size=1))
    order = draw(
        st.sampled_from([bw.Shuffle(), bw.Sequential()])
        | st.builds(bw.Shuffle, st.integers(8, 40))
        | st.builds(bw.Blocks, st.integers(8, 40), open_blocks=st.integers(1, 2))
    )
    constraints = {}
    groups = np.repeat(np.arange(size), rng.integers(1, 6, size))[:size]
    if isinstance(order, bw.Blocks) or getattr(order, "window", None):
        width = order.sizes if isinstance(order, bw.Blocks) else order.window
        groups = np.unique(
            np.stack((groups, np.arange(size) // width)), axis=1, return_inverse=True
        )
        groups = groups[1].reshape(-1)
    if "together" in names:
        alone = rng.random(size)[groups] < 0.1
        constraints["together"] = np.where(alone, -1, groups)
    if "within" in names:
        many = draw(st.sampled_from([1, 3, size]))
        by_sample = "together" not in names
        constraints["within"] = rng.integers(0, many, size)[slice(None) if by_sample else groups]
    if "unique" in names:
        keys = rng.integers(0, draw(st.sampled_from([1, 4, size // 2, size])), size)
        keys[rng.random(size) < draw(st.sampled_from([0.0, 0.3]))] = -1
        constraints["unique"] = keys
    batching = draw(batchings(5 * 2 * 32) if fits else dropping())
    if isinstance(batching, bw.Buckets):
        if isinstance(order, bw.Sequential):
            batching = bw.TokenBudget(batching.max_tokens)
        elif lengths.ndim == 2:
            batching = bw.Buckets(edges=[(32, 32)], max_tokens=batching.max_tokens)
        elif "together" in names:
            batching = bw.Buckets(1, max_tokens=batching.max_tokens)
    if lengths.ndim == 2 and isinstance(batching, bw.TokenBudget):
        batching = bw.TokenBudget(batching.max_tokens, max_samples=batching.max_samples)
    world = {"world_size": draw(st.integers(1, 3)), "accumulate": draw(st.integers(1, 2))}
    world |= {"last": draw(st.sampled_from(["short", "repeat"])), "seed": draw(st.integers(0, 99))}
    cost = draw(st.sampled_from([None, None, "padded"]))
    return Job(lengths, batching, order, constraints, {**world, "cost": cost})


@pytest.mark.slow
@given(jobs(), st.integers(0, 1000))
def test_every_sample_once_within_budget_and_constraints(job, epoch):
    planner = job.planner()
    plan = planner(epoch)
    job.check(plan)
    assert np.array_equal(strategies.accounted(plan), np.arange(len(job.lengths)))
    assert len(plan) == len(planner) == len(planner(epoch + 1))
    assert len(plan) % planner.world_size == 0
    assert plan == job.planner()(epoch)


@pytest.mark.slow
@given(jobs(fits=False))
def test_groups_are_left_out_whole(job):
    try:
        plan = job.planner()(0)
    except (bw.errors.BudgetError, bw.errors.PlanError) as error:
        assert re.search("too small for|would hold no sample", str(error))
        return
    job.check(plan)
    assert np.array_equal(strategies.accounted(plan), np.arange(len(job.lengths)))
    together = job.constraints.get("together")
    gone = plan.dropped.get("oversize", np.empty(0, dtype=np.int64))
    if together is not None:
        assert not np.intersect1d(together[gone], together[plan.indices]).size or (
            np.intersect1d(together[gone], together[plan.indices]).tolist() == [-1]
        )
    assert not np.intersect1d(gone, plan.indices).size


@pytest.mark.slow
@given(jobs(), st.integers(1, 4), st.data())
def test_resumed_on_other_ranks_or_in_another_budget(job, world_size, data):
    planner = job.planner()
    source = PlannerSource(planner)
    course = chart(source, Position(1), planner.world_size)
    assert course.plan is not None
    done = data.draw(st.integers(0, len(course)))
    state = course.after(done).state(source)
    changed = {}
    if isinstance(job.batching, bw.TokenBudget) and "together" not in job.constraints:
        changed = {"batching": bw.TokenBudget(80)}
    other = PlannerSource(job.planner(world_size=world_size, **changed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        left = chart(other, read_position(state, other), world_size)
    seen = course.plan[: done * planner.world_size].indices if done else np.empty(0, np.int64)
    if left.plan is None or left.start == len(left.plan):
        left_over = seen[:0]
    else:
        rest = left.plan if not left.start else left.plan[left.start :]
        job.check(rest)
        assert len(rest) % world_size == 0
        repeated = np.bincount(rest.repeated, minlength=len(job.lengths))
        times = np.bincount(rest.indices, minlength=len(job.lengths)) - repeated
        left_over = np.repeat(np.arange(times.size), np.maximum(times, 0))
    expected = np.setdiff1d(np.arange(len(job.lengths)), seen)
    assert np.array_equal(np.setdiff1d(left_over, seen), expected)
    again = np.intersect1d(left_over, seen)
    assert np.isin(again, course.plan.repeated).all()


@pytest.mark.slow
@given(jobs(), st.data())
def test_without_samples_the_rest_keeps_its_constraints(job, data):
    size = len(job.lengths)
    gone = data.draw(st.sets(st.integers(0, size - 1), max_size=size // 2))
    planner = job.planner()
    whole, plan = planner(0), planner.without(sorted(gone))(0)
    job.check(plan)
    assert len(plan) == len(whole)
    assert set(plan.indices.tolist()) == set(whole.indices.tolist()) - gone
    times = np.bincount(plan.indices) - np.bincount(plan.repeated, minlength=plan.indices.max() + 1)
    assert times.max() <= 1


@given(st.integers(0, 2**32), st.integers(1, 40), st.sampled_from([1, 2, 8, 40]))
def test_a_stretch_has_no_more_batches_than_its_most_frequent_key(seed, size, many):
    rng = np.random.default_rng(seed)
    keys = rng.integers(-1, many, size)
    ones = np.ones(size, dtype=np.int64)
    rows = int(rng.integers(1, 10))
    batch = spread(Sizes(ones, ones * rows, ones, keys, None), rng)
    assert np.bincount(batch).max() <= rows
    pairs = [pair for pair in zip(batch.tolist(), keys.tolist(), strict=True) if pair[1] >= 0]
    assert len(set(pairs)) == len(pairs)
    most = np.bincount(keys[keys >= 0], minlength=1).max()
    assert batch.max() + 1 == max(most, -(-size // rows))


@pytest.fixture(scope="module")
def text() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(np.rint(rng.lognormal(4.0, 0.8, 20_000)), 1, 1_000).astype(np.int64)


def test_constraints_pad_little_more(text):
    rng = np.random.default_rng(1)
    budget = {"max_tokens": 8_192, "world_size": 2, "accumulate": 4}
    plain = bw.plan(text, **budget).stats(text)
    within = bw.plan(text, **budget, within=rng.integers(0, 10, text.size)).stats(text)
    assert within.efficiency > plain.efficiency - 0.15
    keys = rng.integers(0, text.size // 3, text.size)
    twins = text[keys]  # duplicates are of one length: neighbours, where samples are sorted
    plain, unique = bw.plan(twins, **budget), bw.plan(twins, **budget, unique=keys)
    assert unique.stats(twins).efficiency > plain.stats(twins).efficiency - 0.1
    assert len(unique) < 1.15 * len(plain)
    fixed = {"batching": bw.FixedSize(64), "world_size": 2}
    assert len(bw.plan(text, **fixed, unique=keys)) == len(bw.plan(text, **fixed))
    rows = {"batching": bw.Packing(4_096), "world_size": 2}
    assert len(bw.plan(text, **rows, unique=keys)) < 1.1 * len(bw.plan(text, **rows))
    eights = np.arange(text.size) // 8
    alike = text[eights]
    plain, together = bw.plan(alike, **budget), bw.plan(alike, **budget, together=eights)
    assert together.stats(alike).efficiency > plain.stats(alike).efficiency - 0.02
    assert len(together) < 1.3 * len(plain)  # rows come in eights


def test_a_frequent_key_makes_as_many_batches_as_it_has_samples(text):
    keys = np.where(np.arange(text.size) % 10, np.arange(text.size), 0)
    for batching in (bw.TokenBudget(8_192), bw.Packing(8_192), bw.FixedSize(64)):
        plan = bw.plan(text, batching=batching, unique=keys)
        assert 2_000 <= len(plan) < 2_100
        assert not reference.broken([b.tolist() for b in plan[:200]], unique=keys.tolist())


def test_epochs_are_counted_once_for_all_sizes_of_updates(monkeypatch):
    drafts = []
    draft = Constrained.draft
    monkeypatch.setattr(Constrained, "draft", lambda *given: drafts.append(1) or draft(*given))
    groups = np.arange(400) // 4
    planner = bw.Planner(np.arange(400) % 9 + 1, max_tokens=90, together=groups, step_tokens=300)
    most = len(drafts)
    assert planner.resized(3).accumulate < planner.accumulate
    assert len(drafts) == most == 2


def test_updates_mix_groups_and_lengths(text):
    groups = np.arange(text.size) % 4
    plan = bw.plan(text, max_tokens=2_048, accumulate=8, within=groups)
    assert plan.stats(text).dispersion < 1.5
    of_batch = groups[plan.indices[plan.offsets[:-1]]].reshape(-1, 8)
    assert np.mean([len(set(row)) for row in of_batch.tolist()]) > 2.5


def test_names_do_not_matter():
    lengths = np.arange(1, 41)
    numbers = np.arange(40) % 7
    names = np.array([f"source {number}" for number in 9 - numbers])
    for constraint in ("within", "unique", "together"):
        one = bw.plan(lengths, max_tokens=400, **{constraint: numbers})
        assert one == bw.plan(lengths, max_tokens=400, **{constraint: names.tolist()})


@pytest.mark.parametrize("constraint", ["unique", "together"])
def test_none_is_none_in_every_form(constraint):
    lengths, numbers = np.arange(1, 13), [-1, -1, -1, 4, 4, 4, 5, 5, 5, 6, 6, -1]
    plan = bw.plan(lengths, max_tokens=400, **{constraint: numbers})
    names = [-1 if number < 0 else f"source {number}" for number in numbers]
    objects = np.array(numbers, dtype=object)
    for same in (np.array(numbers, dtype=float), objects, np.array(numbers).astype(bytes), names):
        assert bw.plan(lengths, max_tokens=400, **{constraint: same}) == plan


def test_groups_that_no_array_can_hold_are_refused():
    pandas = pytest.importorskip("pandas")
    for values, message in (
        ([-1, 2**63 + 1, 2**63 + 2, 0], r"within\[1\] is 9223372036854775808 as a float"),
        (pandas.Series(["a", None, "b", "b"], dtype="string"), r"within\[1\] is <NA>"),
        (np.array(["2026-01-01", "NaT"] * 2, dtype="M8[D]"), r"within\[1\] is None"),
    ):
        with pytest.raises(bw.errors.LengthsError, match=message):
            bw.plan([1, 2, 3, 4], max_tokens=9, within=values)


def test_samples_drawn_twice_are_not_in_one_batch():
    weights = np.array([50.0] + [1.0] * 39)
    lengths = np.full(40, 5)
    order = bw.Weighted(weights)
    plan = bw.plan(lengths, max_tokens=40, order=order, unique=np.arange(40))
    assert np.count_nonzero(plan.indices == 0) > 8
    assert all(len(set(batch.tolist())) == batch.size for batch in plan)
    keyless = {"unique": np.full(40, -1)}
    for constraint in ({"within": np.arange(40) // 40}, keyless):
        plan = bw.plan(lengths, max_tokens=40, order=order, **constraint)
        assert all(len(set(batch.tolist())) == batch.size for batch in plan)
    mixture = bw.Mixture(np.arange(40) % 2, weights={0: 0.8, 1: 0.2})
    plan = bw.plan(lengths, max_tokens=40, order=mixture, within=np.arange(40) % 2)
    assert all(len(set((batch % 2).tolist())) == 1 for batch in plan)
    assert all(len(set(batch.tolist())) == batch.size for batch in plan)


def test_orders_of_live_losses_keep_constraints():
    table = bw.LossTable(60)
    table.record(np.arange(60), np.linspace(1, 2, 60))
    order = bw.SelfPaced(table, noise_rate=0.2)
    groups = np.arange(60) % 3
    planner = bw.Planner(np.full(60, 5), max_tokens=40, order=order, within=groups)
    for epoch in range(3):
        assert not reference.broken([b.tolist() for b in planner(epoch)], within=groups.tolist())


def test_a_group_above_the_budget_is_named():
    lengths = [10, 10, 10, 3, 4]
    groups = ["long", "long", "long", "short", "short"]
    with pytest.raises(bw.errors.BudgetError, match="'long': 3 samples, 30 tokens"):
        bw.Planner(lengths, max_tokens=20, together=groups)
    with pytest.raises(bw.errors.BudgetError, match="batch_size|at most 2 samples"):
        bw.Planner(lengths, batching=bw.FixedSize(2), together=groups)
    for batching in (bw.TokenBudget(20, oversize="drop"), bw.Packing(20, oversize="drop")):
        plan = bw.plan(lengths, batching=batching, together=groups)
        assert plan.dropped["oversize"].tolist() == [0, 1, 2]
        assert sorted(plan.indices.tolist()) == [3, 4]
    plan = bw.plan(
        [25, 3, 4],
        max_tokens=None,
        batching=bw.TokenBudget(20, oversize="drop"),
        together=[0, 0, 1],
    )
    assert plan.dropped["oversize"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 9, "within": [0, 1]}, "within has 2 entries for 4 samples"),
        ({"max_tokens": 9, "unique": [[0, 1, 2, 3]]}, r"unique has shape \[1, 4\]"),
        ({"max_tokens": 9, "together": [0, None, 1, 1]}, r"together\[1\] is None"),
        ({"batching": strategies.in_threes, "unique": [0, 1, 2, 3]}, "makes its own batches"),
        ({"batching": bw.TokenBudget(9, mixing="update"), "unique": range(4)}, "mixing="),
        ({"batching": bw.Packing(2, oversize="split"), "together": [0, 0, 1, 1]}, "samples whole"),
        ({"max_tokens": 9, "together": [0, 0, 1, 1], "within": [0, 1, 1, 1]}, "contradict"),
        ({"max_tokens": 9, "together": [0, 1, 0, 1], "order": bw.Sequential()}, "side by side"),
        ({"max_tokens": 9, "together": [0, 1, 1, 0], "order": bw.Shuffle(2)}, "side by side"),
        (
            {"max_tokens": 9, "together": [0, 0, 1, 1], "order": bw.Weighted([1, 9, 1, 1])},
            "Weighted draws samples one by one",
        ),
        (
            {
                "batching": bw.Buckets(1, max_tokens=12),
                "together": [0, 1, 1, 1],
                "unique": range(4),
            },
            "no shape holds a group of 3 samples",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused(settings, message):
    lengths = [5, 2, 2, 4] if "batching" in settings else [3, 2, 2, 1]
    with pytest.raises(bw.BatchwrightError, match=message):
        bw.Planner(lengths, **settings)


def test_states_of_other_constraints_are_refused():
    lengths, keys = np.arange(1, 31), np.arange(30) % 9
    planner = bw.Planner(lengths, max_tokens=60, unique=keys)
    source = PlannerSource(planner)
    course = chart(source, Position(0), 1)
    for state in (course.after(2).state(source), Position(0).state(source)):
        for other in ({}, {"unique": keys // 2}, {"unique": keys, "within": keys * 0}):
            theirs = PlannerSource(bw.Planner(lengths, max_tokens=60, **other))
            with pytest.raises(bw.errors.PlanError, match="saved with another"):
                read_position(state, theirs)
            began = PlannerSource(planner)
            assert read_position(state, theirs, planned_by=began).epoch == 0
        renamed = PlannerSource(bw.Planner(lengths, max_tokens=60, unique=100 - keys))
        assert read_position(state, renamed).epoch == 0
    plain = PlannerSource(bw.Planner(lengths, max_tokens=60))
    assert "constraints" not in plain.settings
    with pytest.raises(bw.errors.PlanError, match="another unique="):
        read_position(Position(0).state(plain), source)


def test_a_rest_with_samples_of_no_group_keeps_another_budget():
    lengths, groups = np.arange(1, 31), np.where(np.arange(30) % 5, np.arange(30) // 5, -1)

    def source(max_tokens: int) -> PlannerSource:
        return PlannerSource(bw.Planner(lengths, max_tokens=max_tokens, together=groups))

    course = chart(source(200), Position(0), 1)
    assert course.plan is not None
    smaller = source(150)
    state = course.after(1).state(source(200))
    rest = chart(smaller, read_position(state, smaller), 1).plan
    assert rest is not None
    assert sorted(rest.indices.tolist()) == sorted(course.plan[1:].indices.tolist())
    with pytest.raises(bw.errors.BudgetError, match="group 5: 4 samples"):
        source(100)


def test_plans_and_planners_with_groups_can_be_saved_and_split(tmp_path):
    groups = np.arange(24) // 4
    planner = bw.Planner(np.full(24, 5), max_tokens=60, together=groups, world_size=1)
    assert copied(planner)(3) == planner(3)
    plan = planner(0)
    plan.save(tmp_path / "plan.safetensors")
    loaded = bw.Plan.load(tmp_path / "plan.safetensors")
    assert loaded == plan == copied(plan)
    assert loaded != bw.Plan(plan.indices, plan.offsets)
    for each in (plan, loaded):
        split = bw.equalize(each, num_batches=6)
        assert not reference.broken([b.tolist() for b in split], together=groups.tolist())
        with pytest.raises(bw.errors.PlanError, match="cannot fill 7 batches"):
            bw.equalize(each, num_batches=7)
    assert planner.samples_of(0, 0).size % 4 == 0


def test_ranks_without_a_group_of_their_own_repeat_a_whole_one():
    groups = np.arange(8) // 4
    with pytest.warns(UserWarning, match="cannot fill"):
        planner = bw.Planner(np.full(8, 5), max_tokens=60, together=groups, world_size=3)
    plan = planner(0)
    assert len(plan) == 3
    assert plan.repeated.size == 4
    assert not reference.broken([b.tolist() for b in plan], together=groups.tolist())


def test_groups_may_have_several_keys():
    rng = np.random.default_rng(0)
    groups = np.arange(300) // 2
    keys = rng.integers(0, 60, 300)  # two a pair, most of them different
    plan = bw.plan(np.full(300, 5), max_tokens=100, together=groups, unique=keys)
    batches = [batch.tolist() for batch in plan]
    assert not reference.broken(batches, together=groups.tolist(), unique=keys.tolist())
    assert len(plan) < 40


def test_samples_of_two_lengths_pad_little_more(text):
    pairs = np.stack((text[:4_000], text[::-1][:4_000]), axis=1)
    keys = np.arange(4_000) // 2
    pairs = pairs[keys]  # copies are side by side in any sort
    plain = bw.plan(pairs, max_tokens=16_384)
    unique = bw.plan(pairs, max_tokens=16_384, unique=keys)
    assert not reference.broken([b.tolist() for b in unique], unique=keys.tolist())
    assert unique.stats(pairs).efficiency > plain.stats(pairs).efficiency - 0.1
    assert len(unique) < 1.25 * len(plain)
