"""Plans of data in shards: each sample once, few shards open on a node, updates that mix nodes."""

import dataclasses
import json
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.plan_source import PlannerSource
from batchwright.resume import Position, chart, read_position
from batchwright.shard_index import ShardIndex, SortedRows
from tests import reference

CAP = 40

shards_of_lengths = st.lists(
    st.lists(st.integers(1, CAP), min_size=1, max_size=30), min_size=1, max_size=9
)


def shards_like_text(number=96, size=2_000, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.lognormal(5.5, 0.9, size).clip(1, 2_048).astype(np.int64) for _ in range(number)]


@given(shards=shards_of_lengths)
def test_an_index_knows_every_length_and_where_its_sample_is(shards):
    index = ShardIndex.build(shards)
    lengths = [length for shard in shards for length in shard]
    assert index.lengths().tolist() == lengths
    values, counts = index.histogram()
    assert values.tolist() == sorted(set(lengths), reverse=True)
    assert counts.tolist() == [lengths.count(value) for value in values.tolist()]
    places = [[shard, row] for shard, own in enumerate(shards) for row in range(len(own))]
    assert index.locate(np.arange(len(lengths))).tolist() == places


@given(
    shards=shards_of_lengths,
    max_tokens=st.integers(CAP, 150),
    open_blocks=st.integers(1, 5),
    nodes=st.integers(1, 4),
    ranks=st.integers(1, 3),
    accumulate=st.integers(1, 3),
    seed=st.integers(0, 3),
)
def test_each_sample_is_planned_once_on_nodes_that_open_few_shards(
    shards, max_tokens, open_blocks, nodes, ranks, accumulate, seed
):
    world_size = nodes * ranks
    shards = [*shards, [1] * 40]  # enough for an update
    index = ShardIndex.build(shards)
    lengths = index.lengths().astype(int)
    order = bw.Blocks(open_blocks=open_blocks, ranks_per_node=ranks)
    planner = bw.Planner(
        index,
        max_tokens=max_tokens,
        order=order,
        seed=seed,
        world_size=world_size,
        accumulate=accumulate,
    )
    shard_of = index.locate(np.arange(lengths.size))[:, 0]
    for epoch in (0, 1):
        plan = planner(epoch)
        assert len(plan) == len(planner)
        batches = [batch.tolist() for batch in plan]
        assert sorted(sample for batch in batches for sample in batch) == list(range(lengths.size))
        assert all(
            reference.padded_tokens(lengths[batch].tolist()) <= max_tokens for batch in batches
        )
        assert [plan[number].tolist() for number in range(len(plan))] == batches
        assert plan.shard(world_size - 1, world_size).indices.tolist() == [
            sample for batch in batches[world_size - 1 :: world_size] for sample in batch
        ]
        for node in range(nodes):
            own = [
                {int(shard_of[sample]) for sample in batch}
                for number, batch in enumerate(batches)
                if number % world_size // ranks == node
            ]
            assert reference.most_open(own) <= open_blocks


