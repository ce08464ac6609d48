"""What a peak is made of, and what makes it lower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchwright.torch.memory.envelope import Moment, Tensors, height
from batchwright.torch.memory.kinds import (
    BUFFERS,
    GRADIENTS,
    OPTIMIZER_STATE,
    PARAMETERS,
    WORKSPACE,
    cure_of,
)
from batchwright.torch.memory.task import StateBytes

_ALL = "the step"
_UNIT = 2**20
_SHOWN = 0.001


@dataclass(frozen=True)
class Part:
    """Some of the bytes of a peak.

    Attributes:
        name: What they are for.
        bytes: How many.
        share: Of the peak.
        cure: What takes less of it. None: nothing in particular.
    """

    name: str
    bytes: int
    share: float
    cure: str | None


@dataclass(frozen=True)
class Explanation:
    """What the peak of a step is made of.

    Attributes:
        rows: Rows of the batch.
        length: Their length.
        peak: All bytes at the peak, state included.
        parts: What they are for, the most first.
        tensors: The largest at that moment, at the largest shape that was tried.
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
        """Lay the parts out as lines of text, and name the cure of the largest."""
        lines = [f"{self.rows} × {self.length}: {_text(self.peak)} at the peak of a step"]
        lines += [
            f"  {each.name:<17} {_text(each.bytes):>13} {each.share:6.1%}"
            for each in self.parts
            if each.share >= _SHOWN
        ]
        for each in self.tensors[:3]:
            shape = " × ".join(map(str, each.shape)) or "scalar"
            lines.append(f"  e.g. {each.count} of {each.op}: {each.dtype} {shape}")
        if self.dominant.cure is not None:
            lines.append(f"  less {self.dominant.name}: {self.dominant.cure}")
        return "\n".join(lines)


def explained(
    moments: Sequence[Moment], state: StateBytes, ratio: float, rows: int, length: int
) -> Explanation:
    """Take a peak apart.

    Args:
        moments: The moments that it may come at.
        state: What is there throughout.
        ratio: What real steps took over what was predicted.
        rows: Rows of the batch.
        length: Their length.

    Returns:
        The parts; what kernels take for themselves is one of them.
    """
    highest = max(moments, key=lambda each: float(each.curve(rows, length)))
    total = float(height(moments, rows, length))
    sizes = {name: float(curve(rows, length)) for name, curve in highest.parts}
    within = sum(sizes.values())
    # Parts are fitted one by one: make them add up to the whole again.
    sizes = {name: size * total / within for name, size in sizes.items()} or {_ALL: total}
    if ratio > 1.0:
        sizes[WORKSPACE] = total * (ratio - 1.0)
    else:
        sizes = {name: size * ratio for name, size in sizes.items()}
    kept = {
        PARAMETERS: state.parameters,
        BUFFERS: state.buffers,
        GRADIENTS: state.gradients,
        OPTIMIZER_STATE: state.optimizer,
    }
    for name, size in kept.items():
        sizes[name] = sizes.get(name, 0.0) + size
    peak = sum(sizes.values())
    ops = {each.op for each in highest.tensors}
    parts = [
        Part(name, round(size), size / peak, cure_of(name, ops))
        for name, size in sizes.items()
        if round(size)
    ]
    parts.sort(key=lambda each: -each.bytes)
    return Explanation(rows, length, round(peak), tuple(parts), highest.tensors)


def _text(bytes_: int) -> str:
    return f"{bytes_ / _UNIT:,.1f} MiB"
