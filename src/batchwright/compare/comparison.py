"""The same task under several strategies, seed after seed."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeAlias

import numpy as np

from batchwright.compare.arm import RaceArm
from batchwright.compare.arm_process import can_start
from batchwright.compare.probes import Facts
from batchwright.compare.race import Outcome, Race, Settings
from batchwright.compare.strategy import Strategy
from batchwright.compare.task import Task
from batchwright.errors import TaskError
from batchwright.order import Curriculum, Sequential, Shuffle
from batchwright.stats.coverage import coverage
from batchwright.stats.shapes import shape_stats, step_costs
from batchwright.typing import State

Watch: TypeAlias = Callable[["Comparison", Race, RaceArm], None]
"""Called after each turn: to show it, to save, or to stop by raising."""

MOST_DRAWS = 20_000_000
"""Draws of a run that are counted at most; counting more would take too long."""

POINTS = 50
"""Points of a curve at most."""

SHARED = "BATCHWRIGHT_SHARED_PROCESS"
"""Environment variable: if it is set, and not to 0, arms share a process unless asked otherwise."""

_COVERED = ("eligible", "draws", "drawn", "deferred", "seen", "most", "effective_samples")


@dataclass
class Comparison:
    """What has been measured, and what is left.

    `modes`, `plans` and `audits` are by name of the strategy.
    """

    seeds: tuple[int, ...]  # of the runs
    runs: list[list[Outcome]] = field(default_factory=list)  # the outcomes of each finished seed
    unfinished: list[Outcome] = field(default_factory=list)  # of the seed in progress
    state: State | None = None  # to resume that seed. None: it starts again
    modes: dict[str, str] = field(default_factory=dict)  # precision of each strategy
    plans: dict[str, Facts] = field(default_factory=dict)  # see `planned_facts`
    audits: dict[str, Facts] = field(default_factory=dict)  # see `audited`
    shared_process: bool = False  # whether arms shared a process: see `shares_process`

    @property
    def is_complete(self) -> bool:
        """Whether all seeds are done."""
        return len(self.runs) == len(self.seeds)


def compare(
    task: Task,
    strategies: Sequence[Strategy | str],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    settings: Settings | None = None,
    watch: Watch | None = None,
    resume: Comparison | None = None,
    shared_process: bool | None = None,
) -> Comparison:
    """Train a task under several strategies, and measure their speed and their metric.

    Arms of one seed begin with the same weights and train on as many samples in as many updates
    within the same memory budget. They take turns update by update, so that other load on the
    machine affects all alike, and each is charged only its own seconds. Plans are looked at before
    the first run, losses of half precision after the last.

    The arms of a task that `load_task` has read get a process each, which reads the task as well:
    the seconds and memory of an arm are what it takes alone.

    Args:
        task: The task.
        strategies: The first is the one that others are compared with.
        seeds: Of weights and batches, one run each.
        settings: How long arms train, and how often they are evaluated.
        watch: Called after each turn. If it raises, what was measured stays in `resume`.
        resume: The result of an earlier call with the same arguments, which is returned.
        shared_process: Whether arms share this process, which takes less memory, and where an arm
            finds what another one has prepared. None: only if they have to; see `shares_process`.

    Raises:
        TaskError: If the task does not allow a strategy, there is none, or two have the same name.
        BudgetError: If a sample alone exceeds the task's budget.
    """
    made = [each if isinstance(each, Strategy) else Strategy.named(each) for each in strategies]
    names = [each.name for each in made]
    if not names or len({*names}) < len(names):
        raise TaskError(f"strategies={names}: expected one at least, each with its own name.")
    settings = Settings() if settings is None else settings
    comparison = Comparison(tuple(seeds)) if resume is None else resume
    shared = comparison.shared_process = shares_process(task, made, shared_process=shared_process)
    if not comparison.is_complete:
        first = comparison.seeds[0]
        comparison.plans = {each.name: planned_facts(task, each, seed=first) for each in made}
    while not comparison.is_complete:
        seed = comparison.seeds[len(comparison.runs)]
        with Race(
            task,
            made,
            seed=seed,
            settings=settings,
            modes=comparison.modes,
            processes=not shared,
        ) as race:
            comparison.modes = race.modes
            if comparison.state is not None:
                race.load_state_dict(comparison.state)
            for arm in race.turns():
                if watch is not None:
                    watch(comparison, race, arm)
            comparison.runs.append(race.outcomes())
            comparison.unfinished, comparison.state = [], None
            if comparison.is_complete:
                comparison.audits = race.audits()
    return comparison


def shares_process(
    task: Task, strategies: Sequence[Strategy], *, shared_process: bool | None = None
) -> bool:
    """Return whether the arms of a comparison share this process.

    They have to where the task is not from a file, or a strategy cannot be passed on. Otherwise
    they do if asked, or if the environment variable BATCHWRIGHT_SHARED_PROCESS is set.
    """
    if shared_process is None:
        shared_process = os.environ.get(SHARED, "0") not in {"", "0"}
    return shared_process or not can_start(task, strategies)


def planned_facts(task: Task, strategy: Strategy, *, seed: int) -> Facts:
    """Describe the plans of a strategy as JSON values, before anything is trained.

    Of the first epoch there are statistics; of the run, `pacing`, the share of samples that is
    eligible at points of its progress (None: no curriculum), and `coverage`: for some epochs, the
    fields of `Coverage` and all draws until their end (None: each epoch has every sample once, or
    there are more than `MOST_DRAWS`).
    """
    planner, epochs = strategy.planner(task, seed=seed), task.epochs
    plan, order = planner(0), planner.order
    stats = plan.stats(task.sizes)
    facts: Facts = {
        "num_batches": stats.num_batches,
        "num_steps": stats.num_steps,
        "padding": 1 - stats.efficiency,
        "dispersion": stats.dispersion,
        "shapes": stats.shapes,
        "budget": stats.budget,
        "shapes_of_batches": asdict(shape_stats(plan, task.sizes)),
        "step_costs": asdict(step_costs(plan, task.sizes)),
        "pacing": None,
        "coverage": None,
    }
    if isinstance(order, Curriculum):
        progress = np.linspace(0, 1, POINTS + 1)
        of_order = progress * epochs / order.epochs
        low, high = order.band
        paced = order.eligible(np.minimum(of_order, 1.0)) / planner.num_samples
        # Once it is over, a curriculum is a plain shuffle of all that it ever draws from.
        eligible = np.where(of_order < 1, paced, high - low)
        facts["pacing"] = {"progress": progress.tolist(), "eligible": eligible.tolist()}
    draws_all = isinstance(order, Shuffle | Sequential)
    if not draws_all and epochs * planner.num_samples <= MOST_DRAWS:
        covered = coverage(planner, epochs=epochs)
        found = covered.facts() | {"drawn": np.cumsum(covered.draws).tolist()}
        chosen = np.unique(np.linspace(0, epochs - 1, min(epochs, POINTS)).round().astype(int))
        facts["coverage"] = {"epochs": chosen.tolist()} | {
            name: [found[name][epoch] for epoch in chosen] for name in _COVERED
        }
    return facts
