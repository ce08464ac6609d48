"""Efficient training, planned: which samples, in which batches, in which order."""

from batchwright.batching import FixedSize, Packing, TokenBudget
from batchwright.errors import (
    BatchwrightError,
    BudgetError,
    ColumnNotFoundError,
    LengthsError,
    MissingExtraError,
    PlanError,
    PlanFileError,
    PlanMismatchError,
    SourceError,
    SourceNotFoundError,
)
from batchwright.order import Sequential, Shuffle
from batchwright.planner import Planner, plan
from batchwright.plans import Plan
from batchwright.sharding import equalize
from batchwright.stats import PlanStats

__version__ = "0.1.0"

__all__ = [
    "BatchwrightError",
    "BudgetError",
    "ColumnNotFoundError",
    "FixedSize",
    "LengthsError",
    "MissingExtraError",
    "Packing",
    "Plan",
    "PlanError",
    "PlanFileError",
    "PlanMismatchError",
    "PlanStats",
    "Planner",
    "Sequential",
    "Shuffle",
    "SourceError",
    "SourceNotFoundError",
    "TokenBudget",
    "equalize",
    "plan",
]
