"""The audit: what half precision loses, layer by layer."""

from batchwright.torch.audit.hooks import Audit
from batchwright.torch.audit.report import AuditReport, LayerAudit, LostUpdates

__all__ = ["Audit", "AuditReport", "LayerAudit", "LostUpdates"]
