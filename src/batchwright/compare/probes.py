"""What is measured on an arm beside its training: peak memory before it, an audit after it."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

from batchwright.torch.audit import Audit
from batchwright.torch.audit.report import FORMATS, Exponents, worst_layers
from batchwright.torch.data.trees import mapped
from batchwright.torch.memory.steps import Task as Step
from batchwright.torch.memory.steps import can_measure, real_steps
from batchwright.torch.update.measuring import policy_for
from batchwright.typing import Batch

if TYPE_CHECKING:
    from batchwright.compare.arm import Arm

Facts: TypeAlias = dict[str, Any]
"""JSON values."""

UPDATES = 3
"""Updates that are audited, unless they take too long."""

SECONDS = 10.0
"""After so long no further update is audited."""


class _GivenStep(Step):
    """A step on a given batch, whatever its shape."""

    def batch(self, rows: int, length: int) -> Batch:
        return self.make_batch(rows, length)


def peak_bytes(arm: Arm) -> int | None:
    """Measure the peak memory of an arm: parameters, optimizer, gradients and its largest batches.

    Each batch takes one step on a copy that shares the tensors, which leaves the arm unchanged.
    None: the device's allocator reports nothing.
    """
    if not can_measure(arm.device):
        return None
    autocast = policy_for(arm.precision.mode, arm.device).autocast  # type: ignore[arg-type]  # chosen
    parts = arm.model, (arm.optimizer,), arm.task.loss_sum
    several, peaks = arm.planner.accumulate > 1, []
    for batch in arm.largest_batches():
        given = mapped(batch, lambda tensor: tensor.to(arm.device))
        step = _GivenStep(*parts, lambda *_, given=given: given, autocast, accumulates=several)
        with real_steps(step, 1) as run:
            peaks.append(run.state.total + run(1, 1))
    return max(peaks)


def audited(arm: Arm) -> Facts | None:
    """Train an arm for a few more updates, and audit what its precision loses, as JSON values.

    It changes the arm's weights and what it has spent: call it after the outcome is recorded.
    Layers are those with the largest errors; shares that were not seen are None. Without a finite
    loss in half precision, there is nothing to audit: None.
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
        report = audit.report()
    except RuntimeError as error:  # out of memory, most likely; the results are kept
        return {"mode": mode, "failed": f"{type(error).__name__}: {error}"}

    half = "fp16" if report.mode.startswith("fp16") else "bf16"
    scale = report.loss_scale

    def shares(seen: Exponents, scale: float) -> Facts | None:
        return dict(vars(seen.shares(FORMATS[half], scale))) if seen.total else None

    return {
        "mode": report.mode,
        "updates": report.updates,
        "loss_scale": scale,
        "advice": report.advice(),
        "advice_on_fp16": report.advice("fp16") if half == "bf16" else None,
        "num_layers": len(report.layers),
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "activations": shares(layer.activations, 1.0),
                "gradients": shares(layer.gradients, scale),
                "lost": layer.lost.share() if layer.lost.due else None,
                "lost_in_bf16": layer.lost.share("bf16") if layer.lost.due else None,
            }
            for layer in worst_layers(report.layers, half, scale)
        ],
    }
