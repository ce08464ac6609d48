"""The memory of a training step: predicted from shapes, confirmed, and turned into budgets."""

from batchwright.torch.memory.curves import Curve
from batchwright.torch.memory.explanation import Explanation, Part
from batchwright.torch.memory.fitting import Findings, Probe
from batchwright.torch.memory.model import MemoryModel, RowsByLength
from batchwright.torch.memory.steps import StateBytes

__all__ = [
    "Curve",
    "Explanation",
    "Findings",
    "MemoryModel",
    "Part",
    "Probe",
    "RowsByLength",
    "StateBytes",
]
