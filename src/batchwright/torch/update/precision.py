"""Mixed precision for any number of batches an update: chosen, applied, checked."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from time import perf_counter
from typing import Literal

import torch

from batchwright._checks import check_choice, real_number, whole_number
from batchwright.errors import LossError, PrecisionError, UpdateError
from batchwright.torch.data.rows import Split, halves
from batchwright.torch.update.loss_check import LossFindings
from batchwright.torch.update.measuring import MODES, UNSCALED, Mode, Policy, agreed
from batchwright.torch.update.passes import LossSum
from batchwright.torch.update.ranks import ranks_of
from batchwright.torch.update.step import stepping
from batchwright.torch.update.update import Session, Update
from batchwright.typing import Batch, State

_NOTHING = 1e-300
"""Windows without tokens weigh up to this together: see `Window`."""


class Precision(Session):
    """Computes updates in one precision, with the exact gradient.

    Casting and loss scaling are `torch.amp`'s. This adds: the loss is divided by the weight of the
    whole update, over all its batches and ranks; a batch that runs out of memory is split and the
    update starts again; a step counts as applied only if it was; a loss scale that keeps sinking
    is an error.

    Args:
        precision: ``"fp32"``, ``"tf32"``, ``"bf16"`` or ``"fp16"`` (mixed), ``"bf16-true"``;
            ``"auto"``: the quickest of the first four, measured on the model and the batch of the
            first update, which logs what it chose; or a function that makes the context of a
            forward pass, for formats of other libraries.
        scaler: Scales the loss, in place of the precision's own.
        loss_scale_floor: A loss scale below this three updates in a row is an error.
        check_loss: Find out in the first update whether the loss is a sum over rows, by
            passes over a few rows that leave no trace. A mean is refused; a batch whose loss is
            not known to be a sum is never split. False: it is taken to be a sum.

    Attributes:
        mode: The precision in use. None until ``"auto"`` has chosen; ``"custom"`` for a function.
        loss_scale: The present loss scale; 1 where nothing is scaled.
        evidence: What was measured for ``"auto"``. None: nothing was.
        applied: Updates that moved the parameters.
        skipped: Updates that did not, as gradients were not finite.
        splits: Batches of this rank that were split for lack of memory, in this process.
        limit: Batches of more tokens are split before they are tried. None: memory has not run out.
        findings: What is known of the loss functions that were used.

    Raises:
        PrecisionError: If there is no such precision.

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
        precision: Mode | Literal["auto"] | Callable[[], AbstractContextManager[object]],
        *,
        scaler: torch.amp.GradScaler | None = None,
        loss_scale_floor: float = 1.0,
        check_loss: bool = True,
    ) -> None:
        policy: Policy | None = None
        mode: str | None = None
        if callable(precision):
            mode, policy = "custom", Policy("custom", precision, scaler or UNSCALED)
        else:
            check_choice("Precision", "precision", precision, ("auto", *MODES), PrecisionError)
            mode = None if precision == "auto" else precision
        super().__init__(mode, policy, scaler, loss_scale_floor, LossFindings(enabled=check_loss))

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
        """Choose the precision by some interleaved rounds of a step of each candidate, on a batch.

        Parameters, buffers and random states are left as they were. Of candidates that are about
        as fast, the first is chosen. With copies of the model on several ranks, rank 0 measures,
        keeps the evidence, and all take what it chose.

        Example:
            >>> model = torch.nn.Linear(3, 1)
            >>> loss_sum = lambda model, batch: model(batch).square().sum()
            >>> chosen = Precision.measure(model, loss_sum, torch.ones(4, 3))
            >>> chosen.mode in {"fp32", "bf16"}, chosen.evidence.trials[0].mode
            (True, 'fp32')
        """
        made, ranks = cls("auto"), ranks_of(model)
        options = {"candidates": candidates, "rounds": rounds}
        measure = partial(made.choose, ranks, loss_sum, batch, halves, **options)
        made.mode = agreed(ranks, "auto", measure=measure)
        return made

    def prepare(self, model: torch.nn.Module) -> torch.nn.Module:
        """Cast the parameters if the mode asks for it. Call it before making the optimizer."""
        return model.bfloat16() if self.mode == "bf16-true" else model

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
        begun = perf_counter()
        ranks = ranks_of(model)
        several = stepping(optimizer)
        norm = None if clip is None else _number(clip)
        if norm is not None and not norm > 0:
            raise UpdateError(f"clip={clip!r}: expected a norm above 0; None does not clip.")
        given = weight if global_weight is None else global_weight
        total = _number(given)
        if global_weight is None:
            (total,) = ranks.summed([total])
        total = 0.0 if 0 <= total <= _NOTHING else total
        if not 0 <= total < math.inf:
            raise LossError(
                f"the update weighs {total} (here {given!r}), expected the number of tokens or "
                "samples that its loss sums over, 0 or more."
            )
        factor = 1.0 if learning_rate is None or not total else _number(learning_rate(total))
        if not 0 <= factor < math.inf:
            raise UpdateError(
                f"learning_rate gave a factor of {factor} for a weight of {total:g}, expected a "
                "number of 0 or more."
            )
        return Update(self, ranks, several, total, norm, split, factor, _begun=begun)

    def state_dict(self) -> State:
        """Return what an exact resume needs: the mode, the scaler's state, the counters."""
        return {
            "mode": self.mode,
            "scaler": self.scaler_state(),
            "applied": self.applied,
            "skipped": self.skipped,
            "below": self.below,
            "limit": self.limit,
        }

    def load_state_dict(self, state: State) -> None:
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
        if mode in MODES:
            self.mode = mode
        self.load_scaler(saved["scaler"])
        self.applied, self.skipped, self.below = (saved[name] for name in _COUNTS)
        self.limit = saved["limit"]


