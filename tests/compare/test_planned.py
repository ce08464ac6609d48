"""What strategies plan is what their arms train on; a curriculum's draws are counted."""

import json

import numpy as np
import pytest

import batchwright as bw
from batchwright.compare import Settings, Strategy, compare
from batchwright.compare.comparison import POINTS, planned_facts
from tests.compare.conftest import make_task


def facts_of(task, name, seed=0):
    return planned_facts(task, Strategy.named(name), seed=seed)


@pytest.mark.parametrize("name", ["plain", "grouped", "planned", "buckets", "planned+curriculum"])
def test_facts_are_those_of_the_first_epoch(task, name):
    facts = facts_of(task, name, seed=3)
    assert json.loads(json.dumps(facts, allow_nan=False)).keys() == facts.keys()
    stats = Strategy.named(name).planner(task, seed=3)(0).stats(task.sizes)
    assert facts["num_batches"] == stats.num_batches
    assert facts["padding"] == 1 - stats.efficiency
    assert facts["shapes"] == facts["shapes_of_batches"]["distinct"] == stats.shapes
    assert facts["step_costs"]["num_steps"] == facts["num_steps"] == stats.num_steps


def test_only_orders_that_draw_have_pacing_and_coverage(task):
    for name in ("plain", "planned", "planned+sequential"):
        facts = facts_of(task, name)
        assert facts["pacing"] is facts["coverage"] is None


def test_pacing_is_the_order_s_own_and_coverage_that_of_the_library():
    task = make_task(epochs=6)
    facts = facts_of(task, "planned+curriculum")
    planner = Strategy.named("planned+curriculum").planner(task, seed=0)
    pacing = facts["pacing"]
    for progress, eligible in zip(pacing["progress"], pacing["eligible"], strict=True):
        expected = planner.order.eligible(min(1.0, progress * 6 / planner.order.epochs))
        assert eligible == pytest.approx(int(expected) / 240)
    covered = bw.coverage(planner, epochs=6)
    assert facts["coverage"]["seen"] == covered.seen.tolist()
    assert facts["coverage"]["drawn"] == np.cumsum(covered.draws).tolist()
    assert facts["coverage"]["epochs"] == list(range(6))
    anti = facts_of(task, "planned+anticurriculum")
    assert anti["pacing"] == pacing
    assert anti["coverage"] != facts["coverage"]


@pytest.mark.slow
def test_long_runs_are_described_by_few_points():
    task = make_task(num_samples=3_000, epochs=60)
    covered = facts_of(task, "planned+curriculum")["coverage"]
    assert len(covered["epochs"]) == POINTS
    assert covered["epochs"][-1] == 59
    assert covered["drawn"][-1] > 50 * 3_000


@pytest.mark.slow
def test_a_comparison_keeps_what_it_planned(task):
    settings = Settings(evaluations=2, peaks=False)
    result = compare(task, ["plain", "planned"], seeds=(5,), settings=settings)
    assert result.plans == {name: facts_of(task, name, seed=5) for name in ("plain", "planned")}
    assert result.audits == {}
