"""Resuming: exactly what was not seen, in the same global sequence, whatever the ranks."""

import itertools
import json
import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import batchwright as bw
from batchwright._states import sealed
from batchwright.sharding import share
from batchwright.torch import PlanBatchSampler
from tests.python_lines import python_lines
from tests.torch.planners import (
    batchings,
    dealt_back,
    entries,
    log_normal,
    many_lengths,
    rank_samplers,
    through_json,
)

shares = st.floats(0, 1) | st.sampled_from((0.9, 0.95, 0.98, 1.0))  # ends are where it is tight
legs = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3), shares), min_size=1, max_size=5)


def left(sampler: PlanBatchSampler) -> int:
    """Count the batches of this rank that a pass from here on has."""
    counting = PlanBatchSampler(sampler._source._planner, rank=0, world_size=sampler._given[1])
    counting.load_state_dict(iter(sampler).state_dict())
    return sum(1 for _ in counting)


@pytest.mark.filterwarnings("error")
@given(
    lengths=many_lengths,
    batching=batchings,
    chain=legs,
    epoch=st.integers(0, 2),
    use_tokens=st.booleans(),
)
def test_a_chain_of_worlds_sees_an_epoch_exactly_once_in_its_sequence(
    lengths, batching, chain, epoch, use_tokens
):
    """Each job of the chain has its own ranks, consumes part of what is left, and is stopped."""
    lengths = [*lengths, *[1] * 15]  # a batch for each of 5 ranks × 3
    seen, state, expected = [], None, None
    for world_size, accumulate, part in [*chain, (1, 1, 1.0)]:
        size = {"step_tokens": 60} if use_tokens else {"accumulate": accumulate}
        try:
            planner = bw.Planner(lengths, batching=batching, seed=7, world_size=world_size, **size)
        except bw.errors.PlanError:  # step_tokens ask for more batches than there are samples
            continue
        if not seen:  # whoever begins the epoch decides its sequence
            expected = entries(planner(epoch))
        samplers = rank_samplers(planner, world_size)
        for sampler in samplers:
            sampler.set_epoch(epoch)
            if state is not None:
                sampler.load_state_dict(state)
        try:
            count = round(part * left(samplers[0]))
        except UserWarning as warning:
            rest = int(str(warning).split()[0])
            assert rest == len(expected) - len(seen)
            assert rest % world_size  # all in batches of one, and still not equal
            continue  # the state is as it was, for the next of the chain
        iterators = [iter(sampler) for sampler in samplers]
        seen += dealt_back([[next(each) for _ in range(count)] for each in iterators])
        states = [through_json(each.state_dict()) for each in iterators]
        states += [through_json(sampler.state_after(count)) for sampler in samplers]
        assert all(each == states[0] for each in states)
        state = states[0]
    assert seen == expected

    if state["legs"]:  # all was consumed: what is left is empty, and the next epoch is whole
        sampler = PlanBatchSampler(planner, rank=0, world_size=1)
        sampler.load_state_dict(state)
        assert list(sampler) == []
        sampler.set_epoch(epoch + 1)
        assert [entry for batch in sampler for entry in batch] == entries(planner(epoch + 1))
        assert len(sampler) == len(planner)


@given(lengths=many_lengths, batching=batchings, world_size=st.integers(1, 4), data=st.data())
def test_under_the_same_ranks_the_very_same_batches_follow(lengths, batching, world_size, data):
    lengths = [*lengths, *[1] * 8]
    planner = bw.Planner(lengths, batching=batching, accumulate=2)
    whole = [list(sampler) for sampler in rank_samplers(planner, world_size)]
    done, state = 0, None
    for _ in range(3):  # a chain of resumes, none of them where an update ends
        samplers = rank_samplers(planner, world_size)
        for sampler in samplers:
            if state is not None:
                sampler.load_state_dict(state)
        consumed = data.draw(st.integers(0, len(whole[0]) - done))
        for sampler, batches in zip(samplers, whole, strict=True):
            live = iter(sampler)
            assert [next(live) for _ in range(consumed)] == batches[done : done + consumed]
            state = live.state_dict()
        done += consumed
        assert state["legs"] == ([[world_size, 2, done * world_size]] if done else [])


