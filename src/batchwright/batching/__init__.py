"""Batchings: how the samples of an epoch become batches."""

from batchwright.batching.buckets import Buckets
from batchwright.batching.custom import Custom
from batchwright.batching.draft import Draft, Request
from batchwright.batching.fixed_size import FixedSize
from batchwright.batching.packing import Packing
from batchwright.batching.token_budget import TokenBudget

__all__ = [
    "Buckets",
    "Custom",
    "Draft",
    "FixedSize",
    "Packing",
    "Request",
    "TokenBudget",
]
