"""One sample of 10⁵ tokens among short ones: no default is decided by it."""

from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batchwright as bw
from batchwright.budgets import suggest
from batchwright.stats.dial import mixing_dial
from batchwright.stats.plan_facts import plan_facts
from batchwright.streams import stream
from tests.cli.command import invoke
from tests.stress.profiles import KINDS

LONG = 10**5


@st.composite
def with_one_long_row(draw):
    """Usual lengths of several shapes, and the place of a row that is made long."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind, size = (
        draw(st.sampled_from(sorted(set(KINDS) - {"power law"}))),
        draw(st.integers(200, 600)),
    )
    values = np.clip(np.rint(KINDS[kind](rng, size)), 1, 2_000).astype(np.int64)
    return values, int(rng.integers(size))


def made_long(values, place):
    longer = values.copy()
    longer[place] = LONG
    return longer


def largest(plan, lengths, place):
    """Return what the largest batch takes that does not hold the long row."""
    batches = [batch for batch in plan if place not in batch]
    return max((lengths[batch].max() * batch.size for batch in batches), default=0)


@settings(max_examples=15)
@given(drawn=with_one_long_row(), batch_size=st.sampled_from([1, 8, 32]))
def test_batches_of_a_planner_from_a_batch_size_are_no_larger_than_plain_ones(drawn, batch_size):
    values, place = drawn
    lengths = made_long(values, place)
    plan = bw.plan(lengths, batch_size=batch_size)
    others = np.delete(values, place)
    assert largest(plan, lengths, place) <= 4 * batch_size * others.max()
    usual = bw.plan(values, batch_size=batch_size)
    assert 0.8 * len(usual) - 2 <= len(plan)


@settings(max_examples=15)
@given(drawn=with_one_long_row())
def test_suggested_budgets_are_those_without_it_or_four_times_as_large(drawn):
    values, place = drawn
    lengths = made_long(values, place)
    others = suggest(np.delete(values, place))
    found = suggest(lengths)
    assert found.max_tokens <= 4 * 8 * others.longest
    assert found.max_tokens <= max(found.usual, lengths.sum() / 50)


@pytest.mark.slow
@settings(max_examples=3)
@given(drawn=with_one_long_row())
def test_the_facts_of_a_plan_and_the_dial_are_those_of_the_others(drawn):
    values, place = drawn
    lengths = made_long(values, place)
    budget = suggest(values, batch_size=8).max_tokens
    batching = bw.TokenBudget(budget, oversize="truncate")
    facts = plan_facts(bw.plan(lengths, batching=batching), lengths)
    usual = plan_facts(bw.plan(values, batching=batching), values)
    plain, expected = facts.measured.plain_batches, usual.measured.plain_batches
    assert plain.batch_size >= expected.batch_size // 4
    assert 0 < plain.efficiency <= 1
    for position in mixing_dial(lengths, batching, accumulate=4, epochs=1):
        assert np.isfinite([position.efficiency, position.dispersion]).all()


def test_shapes_are_for_the_others():
    values = np.random.default_rng(0).integers(5, 200, 4_000)
    lengths = made_long(values, 7)
    budget = suggest(lengths).max_tokens
    batching = bw.Buckets(8, max_tokens=budget, oversize="truncate")
    shapes = bw.plan(lengths, batching=batching).layout.shapes
    assert sum(length <= 200 for _, length in shapes) >= 7


def test_a_stream_cuts_it_or_leaves_it_out():
    samples = [[0] * length for length in (3, 5, LONG, 4, 2)]
    for oversize in ("drop", "truncate"):
        batching = bw.TokenBudget(10, oversize=oversize)
        found = list(stream(samples, batching=batching, buffer_size=4))
        assert sum(map(len, found)) == (4 if oversize == "drop" else 5)


@pytest.mark.slow
def test_commands_without_a_budget_are_not_decided_by_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).integers(5, 200, 4_000)
    np.save("long.npy", made_long(values, 7))
    for command in (
        ("plan", "long.npy", "--batch-size", 32),
        ("plan", "long.npy", "--batch-size", 32, "--oversize", "truncate"),
        ("advise", "long.npy"),
    ):
        result = invoke(*command, "--json")
        assert result.exit_code == 0, result.stderr


@pytest.mark.skipif(find_spec("transformers") is None, reason="needs Transformers")
@pytest.mark.slow
def test_evaluation_of_a_trainer_is_not_decided_by_it():
    from batchwright.integrations.transformers.evaluation import evaluation_batching

    values = np.random.default_rng(0).integers(5, 200, 4_000)
    lengths = made_long(values, 7)
    assert evaluation_batching(lengths, 8, None).max_tokens == LONG  # which has to fit
    assert evaluation_batching(values, 8, None).max_tokens == 8 * 199
    assert evaluation_batching(values, 8, 4_096).max_tokens == 4_096
