"""Orders: which samples an epoch visits, and in what sequence. One a file."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from batchwright.order.pools import Order, Pools, as_order, as_pools
from batchwright.order.sequential import Sequential
from batchwright.order.shuffle import Shuffle

if TYPE_CHECKING:
    from batchwright.order.blocks import Blocks
    from batchwright.order.class_balanced import ClassBalanced
    from batchwright.order.curriculum import Curriculum
    from batchwright.order.loss_table import LossTable
    from batchwright.order.mixture import Mixture
    from batchwright.order.self_paced import SelfPaced
    from batchwright.order.unbiased_dropping import UnbiasedDropping
    from batchwright.order.weighted import Weighted

__all__ = [
    "Blocks",
    "ClassBalanced",
    "Curriculum",
    "LossTable",
    "Mixture",
    "Order",
    "Pools",
    "SelfPaced",
    "Sequential",
    "Shuffle",
    "UnbiasedDropping",
    "Weighted",
    "as_order",
    "as_pools",
]

_WHEN_ASKED = {
    "Blocks": "blocks",
    "ClassBalanced": "class_balanced",
    "Curriculum": "curriculum",
    "LossTable": "loss_table",
    "Mixture": "mixture",
    "SelfPaced": "self_paced",
    "UnbiasedDropping": "unbiased_dropping",
    "Weighted": "weighted",
}
"""Orders that draw: imported when they are first used, so that planning is there at once."""


def __getattr__(name: str) -> Any:
    if name not in _WHEN_ASKED:
        raise AttributeError(f"module 'batchwright.order' has no attribute {name!r}")
    return getattr(import_module(f"batchwright.order.{_WHEN_ASKED[name]}"), name)
