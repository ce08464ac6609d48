"""One precision on all ranks: the one that was given, or the one that rank 0 measured."""

from collections.abc import Callable

from batchwright.errors import PrecisionError
from batchwright.torch.update.policy import MODES, Mode
from batchwright.torch.update.ranks import Ranks

_NAMES = (*MODES, "custom", "auto")
_WITH_BATCH, _WITHOUT_BATCH, _FAILED = range(3)


def agreed(
    ranks: Ranks, given: str, *, measure: Callable[[], Mode] | None, failed: bool = False
) -> str | None:
    """Settle one mode for all ranks.

    Every rank has to call it once, also one that has failed, or has no batch to measure on:
    the others wait.

    Args:
        ranks: The ranks.
        given: The mode that this rank was given, ``"custom"``, or ``"auto"``.
        measure: Chooses a mode for ``"auto"``, on rank 0; None where there is no batch.
        failed: Whether this rank cannot go on.

    Returns:
        The mode; None if this rank has failed, or no rank has a batch yet.

    Raises:
        PrecisionError: On all ranks, if they were given different modes, or rank 0 had nothing
            to measure on.
        UpdateError: If another rank has failed.
    """
    chosen, error = given, None
    # Passes through shards need every rank; of copies the others wait for rank 0.
    if given == "auto" and measure is not None and (ranks.rank == 0 or ranks.kind == "shards"):
        try:
            chosen = measure()
        except Exception as raised:  # noqa: BLE001 (raised again, once the others know)
            error = raised
    state = _WITHOUT_BATCH if measure is None else _WITH_BATCH
    state = _FAILED if failed or error is not None else state
    told = ranks.gathered([_NAMES.index(given), _NAMES.index(chosen), state])
    if error is not None:
        raise error
    states = [int(each) for _, _, each in told]
    if failed or set(states) == {_WITHOUT_BATCH}:
        return None
    if _FAILED in states:
        raise ranks.without(states.count(_FAILED))
    names = [_NAMES[int(each)] for each, _, _ in told]
    if len(set(names)) > 1:
        listed = ", ".join(f"rank {rank}: {name}" for rank, name in enumerate(names))
        raise PrecisionError(f"ranks have different precisions ({listed}). Give all the same.")
    mode = _NAMES[int(told[0][1])]
    if mode == "auto":
        raise PrecisionError(
            'Precision("auto") measures on the first batch of rank 0, which has none in this '
            "update. Give a mode, or begin with an update that has a batch on each rank."
        )
    return mode
