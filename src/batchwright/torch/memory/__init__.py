"""The memory of a training step: predicted from shapes, confirmed, and turned into budgets."""

from batchwright.torch.memory.curve import Curve
from batchwright.torch.memory.explanation import Explanation, Part
from batchwright.torch.memory.fitting import Findings
from batchwright.torch.memory.model import MemoryModel
from batchwright.torch.memory.probing import Probe
from batchwright.torch.memory.rows_by_length import RowsByLength
from batchwright.torch.memory.task import StateBytes

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
