"""Batches as NumPy arrays, padded to the shapes of a plan: for JAX and any other array library."""

from batchwright.integrations.arrays.batches import PaddedBatches, padded_batches, tf_dataset
from batchwright.integrations.arrays.collating import padded
from batchwright.integrations.arrays.reading import Flat

__all__ = ["Flat", "PaddedBatches", "padded", "padded_batches", "tf_dataset"]
