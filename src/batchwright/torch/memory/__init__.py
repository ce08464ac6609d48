"""The memory of a training step: predicted from shapes, confirmed, and turned into budgets."""

from batchwright.torch.memory.fitting import Findings, Probe
from batchwright.torch.memory.model import Explanation, MemoryModel, Part, RowsByLength
from batchwright.torch.memory.steps import StateBytes

__all__ = [
    "Explanation",
    "Findings",
    "MemoryModel",
    "Part",
    "Probe",
    "RowsByLength",
    "StateBytes",
]