@given(
    shards=shards_of_lengths,
    chain=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 2), st.floats(0, 1)), min_size=1, max_size=4
    ),
    ranks_per_node=st.integers(1, 3),
    epoch=st.integers(0, 2),
)
def test_a_chain_of_worlds_sees_an_epoch_exactly_once(shards, chain, ranks_per_node, epoch):
    index = ShardIndex.build([*shards, [1] * 40])
    order = bw.Blocks(open_blocks=2, ranks_per_node=ranks_per_node)
    seen, position = [], Position(epoch)
    for world_size, accumulate, share in [*chain, (1, 1, 1.0)]:
        settings = {"world_size": world_size, "accumulate": accumulate}
        planner = bw.Planner(index, max_tokens=100, order=order, seed=3, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                course = chart(PlannerSource(planner), position, world_size, warn=True)
            except UserWarning:  # fewer samples are left than there are ranks
                continue
        count = round(share * len(course))
        if course.plan is not None:
            consumed = range(course.start, course.start + count * world_size)
            seen += [sample for number in consumed for sample in course.plan[number].tolist()]
        state = json.loads(json.dumps(course.after(count).state(PlannerSource(planner))))
        position = read_position(state, PlannerSource(planner))
    assert sorted(seen) == list(range(index.num_samples))


def test_nodes_go_on_with_their_own_shards_in_another_world():
    index = ShardIndex.build(shards_like_text())
    order = bw.Blocks(open_blocks=4, ranks_per_node=2)
    planner = bw.Planner(index, max_tokens=8_192, order=order, world_size=16)
    begun = chart(PlannerSource(planner), Position(0), 16).after(40)
    seen = planner(0)[: 40 * 16].indices
    planner = bw.Planner(index, max_tokens=8_192, order=order, world_size=6)
    course = chart(PlannerSource(planner), begun, 6)
    assert len(course.plan) % 6 == 0
    both = np.concatenate((seen, course.plan.indices))
    assert np.array_equal(np.sort(both), np.arange(index.num_samples))
    for node in range(3):
        own = [
            set(index.locate(batch)[:, 0].tolist())
            for number, batch in enumerate(course.plan)
            if number % 6 // 2 == node
        ]
        assert reference.most_open(own) <= 3 * 4  # groups that eight nodes were in the middle of


def test_nodes_of_another_size_are_refused_by_a_state_also_where_its_plan_is_the_same():
    index = ShardIndex.build([[3, 1, 2] * 20] * 6)

    def planner(world_size, ranks_per_node):
        order = bw.Blocks(open_blocks=2, ranks_per_node=ranks_per_node)
        return PlannerSource(bw.Planner(index, max_tokens=9, order=order, world_size=world_size))

    begun = chart(planner(2, 4), Position(0), 2).after(5)  # one node of two ranks
    then = chart(planner(4, 4), begun, 4).after(5)  # one node of four ranks
    state = then.state(planner(4, 4))
    other = planner(4, 2)  # would have shared what was left among two nodes
    with pytest.raises(bw.errors.PlanError, match="was planned as"):
        chart(other, read_position(state, other), 4)
    known = read_position(state, other, planner(2, 4))
    left = chart(other, known, 4).plan[5 * 4 :].indices
    seen = planner(2, 4).plan(0, 2, 1)[: 5 * 2].indices
    seen = np.concatenate((seen, chart(planner(4, 4), begun, 4).plan[: 5 * 4].indices))
    assert sorted([*seen, *left]) == list(range(index.num_samples))


@pytest.mark.parametrize(
    ("world_size", "accumulate", "ranks_per_node"),
    [(32, 1, 8), (32, 1, 4), (32, 1, 1), (8, 4, 8), (8, 4, 1), (64, 1, 8)],
)
def test_updates_have_an_even_mix_of_lengths(world_size, accumulate, ranks_per_node):
    index = ShardIndex.build(shards_like_text(size=10_000))
    order = bw.Blocks(open_blocks=8, ranks_per_node=ranks_per_node)
    planner = bw.Planner(
        index, max_tokens=8_192, order=order, world_size=world_size, accumulate=accumulate
    )
    stats = planner(0).stats(index)
    assert stats.dispersion < 0.75  # 1 is a shuffle
    assert stats.efficiency > 0.99


def test_updates_are_even_where_shards_are_unlike():
    rng = np.random.default_rng(0)
    means = rng.normal(5, 0.4, 128)
    shards = [rng.lognormal(mean, 0.6, 4_000).clip(1, 2_048).astype(int) for mean in means]
    order = bw.Blocks(open_blocks=8, ranks_per_node=8)
    index = ShardIndex.build(shards)
    planner = bw.Planner(index, max_tokens=8_192, order=order, world_size=32)
    at_random = bw.Planner(
        np.concatenate(shards),
        max_tokens=8_192,
        order=bw.Blocks(4_000, open_blocks=8, ranks_per_node=8),
        world_size=32,
    )
    assert planner(0).stats(index).dispersion < 0.5
    assert at_random(0).stats(np.concatenate(shards)).dispersion > 1


def test_groups_of_shards_stay_and_come_in_another_sequence():
    index = ShardIndex.build([[5, 3, 4]] * 12)
    planner = bw.Planner(index, max_tokens=12, order=bw.Blocks(open_blocks=3))

    def groups(epoch):
        shards = index.locate(planner(epoch).indices)[:, 0].reshape(-1, 9)
        return [frozenset(group.tolist()) for group in shards]

    assert set(groups(0)) == set(groups(1))
    assert len({tuple(groups(epoch)) for epoch in range(4)}) > 1


def test_long_samples_follow_the_policy():
    index = ShardIndex.build([[5, 30, 4], [3, 31], [2, 2]])
    message = (
        r"max_tokens=20 is too small for 2 of 7 samples \(the longest, row 1 of shard 1, has 31"
    )
    with pytest.raises(bw.errors.BudgetError, match=message):
        bw.Planner(index, max_tokens=20)
    dropped = bw.Planner(index, batching=bw.TokenBudget(20, oversize="drop"))(0)
    assert dropped.dropped["oversize"].tolist() == [1, 4]
    assert sorted(dropped.indices.tolist()) == [0, 2, 3, 5, 6]
    cut = bw.Planner(index, batching=bw.TokenBudget(20, oversize="truncate"))(0)
    assert sorted(cut.indices.tolist()) == list(range(7))
    assert cut.stats(index).max_batch_tokens <= 20


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"order": bw.Shuffle()}, r"order=Shuffle\(window=None\)"),
        ({"cost": "padded"}, "cost='padded'"),
        ({"within": [0, 0, 1]}, "constraints"),
        ({"last": "drop"}, "last='drop'"),
        ({"batching": bw.Packing(12, method="next_fit"), "max_tokens": None}, "batching=Packing"),
    ],
    ids=["order", "cost", "within", "last", "batching"],
)
def test_settings_that_need_every_length_are_refused(settings, named):
    index = ShardIndex.build([[5, 3], [4]])
    with pytest.raises(bw.errors.PlanError, match=f"planned with {named}.*LengthIndex.build"):
        bw.Planner(index, **({"max_tokens": 12} | settings))


