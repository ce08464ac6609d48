"""Which rank a process is: as given, or as launchers and `torch.distributed` say."""

import os
import sys

from batchwright._checks import whole_number
from batchwright.errors import PlanError

_WORLD_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "HOROVOD_SIZE")
"""Where launchers say how many processes they started."""


def given_place(rank: int | None, world_size: int | None) -> tuple[int, int] | None:
    """Return the rank and world size that the user gave, as integers; None if neither."""
    if (rank is None) != (world_size is None):
        raise PlanError(f"rank={rank}, world_size={world_size}: give both, or neither.")
    if rank is None or world_size is None:
        return None
    ranks = whole_number(None, "world_size", world_size, error=PlanError)
    place = whole_number(None, "rank", rank, least=0, error=PlanError)
    if place >= ranks:
        raise PlanError(f"rank={rank} is not in a world of {world_size}.")
    return place, ranks


def launched(name: str) -> int:
    """Return how many processes a launcher says that it started, by a variable of this name."""
    given = os.environ.get(name, "")
    return int(given) if given.isdecimal() else 1


def launcher() -> str | None:
    """Return the variable by which a launcher says that it started several processes, if any."""
    return next((name for name in _WORLD_SIZES if launched(name) > 1), None)


def place_of(rank: int | None, world_size: int | None, owner: str) -> tuple[int, int]:
    """Return rank and world size: as given, else as `torch.distributed` says, else one process.

    Torch is not imported for that: a process that has not done so has no rank of it.

    Raises:
        PlanError: If the rank is not in the world; or if a launcher started several processes of
            which nothing is known: each would get all of the data.
    """
    given = given_place(rank, world_size)
    if given is not None:
        return given
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    name = launcher()
    if name is None:
        return 0, 1
    raise PlanError(
        f"{name}={launched(name)} in the environment, and {owner} got no rank: every process "
        "would get all of the data. Give rank= and world_size=, or call init_process_group first."
    )
