"""Efficient training, planned: which samples, in which batches, in which order."""

from batchwright.batching import FixedSize, Packing, TokenBudget
from batchwright.errors import (
    BatchwrightError,
    BudgetError,
    ColumnNotFoundError,
    LengthsError,
    LossError,
    LossScaleError,
    MissingExtraError,
    PlanError,
    PlanFileError,
    PlanMismatchError,
    PrecisionError,
    SourceError,
    SourceNotFoundError,
    UpdateError,
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
    "LossError",
    "LossScaleError",
    "MissingExtraError",
    "Packing",
    "Plan",
    "PlanError",
    "PlanFileError",
    "PlanMismatchError",
    "PlanStats",
    "Planner",
    "PrecisionError",
    "Sequential",
    "Shuffle",
    "SourceError",
    "SourceNotFoundError",
    "TokenBudget",
    "UpdateError",
    "equalize",
    "plan",
]