def test_no_batch_grows_and_updates_stay_whole_under_other_ranks():
    lengths = log_normal(400)
    planner = bw.Planner(lengths, batching=bw.TokenBudget(150), accumulate=2, world_size=2)
    state = PlanBatchSampler(planner, rank=0, world_size=2).state_after(10)
    resumed = rank_samplers(planner, 5)
    for sampler in resumed:
        sampler.load_state_dict(state)
    per_rank = [list(sampler) for sampler in resumed]
    assert {len(batches) % 2 for batches in per_rank} == {0}
    for batch in itertools.chain(*per_rank):
        assert len(batch) * lengths[batch].max() <= 150
    assert dealt_back(per_rank) == entries(planner(0)[20:])


def test_a_run_that_began_with_accumulate_may_go_on_with_step_tokens():
    """Both come to 2 batches an update here, but not to the same number of updates."""
    settings = {"batching": bw.TokenBudget(100)}
    began = bw.Planner(log_normal(200), accumulate=2, **settings)
    goes_on = bw.Planner(log_normal(200), step_tokens=120, **settings)
    assert began.accumulate == goes_on.accumulate == 2
    assert len(began) != len(goes_on)
    state = PlanBatchSampler(began).state_after(10)
    sampler = PlanBatchSampler(goes_on)
    sampler.load_state_dict(state)
    assert [i for batch in sampler for i in batch] == entries(began(0)[10:])
    sampler.set_epoch(1)
    assert [i for batch in sampler for i in batch] == entries(goes_on(1))


def test_where_too_few_samples_are_left_the_last_update_is_short():
    plan = bw.Plan(np.arange(10), np.array([0, 1, 2, 4, 7, 10]))
    state = PlanBatchSampler(plan, rank=0, world_size=1).state_after(3)  # 6 samples in 2 batches
    planned = bw.Plan(plan.indices, plan.offsets, origin=bw.plan([1], max_tokens=1).origin)
    assert state["legs"] == [[1, 1, 3]]
    rest = planned[3:]
    assert [len(share(rest, 2, each, 0, last="short")) for each in (1, 2, 3, 4)] == [2, 4, 6, 2]


