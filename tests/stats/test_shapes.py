"""Shapes are those of the plan's batches, counted once each, and few enough for a page."""

import json
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, reject

import batchwright as bw
from batchwright._states import built
from batchwright.stats.shapes import COMMONEST, ShapeStats, shape_stats
from tests.strategies import columns, jobs


def shapes_of(plan, lengths):
    """Return the shape, real and laid-out tokens of each batch, one batch after the other."""
    entries = plan.entry_lengths(lengths)
    bounds = zip(plan.offsets[:-1], plan.offsets[1:], strict=True)
    for batch in (entries[a:b] for a, b in bounds):
        rounded = -(-batch // plan.layout.multiple) * plan.layout.multiple
        if plan.layout.kind == "packed":
            yield (1, int(rounded.sum())), int(batch.sum()), int(rounded.sum()), len(batch)
        else:
            shape = len(batch), int(rounded.max())
            yield shape, int(batch.sum()), shape[0] * shape[1], len(batch)


@pytest.mark.slow
@given(job=jobs())
def test_shapes_are_counted_as_one_would_count_them(job):
    try:
        plan = job.planner()(0)
    except (bw.errors.PlanError, bw.errors.BudgetError):
        reject()
    facts = shape_stats(plan, job.lengths)
    assert built(json.loads(json.dumps(asdict(facts), allow_nan=False)), ShapeStats) == facts
    seen = list(shapes_of(plan, job.lengths))
    counted = Counter(shape for shape, *_ in seen)
    assert facts.distinct == len(counted) == plan.stats(job.lengths).shapes
    listed = facts.commonest
    assert len(listed) == min(COMMONEST, len(counted))
    assert [each.batches for each in listed] == [
        count for _, count in counted.most_common(COMMONEST)
    ]
    for each in listed:
        own = [one for one in seen if one[0] == (each.rows, each.length)]
        assert each.batches == len(own)
        assert each.share == len(own) / len(plan)
        assert each.samples == sum(one[3] for one in own)
        real, laid_out = sum(one[1] for one in own), sum(one[2] for one in own)
        assert each.padding == pytest.approx(1 - real / laid_out)
    grid = facts.grid
    assert sum(count for *_, count in grid.cells) == len(plan)
    for (rows, length), _, _, samples in seen:
        up = samples if facts.kind == "packed" else rows
        assert any(
            grid.lengths[i] <= length < grid.lengths[i + 1]
            and grid.rows[j] <= up < grid.rows[j + 1]
            for i, j, _ in grid.cells
        )


@pytest.mark.slow
@given(columns=columns(min_size=4))
def test_several_columns_are_listed_one_by_one(columns):
    plan = bw.plan(columns, max_tokens=400)
    facts = shape_stats(plan, columns)
    assert built(json.loads(json.dumps(asdict(facts), allow_nan=False)), ShapeStats) == facts
    assert facts.distinct == plan.stats(columns).shapes
    assert all(len(each.length) == columns.shape[1] for each in facts.commonest)


@pytest.mark.slow
def test_a_million_batches_are_as_few_facts():
    lengths = np.random.default_rng(0).integers(1, 4_000, 1_000_000)
    plan = bw.Plan(np.arange(lengths.size), np.arange(lengths.size + 1))
    facts = shape_stats(plan, lengths)
    assert facts.distinct == np.unique(lengths).size
    assert len(json.dumps(asdict(facts))) < 10_000
