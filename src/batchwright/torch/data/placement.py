"""Which of the ranks this process is."""

from __future__ import annotations

import operator
import os
import warnings

from torch import distributed

from batchwright.errors import PlanError

_WORLD_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "HOROVOD_SIZE")
"""Where launchers say how many processes they started."""


def given_place(rank: int | None, world_size: int | None) -> tuple[int, int] | None:
    """Check a rank and a world size that the user gave.

    Returns:
        Both, as plain integers. None: neither was given.

    Raises:
        PlanError: If only one was given, or they make no sense.

    Example:
        >>> given_place(1, 2), given_place(None, None)
        ((1, 2), None)
    """
    if (rank is None) != (world_size is None):
        message = f"rank={rank}, world_size={world_size}: give both, or neither."
        raise PlanError(message)
    if rank is None or world_size is None:
        return None
    try:
        place = operator.index(rank), operator.index(world_size)
    except TypeError as error:
        message = f"rank={rank!r}, world_size={world_size!r}: expected integers."
        raise PlanError(message) from error
    if not 0 <= place[0] < place[1]:
        message = f"rank={rank} is not in a world of {world_size}."
        raise PlanError(message)
    return place


def placed(given: tuple[int, int] | None, owner: str) -> tuple[int, int]:
    """Return rank and world size as they are now.

    Args:
        given: What the user gave. None: what `torch.distributed` says once it is initialised, else
            one process alone, with a warning where a launcher started several.
        owner: Who asks, for the warning. Empty: nobody is warned.
    """
    if given is not None:
        return given
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    if owner:
        _warn_of_others(owner)
    return 0, 1


def _warn_of_others(owner: str) -> None:
    for name in _WORLD_SIZES:
        said = os.environ.get(name, "")
        if said.isdecimal() and int(said) > 1:
            warnings.warn(
                f"{name}={said} in the environment, but torch.distributed is not initialised: "
                f"{owner} takes this process for the only one, and every process will get all of "
                "the data. Call init_process_group first, or give rank= and world_size= (rank=0, "
                "world_size=1 where each process is to have all).",
                stacklevel=4,
            )
            return
