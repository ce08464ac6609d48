"""PyTorch: plans in a `DataLoader`, batches padded or packed, the update step."""

from batchwright.torch.audit import Audit
from batchwright.torch.data.batch_sampler import PlanBatchSampler, planned_sampler
from batchwright.torch.data.flat_tokens import FlatTokens
from batchwright.torch.data.images import ImageCollator, PatchCollator, patch_counts
from batchwright.torch.data.length_warm_up import LengthWarmUp
from batchwright.torch.data.pack_collator import PackCollator, document_block_mask, document_mask
from batchwright.torch.data.pad_collator import PadCollator
from batchwright.torch.data.plan_loader import PlanLoader
from batchwright.torch.data.samples import Piece, PieceDataset
from batchwright.torch.data.stream_dataset import StreamDataset
from batchwright.torch.memory import MemoryModel
from batchwright.torch.update import (
    GradientErrors,
    LiveLosses,
    MeasuredCost,
    Precision,
    Update,
    check_gradient,
    fit_cost,
    scaled_by_weight,
)
from batchwright.torch.windows import Window, windows

__all__ = [
    "Audit",
    "FlatTokens",
    "GradientErrors",
    "ImageCollator",
    "LengthWarmUp",
    "LiveLosses",
    "MeasuredCost",
    "MemoryModel",
    "PackCollator",
    "PadCollator",
    "PatchCollator",
    "Piece",
    "PieceDataset",
    "PlanBatchSampler",
    "PlanLoader",
    "Precision",
    "StreamDataset",
    "Update",
    "Window",
    "check_gradient",
    "document_block_mask",
    "document_mask",
    "fit_cost",
    "patch_counts",
    "planned_sampler",
    "scaled_by_weight",
    "windows",
]
