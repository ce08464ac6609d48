from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.stats import dispersion
from batchwright.updates import rank_imbalance
from tests import reference
from tests.strategies import jobs


@pytest.mark.slow
@given(jobs(min_tokens=16), st.integers(0, 20))
def test_every_figure_against_the_slow_way(job, epoch):
    try:
        plan = job.planner()(epoch)
    except (bw.errors.PlanError, bw.errors.BudgetError):
        return
    stats = plan.stats(job.lengths)
    layout = plan.layout
    entries = plan.entry_lengths(job.lengths).tolist()
    batches = [entries[a:b] for a, b in pairwise(plan.offsets.tolist())]
    measure = reference.packed_tokens if layout.kind == "packed" else reference.padded_tokens
    laid_out = [measure(batch, layout.multiple) for batch in batches]
    update = job.world_size * job.accumulate
    starts = range(0, len(batches), update)
    steps = [[x for batch in batches[i : i + update] for x in batch] for i in starts]

    assert stats.num_batches == len(batches)
    assert stats.num_steps == len(steps)
    assert stats.num_tokens == sum(entries)
    assert stats.padded_tokens == sum(laid_out)
    assert stats.efficiency == pytest.approx(sum(entries) / sum(laid_out))
    assert stats.max_batch_tokens == max(laid_out)
    assert stats.budget is None or stats.max_batch_tokens <= stats.budget
    assert stats.samples_per_batch_mean == pytest.approx(np.mean([len(b) for b in batches]))
    assert stats.samples_per_batch_std == pytest.approx(np.std([len(b) for b in batches]))
    assert stats.samples_per_batch_max == max(len(b) for b in batches)
    assert stats.step_tokens_mean == pytest.approx(np.mean([sum(step) for step in steps]))
    if layout.kind == "packed":
        assert stats.shapes == len(set(laid_out))
    else:
        assert stats.shapes == len({(len(b), t) for b, t in zip(batches, laid_out, strict=True)})
    assert stats.dispersion == pytest.approx(reference.dispersion(steps), rel=1e-6, abs=1e-9)
    world = job.world_size, job.accumulate
    assert stats.imbalance_padded == pytest.approx(reference.imbalance(laid_out, *world))
    squares = [sum(reference.rounded(x, layout.multiple) ** 2 for x in b) for b in batches]
    if layout.kind == "padded":
        squares = [t * t / len(b) for b, t in zip(batches, laid_out, strict=True)]
    assert stats.imbalance_quadratic == pytest.approx(reference.imbalance(squares, *world))
    assert stats.lower_bound <= stats.num_batches
    assert stats.gap == pytest.approx(stats.num_batches / stats.lower_bound - 1)


@pytest.mark.slow
@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(20, 60))
def test_the_lower_bound_is_one(lengths, budget):
    padded = bw.plan(lengths, max_tokens=budget).stats(lengths)
    packed = bw.plan(lengths, batching=bw.Packing(budget)).stats(lengths)
    assert padded.lower_bound <= reference.fewest_batches(lengths, budget) <= padded.num_batches
    assert packed.lower_bound <= reference.fewest_rows(lengths, budget) <= packed.num_batches


def test_a_plain_shuffle_has_dispersion_one():
    """The denominator is what random updates of as many tokens really show, by drawing them."""
    rng = np.random.default_rng(0)
    lengths = np.clip(np.rint(rng.lognormal(5.5, 0.9, 40_000)), 1, 2048).astype(np.int64)
    seen = []
    for _ in range(60):
        order = rng.permutation(lengths.size)
        ends = np.cumsum(lengths[order])
        cuts = np.searchsorted(ends, np.arange(1, 50) * (ends[-1] / 50))
        steps = np.concatenate(([0], cuts, [lengths.size]))
        seen.append(dispersion(lengths[order], steps))
    assert np.mean(seen) == pytest.approx(1, abs=0.06)


def test_a_few_very_long_samples_do_not_decide_the_dispersion():
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(3, 0.75, 8_000).astype(np.int64) + 1
    lengths[:4] = [9_000, 12_000, 20_000, 36_314]
    mixes = {}
    for name, each in {"shuffled": rng.permutation(lengths), "sorted": np.sort(lengths)}.items():
        mixes[name] = dispersion(each, np.arange(0, 8_001, 32))
    assert mixes["shuffled"] == pytest.approx(1, abs=0.3)
    assert mixes["sorted"] > 5


def test_dispersion_against_the_slow_way():
    for steps in (
        ([1] * 60 + [2] * 50, [900, 3]),
        [[3, 8], [5, 5, 2], [9]],
        [[1, 20], [4]],
        [[7, 7], [7, 1]],
    ):
        offsets = np.cumsum([0, *map(len, steps)])
        expected = reference.dispersion(steps)
        assert dispersion(np.concatenate(steps), offsets) == pytest.approx(expected, rel=1e-9)


def test_equal_lengths_or_one_update_are_a_plain_shuffle():
    assert bw.plan([5] * 20, max_tokens=20).stats([5] * 20).dispersion == 1
    lengths = [5, 3, 2, 8]
    assert bw.plan(lengths, max_tokens=100).stats(lengths).dispersion == 1


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.lists(st.floats(0.5, 9), min_size=1, max_size=30),
)
def test_rank_imbalance_against_the_slow_way(world_size, accumulate, costs):
    assert rank_imbalance(np.array(costs), world_size, accumulate) == pytest.approx(
        reference.imbalance(costs, world_size, accumulate)
    )


def test_the_figures_print_as_a_table_of_their_names():
    batching = bw.TokenBudget(10, oversize="drop")
    stats = bw.plan([5, 3, 8, 2, 7, 1, 30], batching=batching).stats([5, 3, 8, 2, 7, 1, 30])
    rows = dict(line.split(maxsplit=1) for line in str(stats).splitlines())
    assert list(rows) == [field.name for field in fields(stats)]
    assert rows["num_tokens"] == "26"
    assert rows["efficiency"] == "89.7 %"
    assert rows["dropped_by_reason"] == "oversize 1"
    assert len({len(line) for line in str(stats).splitlines()}) == 1
