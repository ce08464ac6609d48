"""The same job under several strategies, measured beside their controls.

A `Task` describes what is trained; a `Strategy` its batches, order and precision. `compare` trains
a task under several strategies, in turns.
"""

from batchwright.compare.arm import Evaluation, Spent
from batchwright.compare.comparison import Comparison, compare
from batchwright.compare.figures import Interval, Summary, summarize
from batchwright.compare.race import Outcome, Settings
from batchwright.compare.strategy import Strategy
from batchwright.compare.task import Task, warm_up_then_decay
from batchwright.compare.task_checks import check_task
from batchwright.compare.task_file import load_task

__all__ = [
    "Comparison",
    "Evaluation",
    "Interval",
    "Outcome",
    "Settings",
    "Spent",
    "Strategy",
    "Summary",
    "Task",
    "check_task",
    "compare",
    "load_task",
    "summarize",
    "warm_up_then_decay",
]
