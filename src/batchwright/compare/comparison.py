"""The same task under several strategies, seed after seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from batchwright.compare.arm import Arm
from batchwright.compare.planned import planned_facts
from batchwright.compare.race import Outcome, Race, Settings
from batchwright.compare.strategy import Strategy
from batchwright.compare.task import Task

Watch: TypeAlias = Callable[["Comparison", Race, Arm], None]
"""Told of each turn: to show it, to save, or to stop by raising."""


@dataclass
class Comparison:
    """What has been measured, and what is left.

    Attributes:
        seeds: Of the runs.
        runs: Of the seeds that are done: what each arm did.
        unfinished: Of the seed that was begun, as far as it went; empty if there is none.
        state: To go on with that seed. None: it begins anew.
        modes: Name of a strategy → the precision that was measured for it.
        plans: Name of a strategy → what it plans: see `planned_facts`.
        audits: Name of a strategy in half precision → what was lost in it: see `audited`.
    """

    seeds: tuple[int, ...]
    runs: list[list[Outcome]] = field(default_factory=list)
    unfinished: list[Outcome] = field(default_factory=list)
    state: dict[str, Any] | None = None
    modes: dict[str, str] = field(default_factory=dict)
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    audits: dict[str, dict[str, Any]] = field(default_factory=dict)

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
) -> Comparison:
    """Train a task under several strategies, and keep what each took and reached.

    Arms of one seed begin with the same weights, train on as many samples in as many updates
    within the same memory budget, and take turns update by update, so that whatever else the
    machine does hits all alike. Each is charged only its own seconds. What it plans is looked at
    before the first run, what half precision loses after the last.

    Args:
        task: What is trained.
        strategies: In which ways; the first is the one that others are compared with.
        seeds: Of weights and batches, one run each.
        settings: How long arms train, and how often they are looked at.
        watch: Told of each turn. If it raises, what was measured stays in `resume`.
        resume: What an earlier call had measured, with the same arguments.

    Returns:
        The same object as `resume`, or a new one.

    Raises:
        StrategyError: If the task does not allow a strategy.
        BudgetError: If a sample alone exceeds the task's budget.
    """
    made = [each if isinstance(each, Strategy) else Strategy.named(each) for each in strategies]
    settings = Settings() if settings is None else settings
    comparison = Comparison(tuple(seeds)) if resume is None else resume
    if not comparison.is_complete:
        first = comparison.seeds[0]
        comparison.plans = {each.name: planned_facts(task, each, seed=first) for each in made}
    while not comparison.is_complete:
        seed = comparison.seeds[len(comparison.runs)]
        race = Race(task, made, seed=seed, settings=settings, modes=comparison.modes)
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