def test_where_fewer_samples_are_left_than_ranks_some_come_twice():
    planner = bw.Planner([4] * 15, batching=bw.FixedSize(2))
    state = PlanBatchSampler(planner, rank=0, world_size=1).state_after(7)
    left = entries(planner(0)[7:])
    assert len(left) == 1
    many = rank_samplers(planner, 8)
    for sampler in many:
        sampler.load_state_dict(state) if sampler.rank else None
    with pytest.warns(UserWarning, match=r"7 come twice .*last=\"drop\""):
        per_rank = [list(sampler) for sampler in many[1:]]
    assert per_rank == [[left]] * 7
    few = rank_samplers(planner, 1)
    for sampler in few:
        sampler.load_state_dict(state)
    assert dealt_back([list(sampler) for sampler in few]) == left
    many[1].set_epoch(1)
    assert len(list(many[1])) == len(many[1])


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2, 4, 7])
@pytest.mark.parametrize("size", [1, 3, 4, 5, 8, 12])
def test_remainders_follow_the_policy(size, world_size, accumulate):
    plan = bw.Plan(np.arange(size) + 10, np.arange(size + 1))
    update = world_size * accumulate
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        short = share(plan, world_size, accumulate, 0, last="short")
    assert len(short) == -(-size // world_size) * world_size if size % update else size
    assert short.indices[:size].tolist() == plan.indices.tolist()
    assert bool(said) == bool(size % world_size)
    repeated = share(plan, world_size, accumulate, 0, last="repeat")
    assert len(repeated) == -(-size // update) * update
    assert repeated.indices[:size].tolist() == plan.indices.tolist()
    assert set(repeated.indices.tolist()) == set(plan.indices.tolist())
    kept = share(plan, world_size, accumulate, 0, last="drop")
    if size < update:
        assert kept is None
    else:
        assert len(kept) == size // update * update
        gone = kept.dropped.get("last", plan.indices[:0])
        assert [*kept.indices, *gone] == plan.indices.tolist()


def test_the_length_stays_that_of_a_whole_epoch():
    planner = bw.Planner(log_normal(200), batching=bw.TokenBudget(100))
    sampler = PlanBatchSampler(planner, rank=0, world_size=2)
    sampler.load_state_dict(sampler.state_after(5))
    assert len(list(sampler)) == len(sampler) - 5


def test_state_after_counts_from_where_the_pass_began():
    planner = bw.Planner(log_normal(200), batching=bw.TokenBudget(100))
    whole = list(PlanBatchSampler(planner))
    sampler = PlanBatchSampler(planner)
    sampler.load_state_dict(sampler.state_after(5))
    assert sampler.state_after(2)["legs"] == [[1, 1, 7]]
    live = iter(sampler)
    assert next(live) == whole[5]
    assert sampler.state_after(2)["legs"] == [[1, 1, 7]]
    sampler.load_state_dict(sampler.state_after(2))  # the pass to come begins here
    assert sampler.state_after(0)["legs"] == [[1, 1, 7]]
    assert list(sampler) == whole[7:]


def test_state_after_is_of_the_pass_under_way_until_the_next_epoch_is_set():
    planner = bw.Planner(log_normal(200), batching=bw.TokenBudget(100))
    sampler = PlanBatchSampler(planner)
    live = iter(sampler)
    next(live)
    assert sampler.state_after(1)["epoch"] == 0
    sampler.set_epoch(1)  # while the loop is still in epoch 0
    assert sampler.state_after(1)["epoch"] == 0
    assert sampler.state_after(0) == sampler.state_after(0) | {"epoch": 1, "legs": []}
    next(iter(sampler))
    assert sampler.state_after(1)["epoch"] == 1


def test_a_loaded_state_yields_to_the_epoch_that_is_set():
    planner = bw.Planner(log_normal(200), batching=bw.TokenBudget(100))
    sampler = PlanBatchSampler(planner)
    sampler.set_epoch(4)
    sampler.load_state_dict(sampler.state_after(3))
    assert sampler.epoch == 4
    sampler.set_epoch(5)
    assert list(sampler) == [batch.tolist() for batch in planner(5)]
    sampler.set_epoch(4)
    assert list(sampler) == [batch.tolist() for batch in planner(4)]


def test_an_iterators_state_is_applied_once():
    planner = bw.Planner(log_normal(200), batching=bw.TokenBudget(100))
    sampler = PlanBatchSampler(planner)
    whole = list(sampler)
    state = sampler.state_after(3)
    sampler.load_state_dict(state)
    live = iter(sampler)
    live.load_state_dict(state)
    assert list(live) == whole[3:]
    sampler.set_epoch(0)
    assert list(sampler) == whole


def test_an_iterator_at_its_end_leaves_the_next_epoch_set():
    planner = bw.Planner(log_normal(200), batching=bw.TokenBudget(100))
    sampler = PlanBatchSampler(planner)
    end, middle = sampler.state_after(len(sampler)), sampler.state_after(1)
    sampler.set_epoch(1)
    iter(sampler).load_state_dict(end)
    assert sampler.epoch == 1
    iter(sampler).load_state_dict(middle)
    assert sampler.epoch == 0


@pytest.mark.parametrize("consumed", [-1, 10_000, 1.5, None])
def test_more_than_a_pass_has_cannot_have_been_consumed(consumed):
    sampler = PlanBatchSampler(bw.Planner([1, 2, 3], batching=bw.FixedSize(1)))
    with pytest.raises(
        bw.errors.PlanError, match=rf"state_after\({consumed}\): this pass has 3 batches"
    ):
        sampler.state_after(consumed)


def alternating(order, lengths, rng):
    """A batching of the user's own."""
    return bw.Plan(order, np.append(np.arange(0, order.size, 2), order.size))


def saved(**changes):
    settings = {"batching": bw.TokenBudget(100), "seed": 3, "world_size": 2} | changes
    lengths = settings.pop("lengths", log_normal(200))
    planner = bw.Planner(lengths, **settings)
    return PlanBatchSampler(planner, rank=0, world_size=2)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lengths": log_normal(200, seed=1)}, "saved with other lengths"),
        ({"lengths": log_normal(201)}, "saved with other lengths"),
        ({"seed": 4}, "saved with seed=3, now seed=4. Use 3"),
        ({"order": bw.Sequential()}, "was planned as .* batches"),
        ({"order": bw.Shuffle(window=50)}, "was planned as .* batches"),
        ({"cost": "quadratic"}, "was planned as .* batches"),
    ],
)
def test_a_state_of_another_run_is_refused(changes, told):
    state = saved().state_after(3)
    other = saved(**changes)
    with pytest.raises(bw.errors.PlanError, match=told):
        other.load_state_dict(state)
    with pytest.raises(bw.errors.PlanError, match=told):
        iter(other).load_state_dict(state)
    assert len(list(other)) == len(other)  # and nothing of it stays