def _number(value: object) -> float:
    """Return a number; NaN for anything else, which all ranks then see in the sum."""
    try:
        return float(value)  # type: ignore[arg-type]  # others raise
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return math.nan


_COUNTS = ("applied", "skipped", "below")
_RANGES = {"scale": (0, math.inf), "growth_factor": (1, math.inf), "backoff_factor": (0, 1)}
_SCALER = sorted({*_RANGES, "growth_interval", "_growth_tracker"})


def _checked_state(state: object) -> State:
    """Check what `Precision.state_dict` returned, and return it as plain Python numbers."""
    wrong, load = "no state of a Precision", "Load what Precision.state_dict() returned"
    names = {"mode", "scaler", "limit", *_COUNTS}

    def count(name: str, value: object) -> int:
        return whole_number(wrong, name, value, least=0, error=PrecisionError)

    def between(name: str, value: object, low: float = 0, high: float = math.inf) -> float:
        return real_number(
            wrong,
            name,
            value,
            accepts=lambda number: low < number < high,
            expected=f"a number above {low}, below {high}. {load}",
            error=PrecisionError,
        )

    if not isinstance(state, Mapping) or set(state) != names:
        given = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise PrecisionError(f"{wrong}: got {given}, expected a dict with {sorted(names)}. {load}.")
    mode, limit, scaler = state["mode"], state["limit"], state["scaler"]
    if mode is not None:
        check_choice(wrong, "mode", mode, (*MODES, "custom"), PrecisionError)
    if scaler not in (None, {}):  # the latter of one that is switched off
        if not isinstance(scaler, Mapping) or sorted(scaler) != _SCALER:
            raise PrecisionError(
                f"{wrong}: scaler is {scaler!r}, expected a dict with {_SCALER}. {load}."
            )
        scaler = {
            name: between(name, value, *_RANGES[name]) if name in _RANGES else count(name, value)
            for name, value in scaler.items()
        }
    limit = None if limit is None else between("limit", limit)
    counts = {name: count(name, state[name]) for name in _COUNTS}
    return {"mode": mode, "scaler": scaler or None, "limit": limit, **counts}
