"""Which rank this process is, and streams that are split among ranks or workers already."""

import warnings
import zlib
from itertools import islice

import numpy as np
import torch
from torch import distributed
from torch.utils.data import IterableDataset

from batchwright._ranks import launched, launcher
from batchwright.errors import PlanError
from batchwright.torch.data.trees import leaves_of
from batchwright.typing import Field

_HUGGING_FACE = "datasets.IterableDataset"

_DEPTH = 16
"""Streams looked at inside of one another."""

_LEAVES = 4_096
"""Values of a sample that are hashed."""

_COMPARED: dict[str, int] = {}
"""How often each kind of stream was compared among ranks, to distinguish passes."""


def placed(given: tuple[int, int] | None, owner: str, *, begins: bool = False) -> tuple[int, int]:
    """Return rank and world size: as given, else as `torch.distributed` says, else one process.

    If a launcher started several processes, warn in the name of the owner, unless it is empty; or
    raise `PlanError` where an epoch begins: every process would get all of the data.
    """
    if given is not None:
        return given
    if is_initialised():
        return distributed.get_rank(), distributed.get_world_size()
    name = launcher() if owner else None
    if name is None:
        return 0, 1
    message = (
        f"{name}={launched(name)} in the environment, but torch.distributed is not "
        f"initialised: {owner} takes this process for the only one, and every process would "
        "get all of the data. Call init_process_group first, or give rank= and world_size=."
    )
    if begins:
        raise PlanError(message)
    warnings.warn(message, stacklevel=4)
    return 0, 1


def is_initialised() -> bool:
    """Check whether this process has a rank of `torch.distributed`."""
    return distributed.is_available() and distributed.is_initialized()


def splits_by_worker(samples: object) -> bool | None:
    """Check whether a stream gives each worker its own part. None: it does not say."""
    _, stages = _staged(samples)
    return bool({"split_by_worker", _HUGGING_FACE} & stages) if stages else None


def check_not_split_by_rank(samples: object, world_size: int, presharded: object) -> None:
    """Raise `PlanError` if a stream gives each rank its own part, or may well do so."""
    inside, stages = _staged(samples)
    by = None
    if _HUGGING_FACE in stages:
        parts = getattr(getattr(inside, "_distributed", None), "world_size", 1)
        others = distributed.get_world_size() if is_initialised() else launched("WORLD_SIZE")
        if parts > 1 and max(world_size, others) > 1:
            by = "datasets.distributed.split_dataset_by_node"
    elif world_size > 1 and "split_by_node" in stages:
        by = "nodesplitter=split_by_node"
    elif world_size > 1 and any("resampled" in name.lower() for name in stages):
        by = "resampled=True"
    if by is not None:
        raise PlanError(
            f"the stream is split by rank already ({by}). A StreamDataset shares each update among "
            "the ranks itself, in equal counts. Give every rank the whole stream: leave that out."
        )
    is_unknown = not stages and isinstance(samples, IterableDataset)
    if is_unknown and presharded is True and world_size > 1:
        raise PlanError(
            f"presharded=True leaves open who shares the stream, and there are {world_size} ranks. "
            'If only the workers of a rank do, say presharded="workers". If each rank has its '
            "own part, give every rank the whole stream instead."
        )


def compare_ranks(kind: str, rank: int, world_size: int, window: int, opening: int) -> None:
    """Compare what ranks read first with what others have read already, without waiting.

    `kind` is the same on every rank: settings and epoch. `window` and `opening` are hashes of the
    first window (lengths, and batches made of them) and of the contents of the first samples.
    """
    if not is_initialised() or world_size < 2:
        return
    get = getattr(distributed.distributed_c10d, "_get_default_store", None)
    if get is None:
        return
    store = get()
    nth = _COMPARED[kind] = _COMPARED.get(kind, 0) + 1
    keys = [f"batchwright/{zlib.crc32(kind.encode())}/{nth}/{each}" for each in range(world_size)]
    store.set(keys[rank], f"{window} {opening}")
    for other, key in enumerate(keys):
        if other == rank or not store.check([key]):
            continue
        ranks = f"ranks {min(rank, other)} and {max(rank, other)}"
        their_window, their_opening = map(int, store.get(key).split())
        if their_window != window:
            raise PlanError(
                f"{ranks} read different samples: the stream is split by rank already, or comes in "
                "another sequence on each. Give every rank the whole stream in the same sequence."
            )
        if their_opening != opening:
            warnings.warn(
                f"{ranks} read samples of the same lengths that differ in what they hold. If the "
                "stream is split by rank already, give every rank the whole stream. If samples are "
                "altered at random as they are read, say presharded=False.",
                stacklevel=2,
            )
            return


def content_hash(value: Field) -> int:
    """Hash the first numbers and texts in a value, whatever holds them."""
    total = 0
    for leaf in islice(leaves_of(value), _LEAVES):
        part = leaf
        if isinstance(leaf, torch.Tensor | np.ndarray):
            part = leaf.reshape(-1)[:64].tolist() if leaf.ndim else leaf.tolist()
        elif not isinstance(leaf, str | bytes | bool | int | float):
            part = leaf.item() if isinstance(leaf, np.generic) else type(leaf).__name__
        total = zlib.crc32(repr(part).encode("utf-8", "backslashreplace"), total)
    return total


def _staged(samples: object) -> tuple[object, set[str]]:
    """Return the first of a stream and the data sets that it is made of that has stages.

    These are the names of a WebDataset's stages, or that of Hugging Face's streams.
    """
    inside: object = samples
    for _ in range(_DEPTH):
        streams = (each for each in type(inside).__mro__ if each.__name__ == "IterableDataset")
        if any(each.__module__.startswith("datasets.") for each in streams):
            return inside, {_HUGGING_FACE}
        pipeline = getattr(inside, "pipeline", None)
        if isinstance(pipeline, list) and pipeline and isinstance(inside, IterableDataset):
            parts = [
                (each, getattr(each, "f", None), getattr(each, "func", None)) for each in pipeline
            ]
            names = {str(getattr(part, "__name__", "")) for each in parts for part in each}
            return inside, names | {type(each).__name__ for each in pipeline}
        inside = getattr(inside, "dataset", None)
    return samples, set()
