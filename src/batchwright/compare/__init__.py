"""The same job under several strategies: described once, measured with its controls.

A `Task` says what is trained, on what, and how well; a `Strategy` in which batches, in which order
and at which precision. `compare` trains the one under several of the others, in turns.
"""

from batchwright.compare.arm import Evaluation, Spent
from batchwright.compare.comparison import Comparison, compare
from batchwright.compare.figures import Summary, summarize
from batchwright.compare.race import Outcome, Settings
from batchwright.compare.ratios import Interval
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