def test_a_state_of_a_batching_of_the_users_own_wants_its_planner():
    began, goes_on = saved(batching=alternating), saved()
    state = began.state_after(3)
    with pytest.raises(bw.errors.PlanError, match=r"planned_by=Planner"):
        goes_on.load_state_dict(state)
    goes_on.load_state_dict(state, planned_by=began._source._planner)
    plan = began._source._planner(0)
    per_rank = [list(goes_on)]
    other = PlanBatchSampler(goes_on._source._planner, rank=1, world_size=2)
    other.load_state_dict(state, planned_by=began._source._planner)
    per_rank.append(list(other))
    assert dealt_back(per_rank) == plan.indices[plan.offsets[6] :].tolist()
    with pytest.raises(bw.errors.PlanError, match="expected a Planner"):
        other.load_state_dict(state, planned_by=3)


@pytest.mark.parametrize(
    "changes",
    [
        {"legs": [[2, 1]]},
        {"legs": [[2, 1, -4]]},
        {"legs": [[2, 1, 8]]},
        {"legs": [[2, 1, 6.0]]},
        {"legs": [[2, True, 6]]},
        {"legs": 5},
        {"epoch": 1},
        {"epoch": "0"},
        {"epoch": 10**9},
        {"seed": 4},
        {"plan": None},
        {"num_batches": [1]},
        {"settings": None},
        {"settings": {"batching": {"kind": "Packing", "capacity": 100}, "step_tokens": None}},
        {"checksum": None},
        {"checksum": "0" * 16},
    ],
)
def test_a_state_that_was_tampered_with_is_refused(changes):
    sampler = saved()
    state = sampler.state_after(3)
    with pytest.raises(bw.errors.PlanError, match="changed after it was saved"):
        sampler.load_state_dict(state | changes)
    with pytest.raises(bw.errors.PlanError, match="changed after it was saved"):
        iter(sampler).load_state_dict(state | changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"version": 1}, "format 1, this version reads 2"),
        ({"new": 1}, "with \\['new'\\]"),
        ({"legs": [[2, 1]]}, "changed after"),
        ({"legs": [[2, 1, 5]]}, "changed after"),
        ({"legs": [[0, 1, 2]]}, "changed after"),
        ({"legs": [[10**12, 1, 10**12]]}, "changed after"),
        ({"legs": [[2, 10**30, 6]]}, "changed after"),
        ({"legs": [[2, 1, 20_000]]}, "changed after"),
        ({"legs": [[2, 1, 20_000], [1, 1, 1]]}, "changed after"),
        ({"legs": [[2, 1, 6, "short"]]}, "changed after"),
        ({"legs": [[2, 1, 6], [2, 1, 2, "short", {"splits": 1}]]}, "splits=1"),
        (
            {"legs": [[2, 1, 6], [2, 1, 2, "drop", {"splits": False, "kind": "round"}]]},
            "no valid budget",
        ),
        ({"legs": [[2, 1, 6], [2, 1, 2, "never"]]}, "changed after"),
        ({"legs": [[2, 1, 6], [2, 1, 2, 0]]}, "changed after"),
        ({"legs": []}, "changed after"),
        ({"epoch": -1}, "changed after"),
        ({"num_batches": None}, "changed after"),
        ({"plan": "ab"}, "was planned as"),
        (
            {"settings": {"batching": {"kind": "Custom"}, "step_tokens": None, "last": "short"}},
            "names the batching",
        ),
        (
            {"settings": {"batching": {"kind": "FixedSize"}, "step_tokens": None, "last": "short"}},
            "names the",
        ),
        (
            {
                "settings": {
                    "batching": {"kind": "TokenBudget", "max_tokens": 1},
                    "step_tokens": None,
                    "last": "short",
                }
            },
            "cannot be",
        ),
    ],
)
def test_a_state_of_things_that_cannot_be_is_refused_whatever_its_checksum(changes, told):
    sampler = saved()
    state = sampler.state_after(3) | changes
    fields = {name: value for name, value in state.items() if name not in {"version", "checksum"}}
    with pytest.raises(bw.errors.PlanError, match=told):
        sampler.load_state_dict(sealed(fields, version=state["version"]))


@pytest.mark.parametrize("name", sorted(saved().state_after(3)))
def test_a_state_without_one_of_its_keys_is_refused(name):
    state = saved().state_after(3)
    del state[name]
    with pytest.raises(bw.errors.PlanError, match="not a state of PlanBatchSampler"):
        saved().load_state_dict(state)


