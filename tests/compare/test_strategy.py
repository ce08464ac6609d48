"""Strategies: names, files, and what they promise one another."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.batching import TokenBudget
from batchwright.compare.strategy import (
    KINDS,
    ORDERS,
    Strategy,
    parse_strategies,
    read_strategies,
    safe_batch_size,
)
from batchwright.errors import BudgetError, TaskError
from tests.compare.conftest import make_task

PADDED = ["plain", "grouped", "planned", "buckets"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ORDERS)
def test_all_strategies_make_as_many_updates_within_the_budget(task, kind, order):
    strategy = Strategy.named(f"{kind}+{order}")
    if (kind, order) == ("buckets", "sequential"):
        with pytest.raises(BudgetError, match="the order binds their sequence"):
            strategy.planner(task, seed=0)
        return
    planner = strategy.planner(task, seed=0)
    updates = round(task.num_tokens / task.step_tokens)
    # Curricula draw about as many tokens as a shuffle has.
    slack = 1 if order in {"curriculum", "anticurriculum", "control"} else 0
    assert abs(len(planner) // planner.accumulate - updates) <= slack
    for epoch in (0, 1):
        stats = planner(epoch).stats(task.sizes)
        assert stats.max_batch_tokens <= task.max_tokens


@pytest.mark.parametrize("budgets", [{}, {"max_tokens": None, "step_tokens": None}])
@pytest.mark.parametrize("batch_size", [3, 16, 24, 100])
def test_plain_batches_are_those_of_today_and_all_make_as_many_updates(budgets, batch_size):
    task = make_task(batch_size=batch_size, **budgets)
    updates = set()
    for kind in ("plain", "grouped", "planned", "packed"):
        planner = Strategy.named(kind).planner(task, seed=0)
        stats = planner(0).stats(task.sizes)
        updates.add(stats.num_steps)
        if kind in {"plain", "grouped"}:
            assert stats.samples_per_batch_max == batch_size
        else:
            assert stats.max_batch_tokens <= task.max_tokens
            assert Strategy.named(kind).excess(task) is None
    assert max(updates) - min(updates) <= 1


def test_batches_of_today_may_exceed_the_budget_and_say_so():
    task = make_task(batch_size=24)
    assert Strategy.named("plain").excess(task) > task.max_tokens
    assert Strategy("own", kind="plain", options={"max_tokens": 80}).excess(task) is None
    assert Strategy("own", kind="plain", options={"batch_size": 2}).excess(task) is None
    assert Strategy.named("plain").excess(make_task()) is None


@given(
    lengths=st.lists(st.integers(1, 30), min_size=150, max_size=300),
    kind=st.sampled_from(PADDED),
    seed=st.integers(0, 5),
)
def test_a_shuffle_has_every_sample_once_whatever_the_batches(lengths, kind, seed):
    task = make_task(len(lengths), lengths=lengths, step_tokens=300)
    plan = Strategy.named(kind).planner(task, seed=seed)(0)
    assert sorted(plan.indices.tolist()) == list(range(len(lengths)))


def test_grouping_sorts_each_megabatch_from_long_to_short():
    task = make_task(4_000, step_tokens=500)
    plan = Strategy.named("grouped").planner(task, seed=0)(0)
    rows = safe_batch_size(task, task.max_tokens)
    lengths = task.sizes[plan.indices]
    megabatches = np.split(lengths, np.arange(50 * rows, lengths.size, 50 * rows))
    assert len(megabatches) > 10
    # Batches that are split to come to a whole number of updates stay in their sequence.
    assert all((np.diff(each) <= 0).all() for each in megabatches)
    assert len({tuple(each) for each in megabatches}) == len(megabatches)


@pytest.mark.parametrize(("factor", "multiple"), [(1, 1), (8, 8), (16, 16), (99, 16)])
def test_a_precision_of_fewer_bits_rounds_long_rows_up(task, factor, multiple):
    strategy = Strategy.named("planned+bf16")
    longer = make_task(
        lengths=task.sizes * factor, max_tokens=80 * factor, step_tokens=160 * factor
    )
    plan = strategy.planner(longer, seed=0)(0)
    assert plan.layout.multiple == multiple
    collate = strategy.collate(longer, plan.layout)
    assert collate([task.samples[0]])["tokens"].shape[1] % multiple == 0
    assert Strategy.named("planned").planner(longer, seed=0)(0).layout.multiple == 1


def test_samples_that_are_all_alike_are_not_rounded_up(task):
    same = make_task(lengths=None, collate=lambda samples: samples)
    assert Strategy.named("plain+bf16").planner(same, seed=0)(0).layout.multiple == 1


def test_names_say_everything():
    made = Strategy.named("packed+curriculum:length+fp16")
    assert (made.kind, made.order, made.precision) == ("packed", "curriculum:length", "fp16")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plan", "kind='plan'"),
        ("planned+fp8", "'fp8' is no order"),
        ("planned+bf16+fp16", "two of a kind"),
        ("", "expected a name"),
    ],
)
def test_a_name_that_says_nothing_is_refused(name, said):
    with pytest.raises(TaskError, match=said):
        Strategy.named(name)


def test_an_option_that_a_batching_does_not_have_is_refused(task):
    with pytest.raises(TaskError, match="'mine'.*colour"):
        Strategy("mine", options={"colour": 1}).planner(task, seed=0)


def test_packing_needs_a_collator_of_its_own(task):
    strategy = Strategy.named("packed")
    layout = strategy.planner(task, seed=0)(0).layout
    with pytest.raises(TaskError, match="collate_packed"):
        strategy.collate(task, layout)


def test_buckets_need_a_collator_that_pads(task):
    strategy = Strategy.named("buckets")
    layout = strategy.planner(task, seed=0)(0).layout
    with pytest.raises(TaskError, match="make it a PadCollator"):
        strategy.collate(make_task(collate=list), layout)


def test_a_sample_over_the_budget_is_refused():
    task = make_task(max_tokens=30)
    with pytest.raises(BudgetError, match="more than max_tokens=30"):
        Strategy.named("plain").planner(task, seed=0)
    with pytest.raises(BudgetError):
        Strategy.named("planned").planner(task, seed=0)


def test_strategies_of_the_users_own_come_from_a_file(task, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        '[plain]\n["planned+bf16"]\n[mine]\nkind = "planned"\nprecision = "fp32"\n'
        'mixing = "update"\nmax_tokens = 60\n'
    )
    plain, half, mine = read_strategies(file)
    assert (plain.kind, half.precision, mine.options) == (
        "plain",
        "bf16",
        {"mixing": "update", "max_tokens": 60},
    )
    batching = mine.planner(task, seed=0).batching
    assert batching == TokenBudget(60, mixing="update")
    assert [each.name for each in parse_strategies(str(file))] == ["plain", "planned+bf16", "mine"]


def test_a_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no such file. Expected a TOML file\."):
        read_strategies(tmp_path / "mine.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("plain = 3", "expected a table for each"),
        ("", "expected a table for each"),
        ("[plain", "cannot be read"),
        ("[mine]\nmixing = 4", "kind='mine'"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path, text, said):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(TaskError, match=said):
        read_strategies(file)


def test_a_strategy_is_there_once():
    with pytest.raises(TaskError, match="'plain' is there twice"):
        parse_strategies("plain,plain")
    with pytest.raises(TaskError, match="no strategies"):
        parse_strategies(",")


def test_a_pipe_is_no_file_of_strategies(tmp_path):
    os.mkfifo(tmp_path / "a.toml")  # reading it would wait for ever
    with pytest.raises(TaskError, match="no regular file"):
        read_strategies(tmp_path / "a.toml")


def test_mixed_batches_hold_all_lengths_in_each_update_of_as_many_tokens():
    task = make_task(960, batch_size=32, max_tokens=None, step_tokens=None)
    planned, mixed = (Strategy.named(name).planner(task, seed=0) for name in ("planned", "mixed"))
    assert (planned.accumulate, mixed.accumulate) == (1, 8)
    assert len(mixed) == 8 * len(planned)  # as many updates
    unlike, alike = (each(0).stats(task.sizes) for each in (planned, mixed))
    assert alike.dispersion < 1.1
    assert unlike.dispersion > 2
    plain = Strategy.named("plain").planner(task, seed=0)(0).stats(task.sizes)
    assert plain.efficiency + 0.2 < alike.efficiency
    assert alike.max_batch_tokens <= max(task.sizes.max(), task.max_tokens // 8)
    assert sorted(mixed(0).indices.tolist()) == list(range(960))


def test_mixed_batches_are_planned_ones_where_updates_have_enough():
    task = make_task(960, max_tokens=80, step_tokens=1_000)
    planned, mixed = (Strategy.named(name).planner(task, seed=0) for name in ("planned", "mixed"))
    assert planned.accumulate >= 8
    assert planned(0).digest() == mixed(0).digest()


def test_updates_of_similar_lengths_want_mixing():
    task = make_task(2_000, batch_size=32, max_tokens=None, step_tokens=None)
    assert Strategy.named("planned").needs_mixing(task)
    for name in ("plain", "mixed"):
        assert not Strategy.named(name).needs_mixing(task)
    assert not Strategy.named("planned").needs_mixing(make_task(max_tokens=40, step_tokens=640))
