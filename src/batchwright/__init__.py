"""Efficient training, planned: which samples, in which batches, in which order."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from batchwright import errors
from batchwright.batching import Buckets, FixedSize, Packing, TokenBudget
from batchwright.errors import BatchwrightError
from batchwright.order import Sequential, Shuffle
from batchwright.planner import Planner, plan
from batchwright.plans import Plan
from batchwright.sharding import equalize

if TYPE_CHECKING:
    from batchwright import metrics, pacing
    from batchwright.costs import CostModel, balance
    from batchwright.index import LengthIndex
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
    from batchwright.sources import read_lengths
    from batchwright.stats import PlanStats
    from batchwright.stats.coverage import coverage
    from batchwright.stats.dial import mixing_dial
    from batchwright.streams import stream

__version__ = "0.2.0"

__all__ = [
    "BatchwrightError",
    "Blocks",
    "Buckets",
    "ClassBalanced",
    "CostModel",
    "Curriculum",
    "FixedSize",
    "LengthIndex",
    "LossTable",
    "Mixture",
    "Packing",
    "Plan",
    "PlanStats",
    "Planner",
    "SelfPaced",
    "Sequential",
    "Shuffle",
    "TokenBudget",
    "UnbiasedDropping",
    "Weighted",
    "balance",
    "coverage",
    "equalize",
    "errors",
    "metrics",
    "mixing_dial",
    "pacing",
    "plan",
    "read_lengths",
    "stream",
]

_WHEN_ASKED = {
    "Blocks": "order",
    "ClassBalanced": "order",
    "CostModel": "costs",
    "Curriculum": "order",
    "LengthIndex": "index",
    "LossTable": "order",
    "Mixture": "order",
    "PlanStats": "stats",
    "SelfPaced": "order",
    "UnbiasedDropping": "order",
    "Weighted": "order",
    "balance": "costs",
    "coverage": "stats.coverage",
    "metrics": "metrics",
    "mixing_dial": "stats.dial",
    "pacing": "pacing",
    "read_lengths": "sources",
    "stream": "streams",
}
"""What few programs need: imported when it is first used, so that the rest is there at once."""


def __getattr__(name: str) -> Any:
    if name not in _WHEN_ASKED:
        raise AttributeError(f"module 'batchwright' has no attribute {name!r}")
    module = import_module(f"batchwright.{_WHEN_ASKED[name]}")
    return module if name == _WHEN_ASKED[name] else getattr(module, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
