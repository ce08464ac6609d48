"""Orders: which samples an epoch visits, and in what sequence."""

from importlib import import_module
from typing import TYPE_CHECKING

from batchwright.order.plain import Blocks, Sequential, Shuffle
from batchwright.order.pools import Pools, as_order, as_pools

if TYPE_CHECKING:
    from batchwright.order.by_loss import SelfPaced, UnbiasedDropping
    from batchwright.order.curriculum import Curriculum
    from batchwright.order.loss_table import LossTable
    from batchwright.order.mixture import ClassBalanced, Mixture
    from batchwright.order.weighted import Weighted

_LAZY = {
    "ClassBalanced": "mixture",
    "Curriculum": "curriculum",
    "LossTable": "loss_table",
    "Mixture": "mixture",
    "SelfPaced": "by_loss",
    "UnbiasedDropping": "by_loss",
    "Weighted": "weighted",
}
"""Orders that draw, imported when they are first used: `import batchwright` stays quick."""

__all__ = [
    "Blocks",
    "ClassBalanced",
    "Curriculum",
    "LossTable",
    "Mixture",
    "Pools",
    "SelfPaced",
    "Sequential",
    "Shuffle",
    "UnbiasedDropping",
    "Weighted",
    "as_order",
    "as_pools",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'batchwright.order' has no attribute {name!r}")
    return getattr(import_module(f"batchwright.order.{_LAZY[name]}"), name)
