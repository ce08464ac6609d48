"""Keras 3: plans in `fit`, the exact gradient, and precision by measurement, on any backend."""

from batchwright.keras.epoch_callback import EpochCallback
from batchwright.keras.loss_scale import LossScaleFloor, applied_updates
from batchwright.keras.measuring import Evidence, Trial
from batchwright.keras.plan_dataset import PlanDataset
from batchwright.keras.precision import set_precision
from batchwright.keras.tf_dataset import plan_tf_dataset
from batchwright.keras.token_mean import TokenMean

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
