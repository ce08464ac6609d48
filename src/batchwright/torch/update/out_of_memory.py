"""Running out of memory: how to recognize it, what to free, how to go on."""

import gc
import re
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from batchwright.errors import UpdateError
from batchwright.torch.data.rows import Split
from batchwright.torch.data.trees import tensors_of
from batchwright.typing import Batch

T = TypeVar("T")

_DEVICES = r"(CUDA|CUBLAS|CUDNN|HIP|ROCM|XPU|MPS|NPU|HPU|NCCL)"
_MESSAGES = re.compile(
    "|".join(
        (
            _DEVICES + r"\b[^\n]*\bout of memory\b",  # torch's allocators and drivers
            r"\b(CU|HIP|MIOPEN)[A-Z]*_?(STATUS)?_?ALLOC_?FAILED",
            r"CUDNN_STATUS_INTERNAL_ERROR_(HOST|DEVICE)_ALLOCATION_FAILED",
            r"rocblas_status_memory_error",
            r"UR_RESULT_ERROR_OUT_OF_(DEVICE|HOST)_MEMORY",
            r"DefaultCPUAllocator: (can't allocate|not enough) memory",
        )
    ),
    re.IGNORECASE,
)
"""What torch and the libraries below it say where they have no class of error for it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: by this error, or by one that it was raised from."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        if isinstance(each, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(each, RuntimeError) and _MESSAGES.search(str(each)):
            return True
        # An error raised while another was handled is about that one if it is torch's.
        implied = isinstance(each, RuntimeError) and not each.__suppress_context__
        each = each.__cause__ or (each.__context__ if implied else None)
    return False


def release_memory() -> None:
    """Free cached memory."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def attempted(run: Callable[[], T]) -> T | None:
    """Run something; where memory runs out, free some and return None."""
    try:
        return run()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    release_memory()  # outside the handler: the traceback keeps tensors alive
    return None


def on_what_fits(run: Callable[[Batch], T], batch: Batch, *, split: Split) -> T:
    """Run something on a batch; where memory runs out, on its first half, and so on."""
    while (found := attempted(partial(run, batch))) is None:
        try:
            batch, _ = split(batch)
        except UpdateError as error:
            raise UpdateError(f"out of memory, and {error}") from error
    return found


def tokens_of(batch: Batch) -> int:
    """Return rows × columns of a batch's largest tensor."""
    shapes = [tensor.shape for tensor in tensors_of(batch) if tensor.ndim]
    return max((shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in shapes), default=0)