def test_whole_numbers_of_numpy_make_the_same_states():
    plain, whole = saved(), saved(seed=np.int64(3))
    placed = PlanBatchSampler(whole._source._planner, rank=np.int32(0), world_size=np.int64(2))
    placed.set_epoch(np.int64(0))
    state = placed.state_after(np.int64(3))
    assert json.dumps(state) == json.dumps(plain.state_after(3))
    plain.load_state_dict(state)
    legs = [[np.int64(number) for number in state["legs"][0]]]
    plain.load_state_dict(state | {"legs": legs, "epoch": np.uint8(0)})
    assert plain.state_after(0) == state


@pytest.mark.parametrize("state", [None, {}, [], "state", {"epoch": 1, "cursor": 3}])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(bw.errors.PlanError, match="not a state of PlanBatchSampler"):
        saved().load_state_dict(state)


def test_a_state_is_small_and_readable():
    sampler = saved()
    state = sampler.state_after(3)
    assert len(json.dumps(state)) < 400
    assert state == through_json(state)
    assert state["epoch"] == 0
    assert state["legs"] == [[2, 1, 6]]


@pytest.mark.slow
def test_resuming_within_a_made_plan_goes_through_nothing_that_is_over():
    planner = bw.Planner(log_normal(1_000_000), batching=bw.TokenBudget(256))
    sampler = PlanBatchSampler(planner)
    whole = iter(sampler)
    state = sampler.state_after(len(sampler) - 3)
    expected = list(whole)[-3]

    def resumed():
        sampler.load_state_dict(state)
        return next(iter(sampler))

    assert resumed() == expected
    lines, batch = python_lines(resumed)  # of hundreds of thousands of batches
    assert batch == expected
    assert lines < 3_000
    tracemalloc.start()
    try:
        resumed()
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("batching", [bw.TokenBudget(256), bw.Packing(256), bw.FixedSize(8)])
def test_ranks_resume_without_making_a_whole_plan(batching, tmp_path, monkeypatch):
    index = bw.LengthIndex.build(log_normal(20_000), tmp_path / "lengths.index")
    whole = bw.Planner(index, batching=batching, world_size=4)(1)
    expected = np.concatenate([*whole[40:]]).tolist()
    monkeypatch.delattr(bw.Plan, "_arrays")
    monkeypatch.delattr(bw.Planner, "lengths")

    def sampler(world_size, rank):
        planner = bw.Planner(index, batching=batching, world_size=world_size)
        return PlanBatchSampler(planner, rank=rank, world_size=world_size)

    first = sampler(4, 0)
    first.set_epoch(1)
    next(iter(first))
    state = through_json(first.state_after(10))
    resumed = [sampler(3, rank) for rank in range(3)]
    for each in resumed:
        each.load_state_dict(state)
    assert dealt_back([list(each) for each in resumed]) == expected
    dataset = list(range(20_000))
    resumed[0].load_state_dict(state)
    loader = DataLoader(dataset, batch_sampler=resumed[0], collate_fn=list)
    assert next(iter(loader)) == expected[: len(whole[40])]
    through_json(resumed[0].state_after(5))