def test_wrong_uses_say_what_to_do():
    index = ShardIndex.build([[5, 3], [4]])
    with pytest.raises(bw.errors.PlanError, match="too few for 8 batches"):
        bw.Planner(index, max_tokens=12, world_size=8)
    with pytest.raises(bw.errors.PlanError, match="sizes of blocks"):
        bw.Planner([5, 3], max_tokens=12, order=bw.Blocks())
    with pytest.raises(bw.errors.PlanError, match="other lengths"):
        bw.Planner(index, max_tokens=12)(0).stats([5, 3, 3])
    with pytest.raises(bw.errors.LengthsError, match="no shards"):
        ShardIndex.build([])


@pytest.mark.parametrize(
    "batching",
    [
        bw.TokenBudget(2_000, mixing="update"),
        bw.TokenBudget(2_000, slack=0.1),
        bw.Packing(1_000),
        bw.Buckets(4, max_tokens=2_000),
        bw.FixedSize(8),
    ],
    ids=str,
)
def test_shards_are_planned_with_every_batching_by_length(batching):
    index = ShardIndex.build([shard % 500 + 1 for shard in shards_like_text(17, 150)])
    order = bw.Blocks(open_blocks=3, ranks_per_node=2)
    planner = bw.Planner(index, batching=batching, order=order, world_size=4)
    for epoch in range(2):
        plan = planner(epoch)
        assert len(plan) == len(planner)
        assert np.array_equal(np.sort(plan.indices), np.arange(index.num_samples))
        assert plan.stats(planner.given).num_samples == index.num_samples
    assert bw.coverage(planner, epochs=1)
    gone = planner.without([5, 7])(0)
    assert np.array_equal(np.delete(np.arange(index.num_samples), [5, 7]), np.sort(gone.indices))


def test_rows_that_do_not_fit_the_index_are_refused_by_the_name_of_the_shard():
    index = ShardIndex.build([[5, 3], [4]])
    rows = SortedRows((np.arange(2, dtype=np.uint32), np.arange(2, dtype=np.uint32)))
    wrong = dataclasses.replace(index, rows_of=rows)
    with pytest.raises(bw.errors.PlanError, match="index of shard 1"):
        wrong.lengths()


def test_planners_of_shards_can_be_pickled():
    index = ShardIndex.build(shards_like_text(8, 500))
    planner = bw.Planner(index, max_tokens=8_192, world_size=4, order=bw.Blocks(ranks_per_node=2))
    plan = planner(1)
    again = pickle.loads(pickle.dumps(planner))(1)  # noqa: S301 -- written here
    assert again == plan
    assert again.identity() == plan.identity()
    assert pickle.loads(pickle.dumps(plan)) == plan  # noqa: S301 -- written here


def test_a_batch_size_gives_the_budget_of_shards_too():
    shards = shards_like_text(8, 500)
    ours = bw.Planner(ShardIndex.build(shards), batch_size=16)
    same = bw.Planner(np.concatenate(shards), batch_size=16)
    assert ours.batching == same.batching
    assert ours.step_tokens == same.step_tokens


def test_blocks_of_known_sizes_are_shared_by_nodes_too():
    lengths = np.concatenate(shards_like_text(48, 500))
    order = bw.Blocks(500, open_blocks=4, ranks_per_node=2)
    planner = bw.Planner(lengths, max_tokens=8_192, order=order, world_size=8)
    for epoch in (0, 1):
        plan = planner(epoch)
        assert len(plan) == len(planner)
        assert np.array_equal(np.sort(plan.indices), np.arange(lengths.size))
        for node in range(4):
            own = [
                set((batch // 500).tolist())
                for number, batch in enumerate(plan)
                if number % 8 // 2 == node
            ]
            assert reference.most_open(own) <= 4
    with pytest.raises(bw.errors.PlanError, match="ranks_per_node"):
        bw.Planner(lengths, max_tokens=8_192, order=order, cost="padded")
