"""What a peak consists of, and what lowers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch.nn import functional

from batchwright._format import mebibytes
from batchwright.torch.memory.curves import Moment, Tensors, height
from batchwright.torch.memory.steps import StateBytes

_SHOWN = 0.001

_CURES: Mapping[str, str] = {
    "logits": (
        "torch.nn.functional.linear_cross_entropy(hidden, weight, targets, reduction='sum', "
        "options=torch.nn.LinearCrossEntropyOptions()) in place of the last layer and "
        "cross_entropy: it never holds the logits of all tokens"
        if hasattr(functional, "linear_cross_entropy")
        else "the last layer and cross_entropy over chunks of tokens, each inside "
        "torch.utils.checkpoint.checkpoint; newer releases of torch have "
        "torch.nn.functional.linear_cross_entropy"
    ),
    "attention scores": (
        "torch.nn.functional.scaled_dot_product_attention, whose kernels keep no scores"
    ),
    "activations": "torch.utils.checkpoint.checkpoint around each layer, or autocast to bfloat16",
    "backward pass": "torch.utils.checkpoint.checkpoint around smaller parts, or smaller batches",
    "copies of weights": "parameters in the type that autocast would cast them to",
    "gradients": "fewer parameters with requires_grad, or gradients sharded over ranks",
    "optimizer step": "the optimizer with fused=True, or foreach=False: no temporary copies",
    "optimizer state": "an optimizer that keeps less, or states sharded over ranks",
    "parameters": "parameters in bfloat16, or sharded over ranks",
}

_MATH = (
    "a fused kernel: torch.nn.functional.scaled_dot_product_attention fell back to its unfused "
    "implementation, which dropout in attention, a mask or a type can cause"
)


@dataclass(frozen=True)
class Part:
    """Some of the bytes of a peak: their number, their share of it, and what lowers them."""

    name: str
    bytes: int
    share: float
    cure: str | None


@dataclass(frozen=True)
class Explanation:
    """What the peak of a step consists of: parts by use and the largest tensors, largest first.

    The peak is in bytes, state included. The tensors are those of the largest shape tried.
    """

    rows: int
    length: int
    peak: int
    parts: tuple[Part, ...]
    tensors: tuple[Tensors, ...]

    @property
    def dominant(self) -> Part:
        """The largest part."""
        return self.parts[0]

    def __str__(self) -> str:
        """List the parts, the largest tensors, and what lowers the largest part."""
        lines = [f"{self.rows} × {self.length}: {mebibytes(self.peak)} MiB at the peak of a step"]
        lines += [
            f"  {each.name:<17} {mebibytes(each.bytes):>9} MiB {each.share:6.1%}"
            for each in self.parts
            if each.share >= _SHOWN
        ]
        for each in self.tensors[:3]:
            shape = " × ".join(map(str, each.shape)) or "scalar"
            lines.append(f"  e.g. {each.count} of {each.op}: {each.dtype} {shape}")
        if self.dominant.cure is not None:
            lines.append(f"  to lower {self.dominant.name}, use {self.dominant.cure}")
        return "\n".join(lines)


def explained(
    moments: Sequence[Moment], state: StateBytes, ratio: float, rows: int, length: int
) -> Explanation:
    """Take a peak apart. `ratio` is measured ÷ predicted: the excess is kernel workspace."""
    highest = max(moments, key=lambda each: float(each.curve(rows, length)))
    total = float(height(moments, rows, length))
    fitted = {kind: float(curve(rows, length)) for kind, curve in highest.parts}
    # Kinds are fitted one by one: scale them to add up to the whole.
    scale = min(ratio, 1.0) * total / (sum(fitted.values()) or 1.0)
    sizes: dict[str, float] = {kind: size * scale for kind, size in fitted.items()}
    if not sizes:
        sizes["the step"] = min(ratio, 1.0) * total
    sizes["kernel workspace"] = total * max(ratio - 1.0, 0.0)
    kept: dict[str, int] = {
        "parameters": state.parameters,
        "buffers": state.buffers,
        "gradients": state.gradients,
        "optimizer state": state.optimizer,
    }
    for kind, size in kept.items():
        sizes[kind] = sizes.get(kind, 0.0) + size
    peak = sum(sizes.values())
    is_math = any(each.op == "_safe_softmax" for each in highest.tensors)  # only the fallback's
    cures = {**_CURES, "attention scores": _MATH} if is_math else _CURES
    parts = [
        Part(kind, round(size), size / peak, cures.get(kind))
        for kind, size in sizes.items()
        if round(size)
    ]
    parts.sort(key=lambda each: -each.bytes)
    return Explanation(rows, length, round(peak), tuple(parts), highest.tensors)
