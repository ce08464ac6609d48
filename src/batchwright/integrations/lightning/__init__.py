"""Planned batches in Lightning, and their figures in its logs."""

from batchwright.integrations.lightning.data_module import PlanDataModule
from batchwright.integrations.lightning.monitor import EfficiencyMonitor

__all__ = ["EfficiencyMonitor", "PlanDataModule"]
