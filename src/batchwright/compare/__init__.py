"""The same job under several strategies, measured beside their controls.

A `Task` describes what is trained; a `Strategy` its batches, order and precision. `compare` trains
a task under several strategies, in turns.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchwright.compare.arm import Evaluation, Spent
    from batchwright.compare.comparison import Comparison, compare
    from batchwright.compare.figures import Interval, Summary, summarize
    from batchwright.compare.race import Outcome, Settings
    from batchwright.compare.strategy import Strategy
    from batchwright.compare.task import Task, warm_up_then_decay
    from batchwright.compare.task_checks import check_task
    from batchwright.compare.task_file import load_task
    from batchwright.compare.verdicts import Headline, Verdict

_LAZY = {
    "Comparison": "comparison",
    "Evaluation": "arm",
    "Headline": "verdicts",
    "Interval": "figures",
    "Outcome": "race",
    "Settings": "race",
    "Spent": "arm",
    "Strategy": "strategy",
    "Summary": "figures",
    "Task": "task",
    "Verdict": "verdicts",
    "check_task": "task_checks",
    "compare": "comparison",
    "load_task": "task_file",
    "summarize": "figures",
    "warm_up_then_decay": "task",
}
"""Imported when they are first used: what is said of a result is said without torch."""

__all__ = [
    "Comparison",
    "Evaluation",
    "Headline",
    "Interval",
    "Outcome",
    "Settings",
    "Spent",
    "Strategy",
    "Summary",
    "Task",
    "Verdict",
    "check_task",
    "compare",
    "load_task",
    "summarize",
    "warm_up_then_decay",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'batchwright.compare' has no attribute {name!r}")
    return getattr(import_module(f"batchwright.compare.{_LAZY[name]}"), name)
