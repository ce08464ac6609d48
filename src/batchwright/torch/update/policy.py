"""What a precision is made of: a casting context, a gradient scaler, and what rules it out."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import torch

from batchwright.errors import PrecisionError

Mode: TypeAlias = Literal["fp32", "tf32", "bf16", "fp16", "bf16-true"]
"""How numbers are kept: single, TensorFloat-32 products, mixed brain or half floats with single
masters, or everything in brain floats."""

MODES: tuple[Mode, ...] = ("fp32", "tf32", "bf16", "fp16", "bf16-true")

_CASTS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, eq=False)
class Policy:
    """One way to compute, ready for use.

    Attributes:
        name: The mode's, or ``"custom"``.
        autocast: Makes the context of a forward pass.
        scaler: Scales the loss. None: there is no need to.
    """

    name: str
    autocast: Callable[[], AbstractContextManager[Any]]
    scaler: torch.amp.GradScaler | None = None


def policy_for(mode: Mode, device: torch.device) -> Policy:
    """Make the policy of a mode on a device. Casting and scaling are `torch.amp`'s.

    Args:
        mode: The mode.
        device: Where the model is.

    Returns:
        The policy.

    Raises:
        PrecisionError: If the device cannot do it.

    Example:
        >>> policy_for("bf16", torch.device("cpu")).scaler is None
        True
    """
    reason = ruled_out(mode, device) if mode != "fp16" else None  # slow, but it computes
    if reason is not None:
        raise PrecisionError(f'Precision("{mode}") on {device.type}: {reason}')
    if mode in _CASTS:
        dtype = _CASTS[mode]
        scaler = torch.amp.GradScaler(device.type) if mode == "fp16" else None
        return Policy(mode, partial(torch.autocast, device.type, dtype=dtype), scaler)
    if mode == "tf32":
        return Policy(mode, _TensorFloat)
    return Policy(mode, nullcontext)


def ruled_out(mode: Mode, device: torch.device) -> str | None:
    """Say why a mode need not be measured on a device; None if only a measurement can tell.

    Args:
        mode: The mode.
        device: Where the model is.

    Returns:
        A sentence, or None.

    Example:
        >>> ruled_out("fp16", torch.device("cpu"))
        'half floats are emulated on a processor, many times slower. Use "bf16".'
    """
    if device.type == "cuda":
        if mode in {"bf16", "bf16-true"} and not torch.cuda.is_bf16_supported(False):
            return 'brain floats are emulated on this GPU. Use "fp16" or "fp32".'
        if mode == "tf32" and torch.cuda.get_device_capability(device) < (8, 0):
            return 'this GPU has no TensorFloat-32. Use "fp16" or "fp32".'
        return None
    if mode == "tf32":
        return 'TensorFloat-32 is a format of CUDA GPUs. Use "fp32" or "bf16".'
    if mode == "fp16" and device.type == "cpu":
        return 'half floats are emulated on a processor, many times slower. Use "bf16".'
    return None


class _TensorFloat(AbstractContextManager[None]):
    """Lets matrix products round to TensorFloat-32, and puts back what was set before."""

    def __enter__(self) -> None:
        self._before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")

    def __exit__(self, *_: object) -> None:
        torch.set_float32_matmul_precision(self._before)
