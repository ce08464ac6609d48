"""Streams that are split already, among ranks or among workers: recognised, or found out."""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.utils.data import IterableDataset

from batchwright.errors import PlanError

_DEPTH = 16
"""Streams looked at inside of one another."""

_COMPARED: dict[str, int] = {}
"""How often each kind of stream was compared among ranks, to tell passes apart."""


def splits_by_worker(samples: object) -> bool | None:
    """Say whether a stream gives each worker a part of its own. None: it does not say."""
    for inside in _inside(samples):
        if _is_hugging_face(inside):
            return True
        names = _stages(inside)
        if names:
            return "split_by_worker" in names
    return None


def check_not_split_by_rank(samples: object, world_size: int, presharded: object) -> None:
    """Raise if a stream gives each rank a part of its own, as far as it says.

    Args:
        samples: The stream.
        world_size: Ranks that share each update.
        presharded: What the user said of it.

    Raises:
        PlanError: If it does, or if that is left open.
    """
    for inside in _inside(samples):
        distributed_over = getattr(getattr(inside, "_distributed", None), "world_size", 1)
        if _is_hugging_face(inside) and distributed_over > 1:
            if world_size > 1 or _has_other_ranks():
                raise _split("datasets.distributed.split_dataset_by_node")
            return
        names = _stages(inside)
        if world_size > 1 and "split_by_node" in names:
            raise _split("nodesplitter=split_by_node")
        if world_size > 1 and any("resampled" in name.lower() for name in names):
            raise _split("resampled=True")
        if names or _is_hugging_face(inside):
            return
    if presharded is True and world_size > 1 and isinstance(samples, IterableDataset):
        message = (
            f"presharded=True leaves open who shares the stream, and there are {world_size} ranks. "
            'If only the workers of a rank do, say presharded="workers". If each rank has a part '
            "of its own, give every rank the whole stream instead: updates are shared here, in "
            "equal counts."
        )
        raise PlanError(message)


def compare_ranks(kind: str, rank: int, world_size: int, window: int, opening: int) -> None:
    """Compare what ranks read first with what other ranks have read already; nobody waits.

    Args:
        kind: What is the same on every rank: settings and epoch.
        rank: This process.
        world_size: Ranks that share each update.
        window: Hash of the first window: lengths, and batches made of them.
        opening: Hash of what is in the first samples.

    Raises:
        PlanError: If another rank's window differs: then its stream does.
    """
    store = _store()
    if store is None or world_size < 2:
        return
    nth = _COMPARED[kind] = _COMPARED.get(kind, 0) + 1
    keys = [f"batchwright/{zlib.crc32(kind.encode())}/{nth}/{each}" for each in range(world_size)]
    store.set(keys[rank], f"{window} {opening}")
    for other, key in enumerate(keys):
        if other == rank or not store.check([key]):
            continue
        their_window, their_opening = map(int, store.get(key).split())
        if their_window != window:
            message = (
                f"ranks {min(rank, other)} and {max(rank, other)} read different samples: the "
                "stream is split by rank already, or comes in another sequence on each. Give every "
                "rank the whole stream in the same sequence: updates are shared here, in equal "
                "counts."
            )
            raise PlanError(message)
        if their_opening != opening:
            warnings.warn(
                f"ranks {min(rank, other)} and {max(rank, other)} read samples of the same lengths "
                "that differ in what they hold. If the stream is split by rank already, most of it "
                "is lost: give every rank the whole stream. If samples are altered at random as "
                "they are read, say so: presharded=False.",
                stacklevel=2,
            )
            return


def content_hash(value: Any) -> int:
    """Hash what is in a sample: numbers and text, in whatever it is kept.

    Example:
        >>> content_hash({"x": [1, 2]}) == content_hash({"x": (1, 2)})
        True
    """
    total = 0
    for part in _parts(value):
        total = zlib.crc32(part, total)
    return total


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, str):
        yield value.encode("utf-8", "surrogatepass")
    elif isinstance(value, bytes):
        yield value
    elif isinstance(value, bool | int | float | np.number):
        yield repr(float(value) if isinstance(value, float | np.floating) else int(value)).encode()
    elif isinstance(value, Mapping):
        for name in value:
            yield from _parts(name)
            yield from _parts(value[name])
    elif isinstance(value, torch.Tensor | np.ndarray):
        array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
        yield repr(array.tolist()[:64] if array.ndim else array.tolist()).encode()
    elif isinstance(value, list | tuple):
        for each in value[:64]:
            yield from _parts(each)
    else:
        yield type(value).__name__.encode()


def _inside(samples: object) -> Iterator[object]:
    """Go through a stream and the data sets that it is made of."""
    inside: object = samples
    for _ in range(_DEPTH):
        if inside is None:
            return
        yield inside
        inside = getattr(inside, "dataset", None)


def _is_hugging_face(samples: object) -> bool:
    return any(
        each.__module__.startswith("datasets.") and each.__name__ == "IterableDataset"
        for each in type(samples).__mro__
    )


def _stages(samples: object) -> list[str]:
    """List the names of a WebDataset's stages."""
    pipeline = getattr(samples, "pipeline", None)
    if not isinstance(pipeline, list) or not isinstance(samples, IterableDataset):
        return []
    names = []
    for stage in pipeline:
        names.append(type(stage).__name__)
        parts = (stage, getattr(stage, "f", None), getattr(stage, "func", None))
        names.extend(str(getattr(each, "__name__", "")) for each in parts)
    return names


def _has_other_ranks() -> bool:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size() > 1
    said = os.environ.get("WORLD_SIZE", "")
    return said.isdecimal() and int(said) > 1


def _store() -> Any:
    """Return the store that ranks met in, which takes and gives text without their waiting."""
    if not distributed.is_available() or not distributed.is_initialized():
        return None
    get = getattr(distributed.distributed_c10d, "_get_default_store", None)
    return None if get is None else get()


def _split(by: str) -> PlanError:
    return PlanError(
        f"the stream is split by rank already ({by}). A StreamDataset shares each update among the "
        "ranks itself, in equal counts, and would leave each a part of its part. Give every rank "
        "the whole stream: leave that out."
    )
