"""What the machine is, and which of its types are really fast."""

import os
import platform
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

WIDTHS = (128, 512, 2_048)
"""Rows and columns of the products that are timed: a narrow net, a middling and a wide one."""

_ROUNDS = 7


@dataclass(frozen=True)
class Hardware:
    """A device that torch would train on.

    Attributes:
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``.
        name: Of the processor or the card.
        memory_bytes: Of the device. None: unknown.
        cores: Of the processor.
        speed_over_fp32: Type → width of a matrix product → how many times faster it is than in
            fp32, measured here.
    """

    device: str
    name: str
    memory_bytes: int | None
    cores: int | None
    speed_over_fp32: dict[str, dict[int, float]] = field(default_factory=dict)


def profile_hardware() -> Hardware | None:
    """Look at the device, and time small matrix products in turns; about a second.

    Returns:
        The hardware; None without torch.
    """
    try:
        import torch
    except ImportError:
        return None
    memory: int | None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name, memory = properties.name, int(properties.total_memory)
        types = {"fp16": torch.float16, "bf16": torch.bfloat16}
    else:
        name, memory = platform.processor() or platform.machine(), _memory()
        types = {"bf16": torch.bfloat16}
    speeds: dict[str, dict[int, float]] = {each: {} for each in types}
    for width in WIDTHS if device.type == "cuda" else WIDTHS[:2]:
        for each, ratio in _speeds(torch, device, types, width).items():
            speeds[each][width] = ratio
    return Hardware(device.type, name, memory, os.cpu_count(), speeds)


def _speeds(torch: Any, device: Any, types: dict[str, Any], width: int) -> dict[str, float]:
    """Time products of this width in turns; return how many times faster each type is."""
    generator = torch.Generator().manual_seed(0)
    single = torch.randn(width, width, generator=generator).to(device)
    operands = {"fp32": single} | {name: single.to(dtype) for name, dtype in types.items()}
    repeats = max(1, (2**27) // width**3)
    seconds: dict[str, list[float]] = {name: [] for name in operands}
    for _ in range(_ROUNDS):
        for name, matrix in operands.items():
            started = time.perf_counter()
            for _ in range(repeats):
                matrix @ matrix
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[name].append(time.perf_counter() - started)
    reference = np.array(seconds["fp32"])
    return {name: float(np.median(reference / np.array(seconds[name]))) for name in types}


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
