"""Mixed precision for any number of batches an update: chosen, applied, checked."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal

import torch

from batchwright.errors import LossError, PrecisionError, UpdateError
from batchwright.torch.data.rows import Split, halves
from batchwright.torch.update.loss_check import LossFindings
from batchwright.torch.update.loss_functions import LossSum
from batchwright.torch.update.measuring import Evidence
from batchwright.torch.update.modes import MODES, UNSCALED, Mode, Policy, agreed
from batchwright.torch.update.out_of_memory import SizeLimit
from batchwright.torch.update.ranks import ranks_of
from batchwright.torch.update.step import checked_clip, stepping
from batchwright.torch.update.update import Session, Update
from batchwright.typing import Batch, State

_NOTHING = 1e-300
"""Windows without tokens weigh up to this together: see `Window`."""


class Precision:
    """Computes updates in one precision, with the exact gradient.

    Casting and loss scaling are `torch.amp`'s. This adds: the loss is divided by the weight of the
    whole update, over all its batches and ranks; a batch that runs out of memory is split and the
    update starts again; a step counts as applied only if it was; a loss scale that keeps sinking
    is an error.

    Args:
        mode: ``"fp32"``, ``"tf32"``, ``"bf16"`` or ``"fp16"`` (mixed), ``"bf16-true"``; or
            ``"auto"``: measured on the model and the batch of the first update.
        autocast: Makes the context of a forward pass, in place of a mode: for formats of other
            libraries.
        scaler: Scales the loss, in place of a mode's own.
        loss_scale_floor: A loss scale below this three updates in a row is an error.
        check_loss: Find out in the first update whether the loss is a sum over rows, by
            passes over a few rows that leave no trace. A mean is refused; a batch whose loss is
            not known to be a sum is never split. False: it is taken to be a sum.

    Raises:
        PrecisionError: If there is no such mode.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> precision = Precision("bf16")
        >>> def loss_sum(model, batch):
        ...     return model(batch).float().square().sum()
        >>> with precision.update(model, optimizer, weight=8, clip=1.0) as update:
        ...     for batch in torch.ones(2, 4, 3):
        ...         update.backward(loss_sum, batch)
        >>> update.applied, precision.mode
        (True, 'bf16')
    """

    def __init__(
        self,
        mode: Mode | Literal["auto"] = "auto",
        *,
        autocast: Callable[[], AbstractContextManager[Any]] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        loss_scale_floor: float = 1.0,
        check_loss: bool = True,
    ) -> None:
        if mode not in {"auto", *MODES}:
            listed = ", ".join(f'"{each}"' for each in ("auto", *MODES))
            raise PrecisionError(f"Precision({mode!r}): expected one of {listed}.")
        if autocast is not None and mode != "auto":
            raise PrecisionError(f'give either a mode or autocast, got "{mode}" and autocast.')
        self._session = Session(
            "custom" if autocast is not None else None if mode == "auto" else mode,
            None if autocast is None else Policy("custom", autocast, scaler or UNSCALED),
            scaler,
            loss_scale_floor,
            LossFindings(enabled=check_loss),
        )

    @classmethod
    def measure(
        cls,
        model: torch.nn.Module,
        loss_sum: LossSum,
        batch: Batch,
        *,
        candidates: Sequence[Mode] = ("fp32", "tf32", "bf16", "fp16"),
        rounds: int = 5,
    ) -> "Precision":
        """Choose the precision by a few interleaved steps of each on this model and batch.

        Parameters, buffers and random states are left as they were. With copies of the model on
        several ranks, rank 0 measures, keeps the evidence, and all take what it chose.

        Args:
            model: The model, where it will be trained.
            loss_sum: ``(model, batch) → the sum of the loss``.
            batch: A typical batch.
            candidates: The modes to try, the simplest first, if the device can do them.
            rounds: Steps of each.

        Example:
            >>> model = torch.nn.Linear(3, 1)
            >>> loss_sum = lambda model, batch: model(batch).square().sum()
            >>> chosen = Precision.measure(model, loss_sum, torch.ones(4, 3))
            >>> chosen.mode in {"fp32", "bf16"}, chosen.evidence.trials[0].mode
            (True, 'fp32')
        """
        precision = cls()
        session, ranks = precision._session, ranks_of(model)
        options = {"candidates": candidates, "rounds": rounds}
        measure = partial(session.measure, ranks, loss_sum, batch, halves, **options)
        session.mode = agreed(ranks, "auto", measure=measure)
        return precision

    @property
    def mode(self) -> str | None:
        """The mode in use. None until ``"auto"`` has chosen."""
        return self._session.mode

    @property
    def loss_scale(self) -> float:
        """The present loss scale; 1 where nothing is scaled."""
        return self._session.loss_scale

    @property
    def evidence(self) -> Evidence | None:
        """What was measured for ``"auto"``. None: nothing was."""
        return self._session.evidence

    @property
    def applied(self) -> int:
        """Updates that moved the parameters."""
        return self._session.applied

    @property
    def skipped(self) -> int:
        """Updates that did not, as gradients were not finite."""
        return self._session.skipped

    @property
    def limit(self) -> SizeLimit:
        """The batch size that recently did not fit into memory."""
        return self._session.limit

    @property
    def findings(self) -> LossFindings:
        """What is known of the loss functions that were used."""
        return self._session.findings

    def prepare(self, model: torch.nn.Module) -> torch.nn.Module:
        """Cast the parameters if the mode asks for it. Call it before making the optimizer."""
        return model.bfloat16() if self._session.mode == "bf16-true" else model

    def update(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        *,
        weight: float | None = None,
        global_weight: float | None = None,
        clip: float | None = None,
        split: Split | None = None,
        learning_rate: Callable[[float], float] | None = None,
    ) -> Update:
        """Begin an update: a context, and afterwards its results.

        Args:
            model: The model: bare, in DistributedDataParallel, or after ``fully_shard``. With
                copies on several ranks, gradients are summed once for all batches, and buffers
                are rank 0's afterwards; with shards, ranks need equal numbers of batches.
            optimizer: The optimizer, or several that step together or not at all.
            weight: What the loss sums of this rank's window add up over: tokens, samples. Ranks
                add theirs by one small all-reduce.
            global_weight: The same over all ranks, where it is known: that saves the all-reduce.
            clip: Largest norm of the gradient, above 0.
            split: ``batch → (first, second)``, for batches other than a tensor, dict or tuple of
                tensors with rows in dimension 0.
            learning_rate: Update's global weight → factor on the learning rate; see
                `scaled_by_weight`. Schedulers do not see it.

        Raises:
            LossError: If both or neither weight is given, or the sum is not a number of at least 0.
            UpdateError: If the model's wrapper would make the gradient wrong, or `clip` or the
                factor on the learning rate is not a valid number.
        """
        if (weight is None) == (global_weight is None):
            raise LossError("give either weight (this rank's) or global_weight (of all ranks).")
        ranks = ranks_of(model)
        several = stepping(optimizer)
        norm = checked_clip(clip)
        given = weight if global_weight is None else global_weight
        total = _number(given)
        if global_weight is None:
            (total,) = ranks.summed([total])
        total = 0.0 if 0 <= total <= _NOTHING else total
        if not 0 <= total < math.inf:
            shown = f"{total} (here {given!r})" if math.isnan(total) else f"{total}"
            raise LossError(
                f"the update weighs {shown}, expected the number of tokens or samples that its "
                "loss sums over, 0 or more."
            )
        factor = 1.0 if learning_rate is None or not total else _number(learning_rate(total))
        if not 0 <= factor < math.inf:
            raise UpdateError(
                f"learning_rate gave a factor of {factor} for a weight of {total:g}, expected a "
                "number of 0 or more."
            )
        return Update(self._session, ranks, several, total, norm, split, factor)

    def state_dict(self) -> State:
        """Return what an exact resume needs: the mode, the scaler's state, the counters."""
        session = self._session
        return {
            "mode": self.mode,
            "scaler": session.scaler_state(),
            "applied": session.applied,
            "skipped": session.skipped,
            "below": session.below,
            "limit": [session.limit.tokens, session.limit.clean],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was saved; a mode that ``"auto"`` chose is kept.

        Raises:
            PrecisionError: If it is no state, or was saved in another mode.
        """
        saved = _checked_state(state)
        mode = saved["mode"]
        if self.mode not in {None, mode}:
            raise PrecisionError(
                f'the state was saved in "{mode}", this is Precision("{self.mode}"). Resume '
                'in the same, or in "auto", which takes over what was chosen.'
            )
        session = self._session
        if mode in MODES:
            session.mode = mode
        session.load_scaler(saved["scaler"])
        session.applied, session.skipped = saved["applied"], saved["skipped"]
        session.below, session.limit = saved["below"], SizeLimit(*saved["limit"])


def _number(value: Any) -> float:
    """Return a number; NaN for anything else, which all ranks then see in the sum."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return math.nan


_SCALER: dict[str, tuple[float, float] | None] = {  # a number in between, or a whole number
    "scale": (0.0, math.inf),
    "growth_factor": (1.0, math.inf),
    "backoff_factor": (0.0, 1.0),
    "growth_interval": None,
    "_growth_tracker": None,
}


def _checked_state(state: object) -> State:
    """Check what `Precision.state_dict` returned, and return it as plain Python numbers."""
    if not isinstance(state, Mapping):
        raise _wrong(f"it is a {type(state).__name__}, expected a dict")
    names = {"mode", "scaler", "applied", "skipped", "below", "limit"}
    if set(state) != names:
        missing, more = sorted(names - set(state)), sorted(map(str, set(state) - names))
        raise _wrong(f"it lacks {missing} and has {more} besides")
    mode, limit, scaler = state["mode"], state["limit"], state["scaler"]
    if mode is not None and (not isinstance(mode, str) or mode not in {*MODES, "custom"}):
        raise _wrong(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
    if not isinstance(limit, list | tuple) or len(limit) != 2:
        raise _wrong(f"limit is {limit!r}, expected [tokens or None, updates]")
    if scaler is None or scaler == {}:  # of a scaler that is switched off
        scaler = None
    elif not isinstance(scaler, Mapping) or set(scaler) != set(_SCALER):
        raise _wrong(f"scaler is {scaler!r}, expected None or a dict with {', '.join(_SCALER)}")
    else:
        scaler = {name: _checked(name, scaler[name], between) for name, between in _SCALER.items()}
    tokens = None if limit[0] is None else _checked("limit", limit[0], (0.0, math.inf))
    counts = {name: _checked(name, state[name]) for name in ("applied", "skipped", "below")}
    limit = (tokens, _checked("limit", limit[1]))
    return {"mode": mode, "scaler": scaler, "limit": limit, **counts}


def _checked(name: str, value: Any, between: tuple[float, float] | None = None) -> float:
    """Return a number between two others, or, without them, a whole number of at least 0."""
    if between is not None:
        low, high = between
        number = math.nan if isinstance(value, bool | str) else _number(value)
        if low < number < high:
            return number
        raise _wrong(f"{name} is {value!r}, expected a number above {low:g}, below {high:g}")
    try:
        whole = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        whole = -1
    if 0 <= whole < 2**63:
        return whole
    raise _wrong(f"{name} is {value!r}, expected a whole number of 0 or more")


def _wrong(what: str) -> PrecisionError:
    return PrecisionError(
        f"no state of a Precision: {what}. Load what Precision.state_dict() returned."
    )
