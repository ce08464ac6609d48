"""Attention over padded rows, and over samples that share a row: by the fastest kernel there is."""

import inspect
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from batchwright.compare.arm import settle
from batchwright.torch import document_block_mask, document_mask

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values, float[rows, heads, length, width of a head] → as the queries."""

Kernel = Literal["varlen", "flex", "dense"]
"""For samples that share a row: kernels for variable lengths, sparse masks, or a mask of T²."""

KERNELS: tuple[Kernel, ...] = ("varlen", "flex", "dense")

Seconds = dict[Kernel, float | str]
"""Kernel → seconds forward and backward, or why it does not run."""

ROUNDS = 5


def causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend to what comes before: rows padded at their end need no mask."""
    return scaled_dot_product_attention(query, key, value, is_causal=True)


def to_keys(real: Tensor) -> Attend:
    """Attend to the keys that are no padding, bool[rows, length]."""
    mask = real[:, None, None, :]
    return lambda query, key, value: scaled_dot_product_attention(query, key, value, attn_mask=mask)


@dataclass(frozen=True)
class Segments:
    """Where the samples of a row begin and end."""

    edges: Tensor  # int32[segments + 1]
    longest: int
    ids: Tensor  # int64[1, T]


def within(segments: Segments, kernel: Kernel, *, causal: bool) -> Attend:
    """Attend to the sample that a token belongs to, in a batch of one row."""
    if kernel == "varlen":
        return lambda *qkv: _varlen(*qkv, segments, causal=causal)
    if kernel == "flex":
        mask = document_block_mask(segments.ids, causal=causal)
        return lambda *qkv: _compiled()(*qkv, block_mask=mask)
    dense = document_mask(segments.ids, causal=causal)
    return lambda *qkv: scaled_dot_product_attention(*qkv, attn_mask=dense)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, causal: bool
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    rows = [each[0].transpose(0, 1).contiguous() for each in (query, key, value)]
    ends = (segments.edges, segments.edges, segments.longest, segments.longest)
    has_window = "window_size" in inspect.signature(varlen_attn).parameters
    options: Any = {"window_size": (-1, 0 if causal else -1)} if has_window else {}
    options |= {} if has_window else {"is_causal": causal}  # before torch 2.11
    return varlen_attn(*rows, *ends, **options).transpose(0, 1)[None]


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(flex_attention)


def seconds_of(
    kernel: Kernel, segments: Segments, *, heads: int, width: int, causal: bool
) -> float | str:
    """Time attention forward and backward in bfloat16; or say why a kernel does not run."""
    device, length = segments.ids.device, segments.ids.shape[1]
    shape = (1, heads, length, width // heads)
    qkv = [
        torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    ]
    times = []
    try:
        for _ in range(ROUNDS + 1):
            settle(device)
            begun = time.perf_counter()
            within(segments, kernel, causal=causal)(*qkv).sum().backward()
            settle(device)
            times.append(time.perf_counter() - begun)
    except Exception as error:  # noqa: BLE001 -- whatever a kernel that is not for this device says
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
    return min(times[1:])


def fastest(found: Seconds) -> Kernel:
    """Return the kernel that took least.

    Example:
        >>> fastest({"varlen": "RuntimeError: no", "flex": 0.2, "dense": 0.3})
        'flex'
    """
    return min(
        found, key=lambda each: math.inf if isinstance(found[each], str) else float(found[each])
    )
