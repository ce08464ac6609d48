"""Figures of updates while a run goes on: those of the plan's own statistics."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batchwright as bw
from batchwright.plan_source import as_source
from batchwright.resume import Position, chart
from batchwright.stats.running import RunningFigures, Spread

BATCHINGS = (
    bw.TokenBudget(64, pad_to_multiple_of=4),
    bw.TokenBudget(40, oversize="truncate"),
    bw.TokenBudget(16, oversize="drop"),
    bw.Packing(16, oversize="drop"),
    bw.Packing(60),
    bw.Packing(16, oversize="split"),
    bw.FixedSize(3),
    bw.Buckets(num_shapes=3, max_tokens=64),
)
SETTINGS = st.tuples(st.sampled_from(BATCHINGS), st.integers(1, 3), st.integers(1, 3))


def running(planner, consumed=0):
    """Measure what is left of the first epoch after some batches of each rank."""
    course = chart(as_source(planner), Position(0), planner.world_size)
    rest = chart(as_source(planner), course.after(consumed), planner.world_size)
    return course, rest.running()


@settings(max_examples=40)
@given(SETTINGS, st.integers(0, 2**16))
def test_an_epoch_measured_update_by_update_is_that_of_its_statistics(setting, seed):
    batching, ranks, accumulate = setting
    lengths = np.random.default_rng(seed).lognormal(2.2, 0.8, 90).clip(1, 60).astype(int)
    options = {"world_size": ranks, "accumulate": accumulate, "seed": seed, "last": "repeat"}
    planner = bw.Planner(lengths, batching=batching, **options)
    plan, (course, measured) = planner(0), running(planner)
    stats = plan.stats(lengths)
    every = range(0, len(course), accumulate)
    figures = [measured.of(first, first + accumulate) for first in every]
    assert sum(each.tokens for each in figures) == stats.num_tokens
    assert sum(each.padded_tokens for each in figures) == stats.padded_tokens
    whole = measured.of(0, len(course))
    assert whole.padding == pytest.approx(1 - stats.efficiency)
    if not plan.repeated.size and len(figures) > 1:
        assert whole.dispersion == pytest.approx(stats.dispersion, rel=1e-6, abs=1e-9)
    for first in (len(course) // 2, 0, len(course) - 1):  # in any sequence
        laid_out = plan[first * ranks : (first + 1) * ranks].stats(lengths)
        assert measured.of(first, first + 1).padded_tokens == laid_out.padded_tokens


def test_what_is_left_after_a_resume_is_measured():
    lengths = np.random.default_rng(0).integers(1, 30, 200)
    planner = bw.Planner(lengths, max_tokens=64, world_size=2, accumulate=2)
    (_, whole), (_, rest) = running(planner), running(planner, consumed=4)
    assert rest.of(0, 2) == whole.of(4, 6)
    # On other ranks, in smaller batches.
    course = chart(as_source(planner), Position(0), 2)
    smaller = as_source(bw.Planner(lengths, max_tokens=32, accumulate=2))
    left = chart(smaller, course.after(4), 1)
    measured = left.running()
    tokens = [measured.of(first, first + 1).tokens for first in range(len(left))]
    done = sum(whole.of(first, first + 1).tokens for first in range(4))
    assert sum(tokens) + done == lengths.sum()
    assert measured.of(0, len(left)).padded_tokens <= 32 * len(left)


def test_columns_are_measured_together():
    lengths = np.random.default_rng(0).integers(1, 30, (80, 2))
    planner = bw.Planner(lengths, max_tokens=200, accumulate=2)
    course, measured = running(planner)
    found, stats = measured.of(0, len(course)), planner(0).stats(lengths)
    assert (found.tokens, found.padded_tokens) == (stats.num_tokens, stats.padded_tokens)
    assert found.dispersion == pytest.approx(stats.dispersion, rel=1e-6)


def test_updates_sorted_by_length_stand_out():
    lengths = np.random.default_rng(0).lognormal(4, 0.8, 4_000).clip(1, 999).astype(int)
    batching = bw.FixedSize(8)

    def dispersions(data):
        planner = bw.Planner(data, batching=batching, order=bw.Sequential(), accumulate=4)
        course, measured = running(planner)
        return [measured.of(each, each + 4).dispersion for each in range(0, len(course), 4)]

    assert np.mean(dispersions(lengths)) == pytest.approx(1, abs=0.4)
    assert np.mean(dispersions(np.sort(lengths))) > 10
    assert set(dispersions(np.full(64, 7))) == {1.0}


def test_long_samples_and_those_of_an_index_are_measured():
    lengths = np.array([70_000, 3, 70_000, 90_000] * 4)
    planner = bw.Planner(bw.LengthIndex.build(lengths), max_tokens=200_000)
    course, measured = running(planner)
    found, stats = measured.of(0, len(course)), planner(0).stats(lengths)
    assert found.tokens == lengths.sum()
    assert found.dispersion == pytest.approx(stats.dispersion, rel=1e-6)


def test_a_plan_holds_no_lengths():
    assert chart(as_source(bw.plan([3, 4], max_tokens=8)), Position(0), 1).running() is None


def test_updates_between_are_not_measured():
    lengths = np.random.default_rng(0).integers(1, 9, 5_000)
    plan = bw.plan(lengths, max_tokens=16)
    measured = RunningFigures(plan, lengths, Spread.of(lengths, plan))
    measured.of(0, 1)
    assert measured._last == 256
    measured.of(900, 901)
    assert (measured._first, measured._last) == (900, 901)
    measured.of(901, 902)
    assert (measured._first, measured._last) == (901, 901 + 256)
