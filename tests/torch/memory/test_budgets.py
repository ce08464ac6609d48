"""Budgets: what they allow, in plans and in bytes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batchwright as bw
from batchwright.errors import BudgetError
from batchwright.torch.memory import Findings, MemoryModel, RowsByLength, StateBytes
from batchwright.torch.memory.steps import real_steps
from benchmarks.memory_prediction import Transformer
from tests.torch.memory.networks import fitted, task_of


@pytest.fixture(scope="module", params=[False, True], ids=["fused", "keeps scores"])
def network(request):
    model = Transformer(width=32, layers=1, keeps_scores=request.param)
    return model, fitted(model)


def test_a_token_budget_is_the_largest_that_is_safe_at_every_length(network):
    _, memory = network
    lengths = np.arange(memory.shortest, memory.longest + 1)
    budget = memory.max_tokens()
    most = np.array([memory.max_batch(int(length)) for length in lengths])
    assert (budget // lengths <= most).all()
    assert ((budget + 1) // lengths > most).any()


def test_rows_fill_the_limit_less_the_margin(network):
    _, memory = network
    for length in (16, 50, 128):
        rows = memory.max_batch(length)

        def with_margin(rows, length=length):
            step = memory.peak(rows, length) - memory.state_bytes
            return memory.state_bytes + step * (1 + memory.margin)

        assert with_margin(rows) <= memory.limit + 2
        assert with_margin(rows + 1) > memory.limit


def test_a_lower_limit_allows_less_and_shorter_rows_more(network):
    _, memory = network
    less = dataclasses.replace(memory, limit=memory.limit // 2)
    shorter = dataclasses.replace(memory, longest=64)
    assert less.max_tokens() < memory.max_tokens() <= shorter.max_tokens()
    table = memory.rows_by_length()
    lengths = np.array([1, 16, 17, 90, 128])
    assert table(lengths).tolist() == [memory.max_batch(int(length)) for length in lengths]
    assert (np.diff(table(np.arange(1, 129))) <= 0).all()
    assert memory.max_batch(1) == memory.max_batch(16)  # shorter rows than any that was tried


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=200),
    rows=st.lists(st.integers(1, 20), min_size=64, max_size=64),
    multiple=st.sampled_from([1, 4]),
    mixing=st.sampled_from(["stratified", "update", 2]),
    world_size=st.integers(1, 3),
)
def test_every_length_keeps_its_own_budget(lengths, rows, multiple, mixing, world_size):
    table = RowsByLength(np.array([20, *sorted(rows, reverse=True)]))
    batching = bw.TokenBudget(
        table.max_tokens, max_samples=table, pad_to_multiple_of=multiple, mixing=mixing
    )
    if len(lengths) < world_size or table.max_tokens < 60:
        return
    plan = bw.plan(lengths, batching=batching, seed=1, world_size=world_size)
    assert sorted(plan.indices.tolist()) == list(range(len(lengths)))
    for batch in plan:
        longest = -(-max(lengths[index] for index in batch) // multiple) * multiple
        assert len(batch) <= table.rows[longest]


@pytest.mark.slow
def test_where_scores_are_kept_short_rows_leave_room_for_more_tokens():
    model = Transformer(width=32, layers=2, heads=8, keeps_scores=True)
    memory = fitted(model, lengths=range(16, 257), confirm=False)
    tokens = memory.rows_by_length()(np.array([16, 256])) * [16, 256]
    assert tokens[0] > 1.5 * tokens[1]
    assert dataclasses.replace(memory, longest=32).max_tokens() > 1.4 * memory.max_tokens()


def test_no_batch_of_a_plan_takes_more_than_the_limit(network):
    model, memory = network
    lengths = np.random.default_rng(0).integers(16, 129, 400)
    plan = bw.plan(lengths, batching=memory.token_budget(mixing="update"), seed=1)
    sizes = [(len(batch), int(lengths[batch].max())) for batch in plan]
    peaks = [memory.peak(*size) for size in sizes]
    assert max(peaks) <= memory.limit
    with real_steps(task_of(model), 16) as run:
        for size in np.argsort(peaks)[[0, len(peaks) // 2, -1]]:
            assert memory.state_bytes + run(*sizes[size]) <= memory.limit


def test_where_rows_cost_more_than_tokens_no_budget_of_tokens_is_made_up():
    curve = (0.0, 0.0, 0.0, 1_000.0, 1.0, 0.0)  # a row is worth a thousand tokens
    findings = Findings(StateBytes(0, 0, 0, 0), (curve,), ())
    memory = MemoryModel(findings, shortest=1, longest=500, limit=10_000, margin=0.0, device="cpu")
    with pytest.raises(BudgetError, match="no single budget of tokens suits lengths from 1 to 500"):
        memory.max_tokens()
    assert memory.max_batch(500) == 6
    assert memory.rows_by_length()([1, 500]).tolist() == [9, 6]


def test_lengths_beyond_the_fit_are_refused(network):
    _, memory = network
    with pytest.raises(BudgetError, match="length 129 is above 128"):
        memory.max_batch(129)
    with pytest.raises(BudgetError, match="length 129 is above 128"):
        memory.peak(1, 129)


def test_a_limit_below_one_row_says_what_takes_the_most_and_what_helps(network):
    _, memory = network
    memory = dataclasses.replace(memory, limit=memory.state_bytes + 1_000)
    with pytest.raises(BudgetError, match=r"below one row of length 128.*Most of it is") as raised:
        memory.max_batch(128)
    assert "To lower it, use " in str(raised.value)
    with pytest.raises(BudgetError, match="below one row"):
        memory.max_tokens()
