"""Efficient training, planned: which samples, in which batches, in which order."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from batchwright.batching import Buckets, FixedSize, Packing, TokenBudget
from batchwright.costs import CostModel, balance
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
    PlotError,
    PrecisionError,
    ResultFileError,
    ScoresError,
    SourceError,
    SourceNotFoundError,
    StrategyError,
    TaskError,
    TaskNotFoundError,
    UpdateError,
)
from batchwright.order import Sequential, Shuffle
from batchwright.planner import Planner, plan
from batchwright.plans import Plan
from batchwright.sharding import equalize
from batchwright.stats import PlanStats

if TYPE_CHECKING:
    from batchwright import pacing
    from batchwright.order import (
        Blocks,
        ClassBalanced,
        Curriculum,
        LossTable,
        Mixture,
        SelfPaced,
        UnbiasedDropping,
        Weighted,
    )
    from batchwright.stats.coverage import Coverage, coverage
    from batchwright.stats.dial import DialPosition, mixing_dial
    from batchwright.streams import BatchStream, stream

__version__ = "0.1.0"

__all__ = [
    "BatchStream",
    "BatchwrightError",
    "Blocks",
    "Buckets",
    "BudgetError",
    "ClassBalanced",
    "ColumnNotFoundError",
    "CostModel",
    "Coverage",
    "Curriculum",
    "DialPosition",
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
    "PlotError",
    "PrecisionError",
    "ResultFileError",
    "ScoresError",
    "SelfPaced",
    "Sequential",
    "Shuffle",
    "SourceError",
    "SourceNotFoundError",
    "StrategyError",
    "TaskError",
    "TaskNotFoundError",
    "TokenBudget",
    "UnbiasedDropping",
    "UpdateError",
    "Weighted",
    "balance",
    "coverage",
    "equalize",
    "mixing_dial",
    "pacing",
    "plan",
    "stream",
]

_WHEN_ASKED = {
    "BatchStream": "streams",
    "Blocks": "order",
    "ClassBalanced": "order",
    "Coverage": "stats.coverage",
    "Curriculum": "order",
    "DialPosition": "stats.dial",
    "LossTable": "order",
    "Mixture": "order",
    "SelfPaced": "order",
    "UnbiasedDropping": "order",
    "Weighted": "order",
    "coverage": "stats.coverage",
    "mixing_dial": "stats.dial",
    "pacing": "pacing",
    "stream": "streams",
}
"""What few programs need: imported when it is first used, so that the rest is there at once."""


def __getattr__(name: str) -> Any:
    if name not in _WHEN_ASKED:
        raise AttributeError(f"module 'batchwright' has no attribute {name!r}")
    module = import_module(f"batchwright.{_WHEN_ASKED[name]}")
    return module if name == _WHEN_ASKED[name] else getattr(module, name)
