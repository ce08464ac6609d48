"""Modes of computing: what each needs, which of them a device can do, and one for all ranks."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import torch

from batchwright.errors import PrecisionError
from batchwright.torch.update.ranks import Ranks, device_of

Mode: TypeAlias = Literal["fp32", "tf32", "bf16", "fp16", "bf16-true"]
"""Single precision, TensorFloat-32 products, mixed bfloat16 or float16 with single-precision
parameters, or everything in bfloat16."""

MODES: tuple[Mode, ...] = ("fp32", "tf32", "bf16", "fp16", "bf16-true")

_CASTS = {"bf16": torch.bfloat16, "fp16": torch.float16}
_NAMES = (*MODES, "custom", "auto")
_WITH_BATCH, _WITHOUT_BATCH, _FAILED = range(3)

UNSCALED = torch.amp.GradScaler("cpu", enabled=False)


@dataclass(frozen=True, eq=False)
class Policy:
    """One way to compute, ready for use."""

    name: str  # the mode's, or "custom"
    autocast: Callable[[], AbstractContextManager[object]]  # the context of a forward pass
    scaler: torch.amp.GradScaler


def policy_for(
    mode: Mode, model: torch.nn.Module | torch.device, scaler: torch.amp.GradScaler | None = None
) -> Policy:
    """Make the policy of a mode. Casting and scaling are `torch.amp`'s."""
    device = model if isinstance(model, torch.device) else device_of(model)
    reason = ruled_out(mode, device)
    if reason is not None and mode != "fp16":  # slow, but it computes
        raise PrecisionError(f'Precision("{mode}") on {device.type}: {reason}')
    if mode == "bf16-true" and isinstance(model, torch.nn.Module):
        types = {each.dtype for each in model.parameters() if each.is_floating_point()}
        if types != {torch.bfloat16}:
            raise PrecisionError(
                f'Precision("bf16-true"): the parameters are {types}. Call '
                "precision.prepare(model) before making the optimizer."
            )
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    if mode in _CASTS:
        autocast = partial(torch.autocast, device.type, dtype=_CASTS[mode])
    elif mode == "tf32":
        autocast = _tensor_float
    own = torch.amp.GradScaler(device.type) if mode == "fp16" else UNSCALED
    return Policy(mode, autocast, scaler or own)


def ruled_out(mode: Mode, device: torch.device) -> str | None:
    """Return why a mode need not be measured on a device; None if only measuring can show."""
    if device.type == "cuda":
        if mode in {"bf16", "bf16-true"} and not torch.cuda.is_bf16_supported(False):
            return 'bfloat16 is emulated on this GPU. Use "fp16" or "fp32".'
        if mode == "tf32" and torch.cuda.get_device_capability(device) < (8, 0):
            return 'this GPU has no TensorFloat-32. Use "fp16" or "fp32".'
        return None
    if mode == "tf32":
        return 'TensorFloat-32 is a format of CUDA GPUs. Use "fp32" or "bf16".'
    if mode == "fp16" and device.type == "cpu":
        return 'float16 is emulated on a CPU, many times slower. Use "bf16".'
    return None


@contextmanager
def _tensor_float() -> Iterator[None]:
    """Let matrix products round to TensorFloat-32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def agreed(
    ranks: Ranks, given: str, *, measure: Callable[[], Mode] | None, failed: bool = False
) -> str | None:
    """Agree on one mode for all ranks; one that failed or has no batch has to call this too."""
    chosen, error = given, None
    # Passes through shards need every rank; of copies the others wait for rank 0.
    if given == "auto" and measure is not None and (ranks.rank == 0 or ranks.kind == "shards"):
        try:
            chosen = measure()
        except Exception as raised:  # noqa: BLE001 (raised again, once the others know)
            error = raised
    state = _WITHOUT_BATCH if measure is None else _WITH_BATCH
    state = _FAILED if failed or error is not None else state
    everyone = ranks.gathered([_NAMES.index(given), _NAMES.index(chosen), state])
    if error is not None:
        raise error
    states = [int(each) for _, _, each in everyone]
    if failed or set(states) == {_WITHOUT_BATCH}:
        return None
    if _FAILED in states:
        raise ranks.without(states.count(_FAILED))
    names = [_NAMES[int(each)] for each, _, _ in everyone]
    if len(set(names)) > 1:
        listed = ", ".join(f"rank {rank}: {name}" for rank, name in enumerate(names))
        raise PrecisionError(f"ranks have different precisions ({listed}). Give all the same.")
    mode = _NAMES[int(everyone[0][1])]
    if mode == "auto":
        raise PrecisionError(
            'Precision("auto") measures on the first batch of rank 0, which has none in this '
            "update. Give a mode, or begin with an update that has a batch on each rank."
        )
    return mode
