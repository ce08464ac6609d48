"""Orders: which samples an epoch visits, and in what sequence. One a file."""

from batchwright.order.pools import Order, Pools, as_pools
from batchwright.order.sequential import Sequential
from batchwright.order.shuffle import Shuffle

__all__ = ["Order", "Pools", "Sequential", "Shuffle", "as_pools"]
