"""How many batches a batching needs whose number hangs on chance."""

from collections.abc import Callable

from batchwright.batching.draft import Draft

_DRAWS = 4


def probed_count(draw: Callable[[], Draft], *, is_random: bool) -> int:
    """Return a number of batches that most draws do not exceed.

    A few draws are made; their largest number, and once more their spread, is what every epoch
    gets. A later draw that needs more is made again by the planner, with other random numbers.

    Args:
        draw: Makes a draft; called a few times.
        is_random: Whether draws differ at all.

    Returns:
        The number of batches.
    """
    counts = [draw().offsets.size - 1 for _ in range(_DRAWS if is_random else 1)]
    return 2 * max(counts) - min(counts)
