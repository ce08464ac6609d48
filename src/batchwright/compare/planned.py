"""What a strategy plans, before anything is trained: batches, shapes, costs, and whom it draws."""

from typing import Any

import numpy as np

from batchwright.compare.strategy import Strategy
from batchwright.compare.task import Task
from batchwright.drawing import coverage
from batchwright.order import Curriculum, Sequential, Shuffle
from batchwright.planner import Planner
from batchwright.report.cost_facts import step_costs
from batchwright.report.shape_facts import shape_facts

MOST_DRAWS = 20_000_000
"""Draws of a run that are counted at most: more would take longer than they tell."""

POINTS = 50
"""Points of a curve at most."""

_COVERED = ("eligible", "draws", "drawn", "deferred", "seen", "most", "effective_samples")


def planned_facts(task: Task, strategy: Strategy, *, seed: int) -> dict[str, Any]:
    """Gather what a strategy plans.

    Args:
        task: What is trained.
        strategy: In which way.
        seed: Of the plans.

    Returns:
        Of the first epoch: `num_batches`, `num_steps`, `padding`, `dispersion`, `shapes`,
        `shapes_of_batches` as `shape_facts` returns them, and `step_costs`. Of the run: `pacing`,
        the share that is `eligible` at some `progress` of it (None: no curriculum), and
        `coverage`, whom `epochs` of it draw: fields of `Coverage`, and `drawn`, all draws until
        their end (None: every sample once an epoch, or more draws than `MOST_DRAWS`). JSON as it
        stands. A plan; of an order that draws, one for each epoch.

    Raises:
        StrategyError: If the task does not allow the strategy.
        BudgetError: If a sample alone exceeds the budget.
    """
    planner = strategy.planner(task, seed=seed)
    plan = planner(0)
    stats = plan.stats(task.sizes)
    return {
        "num_batches": stats.num_batches,
        "num_steps": stats.num_steps,
        "padding": 1 - stats.efficiency,
        "dispersion": stats.dispersion,
        "shapes": stats.shapes,
        "shapes_of_batches": shape_facts(plan, task.sizes),
        "step_costs": step_costs(plan, task.sizes),
        "pacing": _pacing(planner, task.epochs),
        "coverage": _coverage(planner, task.epochs),
    }


def _pacing(planner: Planner, epochs: int) -> dict[str, Any] | None:
    """Return how much of the data a curriculum admits in the course of a run."""
    order = planner.order
    if not isinstance(order, Curriculum):
        return None
    progress = np.linspace(0, 1, POINTS + 1)
    of_order = progress * epochs / order.epochs
    low, high = order.band
    paced = order.eligible(np.minimum(of_order, 1.0)) / planner.num_samples
    # Once it is over, a curriculum is a plain shuffle of all that it ever draws from.
    eligible = np.where(of_order < 1, paced, high - low)
    return {"progress": progress.tolist(), "eligible": eligible.tolist()}


def _coverage(planner: Planner, epochs: int) -> dict[str, Any] | None:
    draws_all = isinstance(planner.order, Shuffle | Sequential)
    if draws_all or epochs * planner.num_samples > MOST_DRAWS:
        return None
    covered = coverage(planner, epochs=epochs)
    facts = covered.facts() | {"drawn": np.cumsum(covered.draws).tolist()}
    chosen = np.unique(np.linspace(0, epochs - 1, min(epochs, POINTS)).round().astype(int))
    return {"epochs": chosen.tolist()} | {
        name: [facts[name][epoch] for epoch in chosen.tolist()] for name in _COVERED
    }