def test_a_state_that_holds_the_digest_of_arrays_is_accepted():
    """As version 0.2.0 saved it."""
    planner = bw.Planner(
        [9, *log_normal(50, longest=8)],
        batching=bw.TokenBudget(8, oversize="drop"),
        order=bw.Sequential(),
    )
    sampler = PlanBatchSampler(planner)
    batches = list(sampler)
    state = sampler.state_after(4)
    assert state["plan"] == planner(0).identity() != planner(0).digest()
    fields = {name: state[name] for name in state if name not in {"version", "checksum"}}
    fields["plan"] = planner(0).digest()
    sampler.load_state_dict(sealed(fields, version=state["version"]))
    assert list(sampler) == batches[4:]


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("order", [bw.Shuffle(), bw.Sequential()])
def test_a_run_goes_on_without_samples_that_are_named_later(order, world_size):
    def planner(ranks):
        return bw.Planner(
            log_normal(500), batching=bw.TokenBudget(120), order=order, world_size=ranks
        )

    samplers = rank_samplers(planner(2), 2)
    whole = [list(each) for each in samplers]
    state = through_json(samplers[0].state_after(7))
    seen, rest = dealt_back([each[:7] for each in whole]), dealt_back([each[7:] for each in whole])

    def resumed(state, plans):
        ranks = rank_samplers(plans, world_size)
        for each in ranks:
            each.load_state_dict(state)
        return ranks

    full = [list(each) for each in resumed(state, planner(world_size))]
    gone = [*seen[:3], *(batch[1] for own in full for batch in own[::2] if len(batch) > 1)]
    ranks = resumed(state, planner(world_size).without(gone))
    found = [list(each) for each in ranks]
    assert dealt_back(found) == [sample for sample in rest if sample not in gone]
    for own, before in zip(found, full, strict=True):
        assert own == [[s for s in batch if s not in gone] for batch in before]
    # Saved again, the state goes on both ways.
    again = through_json(ranks[0].state_after(4))
    for plans, expected in (
        (planner(world_size), full),
        (planner(world_size).without(gone), found),
    ):
        assert [list(each) for each in resumed(again, plans)] == [each[4:] for each in expected]
    # The next epoch is whole but for them.
    ranks[0].set_epoch(1)
    assert len(list(ranks[0])) == len(ranks[0])
    assert not set(ranks[0].plan.indices.tolist()) & set(gone)


def test_an_epoch_begun_without_samples_can_be_resumed():
    plain = bw.Planner(log_normal(500), batching=bw.TokenBudget(120))
    planner = plain.without(range(0, 500, 7))
    sampler = PlanBatchSampler(planner)
    batches = list(sampler)
    assert batches == [batch.tolist() for batch in planner(0)] != list(PlanBatchSampler(plain))
    assert sampler.plan == planner(0)
    sampler.set_epoch(0)
    sampler.load_state_dict(sampler.state_after(5))
    assert list(sampler) == batches[5:]
    again = pickle.loads(pickle.dumps(PlanBatchSampler(planner)))  # noqa: S301 -- made here
    assert list(again) == batches


def test_a_run_of_one_plan_goes_on_with_the_plan_from_a_file(tmp_path):
    plan = bw.Planner(log_normal(500), batching=bw.TokenBudget(120), world_size=2)(3)
    plan.save(tmp_path / "plan.safetensors")
    sampler = PlanBatchSampler(plan, rank=1, world_size=2)
    batches = list(sampler)
    loaded = PlanBatchSampler(bw.Plan.load(tmp_path / "plan.safetensors"), rank=1, world_size=2)
    loaded.load_state_dict(through_json(sampler.state_after(3)))
    assert list(loaded) == batches[3:]


def test_an_iterator_goes_back_to_a_state():
    planner = bw.Planner(log_normal(2_000), batching=bw.TokenBudget(120), world_size=2)
    iterator = iter(PlanBatchSampler(planner, rank=1, world_size=2))
    batches = [next(iterator) for _ in range(70)]
    state = iterator.state_dict()
    batches += [next(iterator) for _ in range(10)]
    iterator.load_state_dict(state)
    again = [next(iterator) for _ in range(10)]
    assert again == batches[70:]


def test_where_only_samples_are_left_that_the_planner_leaves_out_the_epoch_is_over():
    planner = bw.Planner([9, 9, 9, 9], max_tokens=9, order=bw.Sequential())
    iterator = iter(PlanBatchSampler(planner, rank=0, world_size=1))
    assert [next(iterator), next(iterator)] == [[0], [1]]
    for rank in range(2):
        sampler = PlanBatchSampler(planner.without([2, 3]), rank=rank, world_size=2)
        sampler.load_state_dict(iterator.state_dict())
        assert list(sampler) == []


def test_other_ranks_refuse_a_state_inside_an_update_that_lacks_a_batch():
    """A batch that was left out took a sample of another, which other ranks do not know of."""
    planner = bw.Planner(
        [1] * 4, batching=bw.FixedSize(2), order=bw.Sequential(), accumulate=2
    ).without([2, 3])
    state = PlanBatchSampler(planner, rank=0, world_size=1).state_after(1)
    sampler = PlanBatchSampler(planner, rank=0, world_size=2)
    with pytest.raises(bw.errors.PlanError, match="only world_size=1, accumulate=2"):
        sampler.load_state_dict(state)
    again = PlanBatchSampler(planner, rank=0, world_size=1)
    again.load_state_dict(state)
    assert sorted(sum(again, planner(0)[0].tolist())) == [0, 1]
