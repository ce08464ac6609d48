"""Keras 3: plans in `fit`, the exact gradient, and precision by measurement, on any backend."""

from batchwright.keras.epoch_callback import EpochCallback
from batchwright.keras.plan_dataset import PlanDataset, plan_tf_dataset
from batchwright.keras.precision import (
    Evidence,
    LossScaleFloor,
    Trial,
    applied_updates,
    set_precision,
)
from batchwright.keras.weights import TokenMean

__all__ = [
    "EpochCallback",
    "Evidence",
    "LossScaleFloor",
    "PlanDataset",
    "TokenMean",
    "Trial",
    "applied_updates",
    "plan_tf_dataset",
    "set_precision",
]
