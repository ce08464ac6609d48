"""Efficient training, planned: which samples, in which batches, in which order."""

from batchwright import pacing
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
    ScoresError,
    SourceError,
    SourceNotFoundError,
    UpdateError,
)
from batchwright.order import (
    ClassBalanced,
    Curriculum,
    LossTable,
    Mixture,
    SelfPaced,
    Sequential,
    Shuffle,
    UnbiasedDropping,
    Weighted,
)
from batchwright.planner import Planner, plan
from batchwright.plans import Plan
from batchwright.sharding import equalize
from batchwright.stats import PlanStats

__version__ = "0.1.0"

__all__ = [
    "BatchwrightError",
    "BudgetError",
    "ClassBalanced",
    "ColumnNotFoundError",
    "Curriculum",
    "FixedSize",
    "LengthsError",
    "LossError",
    "LossScaleError",
    "LossTable",
    "MissingExtraError",
    "Mixture",
    "Packing",
    "Plan",
    "PlanError",
    "PlanFileError",
    "PlanMismatchError",
    "PlanStats",
    "Planner",
    "PrecisionError",
    "ScoresError",
    "SelfPaced",
    "Sequential",
    "Shuffle",
    "SourceError",
    "SourceNotFoundError",
    "TokenBudget",
    "UnbiasedDropping",
    "UpdateError",
    "Weighted",
    "equalize",
    "pacing",
    "plan",
]
