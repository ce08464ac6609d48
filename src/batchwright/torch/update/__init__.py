"""One optimizer update: precision, exact gradient, running out of memory."""

from batchwright.torch.update.gradient_check import GradientErrors, check_gradient
from batchwright.torch.update.live_losses import LiveLosses
from batchwright.torch.update.measuring import MeasuredCost, fit_cost
from batchwright.torch.update.precision import Precision
from batchwright.torch.update.step import scaled_by_weight
from batchwright.torch.update.update import Update

__all__ = [
    "GradientErrors",
    "LiveLosses",
    "MeasuredCost",
    "Precision",
    "Update",
    "check_gradient",
    "fit_cost",
    "scaled_by_weight",
]
