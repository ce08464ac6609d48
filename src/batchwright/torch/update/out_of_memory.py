"""Running out of memory: how it is told, what is freed, and which sizes to avoid from then on."""

import dataclasses
import gc
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from batchwright.errors import UpdateError
from batchwright.torch.data.rows import Split
from batchwright.torch.data.trees import tensors_of

T = TypeVar("T")

_DEVICES = r"(CUDA|CUBLAS|CUDNN|HIP|ROCM|XPU|MPS|NPU|HPU|NCCL)"
_WORDINGS = re.compile(
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
"""How torch and the libraries below it say that memory ran out, where there is no class for it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, or was raised because of one that does.

    Example:
        >>> is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
        True
        >>> is_out_of_memory(RuntimeError("the memory bank is empty"))
        False
    """
    seen: set[int] = set()
    looked_at: BaseException | None = error
    while looked_at is not None and id(looked_at) not in seen:
        seen.add(id(looked_at))
        if isinstance(looked_at, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(looked_at, RuntimeError) and _WORDINGS.search(str(looked_at)):
            return True
        # An error that was raised while another was handled is about that one if it is torch's.
        implied = isinstance(looked_at, RuntimeError) and not looked_at.__suppress_context__
        looked_at = looked_at.__cause__ or (looked_at.__context__ if implied else None)
    return False


def release_memory() -> None:
    """Give cached memory back. Call it outside of the handler that caught the error."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def on_what_fits(run: Callable[[Any], T], batch: Any, *, split: Split) -> T:
    """Run something on a batch; where memory runs out, on its first half, and so on.

    For what a part of the batch can tell as well as the whole.

    Args:
        run: What to run; it is called anew with each part.
        batch: The batch.
        split: Cuts a batch in two.

    Returns:
        What it returned, for the largest part that fitted.

    Raises:
        UpdateError: If not even what cannot be split any more fits.

    Example:
        >>> from batchwright.torch.data.rows import halves
        >>> def rows(batch):
        ...     if len(batch) > 3:
        ...         raise MemoryError
        ...     return len(batch)
        >>> on_what_fits(rows, torch.zeros(10), split=halves)
        2
    """
    try:
        return run(batch)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Outside of the handler: the traceback kept the tensors alive.
    release_memory()
    try:
        half, _ = split(batch)
    except UpdateError as error:
        raise UpdateError(f"out of memory, and {error}") from error
    return on_what_fits(run, half, split=split)


def tokens_of(batch: Any) -> int:
    """Return how large a batch is: rows × columns of its widest tensor.

    Example:
        >>> tokens_of({"x": torch.zeros(4, 7), "y": torch.zeros(4)})
        28
    """
    sizes = (
        tensor.shape[0] * (tensor.shape[1] if tensor.ndim > 1 else 1)
        for tensor in tensors_of(batch)
        if tensor.ndim
    )
    return max(sizes, default=0)


@dataclass(frozen=True)
class SizeLimit:
    """The size of batch that did not fit lately: one as large is split before it is tried.

    Memory that ran out may be free again later, so the limit grows back slowly.

    Attributes:
        tokens: Batches of this size or more are split beforehand. None: none is.
        clean: Updates since then that had room.
        patience: Clean updates after which the limit is raised.
        growth: Factor by which it is raised.

    Example:
        >>> limit = SizeLimit().lowered(1000)
        >>> limit.excludes(1000), limit.excludes(999)
        (True, False)
    """

    tokens: float | None = None
    clean: int = 0
    patience: int = 100
    growth: float = 1.1

    def excludes(self, tokens: int) -> bool:
        """Tell whether a batch of this size is to be split before it is tried."""
        return self.tokens is not None and tokens >= self.tokens

    def lowered(self, tokens: int) -> "SizeLimit":
        """Return the limit after a batch of this size did not fit."""
        lowest = tokens if self.tokens is None else min(self.tokens, tokens)
        return dataclasses.replace(self, tokens=float(lowest), clean=0)

    def after_update(self, retries: int) -> "SizeLimit":
        """Return the limit after an update that took so many retries."""
        if self.tokens is None or retries:
            return dataclasses.replace(self, clean=0)
        if self.clean + 1 < self.patience:
            return dataclasses.replace(self, clean=self.clean + 1)
        return dataclasses.replace(self, clean=0, tokens=self.tokens * self.growth)
