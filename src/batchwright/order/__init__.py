"""Orders: which samples an epoch visits, and in what sequence. One a file."""

from batchwright.order.blocks import Blocks
from batchwright.order.class_balanced import ClassBalanced
from batchwright.order.curriculum import Curriculum
from batchwright.order.loss_table import LossTable
from batchwright.order.mixture import Mixture
from batchwright.order.pools import Order, Pools, as_pools
from batchwright.order.self_paced import SelfPaced
from batchwright.order.sequential import Sequential
from batchwright.order.shuffle import Shuffle
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
    "as_pools",
]
