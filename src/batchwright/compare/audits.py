"""What half precision loses in a strategy's own training: an audit, once its run is over."""

from time import perf_counter
from typing import Any

from batchwright.compare.arm import Arm
from batchwright.torch.audit import Audit
from batchwright.torch.audit_exponents import FORMATS, Exponents
from batchwright.torch.audit_report import AuditReport, LayerAudit
from batchwright.torch.audit_table import worst_layers

UPDATES = 3
"""Updates that are looked at, unless they take too long."""

SECONDS = 10.0
"""After so long there is no further one."""


def audited(arm: Arm) -> dict[str, Any] | None:
    """Train an arm a few updates more, and look at what its precision loses.

    What the arm has spent and its weights are others afterwards: to be called when its outcome is
    written down.

    Args:
        arm: After its run.

    Returns:
        What `audit_facts` returns; or `mode` and `failed`, why it cannot be audited. None: it
        trains in no half precision, or has failed.
    """
    mode = str(arm.precision.mode)
    if mode not in {"bf16", "fp16"} or arm.has_failed:
        return None
    started = perf_counter()
    try:
        with Audit(arm.model, arm.optimizer, every=1, precision=arm.precision) as audit:
            for _ in range(UPDATES):
                arm.update()
                if perf_counter() - started > SECONDS:
                    break
        return audit_facts(audit.report())
    except RuntimeError as error:  # memory, most likely; what was measured is worth more
        return {"mode": mode, "failed": f"{type(error).__name__}: {error}"}


def audit_facts(report: AuditReport) -> dict[str, Any]:
    """Put an audit into what JSON can hold.

    Args:
        report: Of an audit in bf16 or fp16.

    Returns:
        `mode`, `updates`, `loss_scale`, `advice` on that precision and, in bf16, `advice_on_fp16`;
        `num_layers`, and of those with the largest errors `layers`: `name`, `kind`, shares of
        `activations` and `gradients` that are `zero`, `flushed`, `subnormal` or `overflowed`, and
        of updates that are `lost`, and would be with weights in bf16 (`lost_in_bf16`). None: not
        seen.
    """
    half = "fp16" if report.mode.startswith("fp16") else "bf16"
    return {
        "mode": report.mode,
        "updates": report.updates,
        "loss_scale": report.loss_scale,
        "advice": report.advice(),
        "advice_on_fp16": report.advice("fp16") if half == "bf16" else None,
        "num_layers": len(report.layers),
        "layers": [
            _layer(each, half, report.loss_scale)
            for each in worst_layers(report.layers, half, report.loss_scale)
        ],
    }


def _layer(layer: LayerAudit, half: str, scale: float) -> dict[str, Any]:
    due = bool(layer.lost.due)
    return {
        "name": layer.name,
        "kind": layer.kind,
        "activations": _shares(layer.activations, half, 1.0),
        "gradients": _shares(layer.gradients, half, scale),
        "lost": layer.lost.share() if due else None,
        "lost_in_bf16": layer.lost.share("bf16") if due else None,
    }


def _shares(seen: Exponents, half: str, scale: float) -> dict[str, float] | None:
    if not seen.total:
        return None
    return dict(vars(seen.shares(FORMATS[half], scale)))
