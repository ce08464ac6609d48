"""Mixed precision for any number of batches an update: chosen, applied, checked."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, cast
from weakref import WeakKeyDictionary

import torch

from batchwright._records import Record
from batchwright.errors import LossError, LossScaleError, PrecisionError, UpdateError
from batchwright.torch.data.rows import Split, halves
from batchwright.torch.update.agreement import agreed
from batchwright.torch.update.live_losses import LiveLosses
from batchwright.torch.update.loss_findings import LossFindings
from batchwright.torch.update.loss_sums import LossSum
from batchwright.torch.update.measuring import Evidence, choose, measured, refuse_exchange
from batchwright.torch.update.optimizers import stepping
from batchwright.torch.update.out_of_memory import SizeLimit, on_what_fits
from batchwright.torch.update.pass_state import PassState, PassTrace
from batchwright.torch.update.policy import MODES, Mode, Policy, policy_for
from batchwright.torch.update.precision_state import checked_state
from batchwright.torch.update.ranks import Ranks, device_of, ranks_of
from batchwright.torch.update.step import checked_clip
from batchwright.torch.update.update import Update

_NOTHING = 1e-300
"""Windows without tokens weigh up to this together: see `Window`."""

_BELOW_FLOOR = 3
_IN_A_ROW = 10
"""Updates in a row that were not applied, after which a run ends: with the loss scale below its
floor, and without a loss scale."""


class Precision:
    """Computes updates in one precision, with the exact gradient.

    Casting and loss scaling are `torch.amp`'s. What is added: the loss of an update is divided
    by the weight of the whole update, over all its batches and ranks; memory that runs out
    splits a batch and does the window again; a step is said to be applied only if it was; a loss
    scale cannot sink in silence.

    Args:
        mode: ``"fp32"``, ``"tf32"``, ``"bf16"`` or ``"fp16"`` (mixed), ``"bf16-true"``; or
            ``"auto"``: measured on the model and the batch of the first update.
        autocast: Makes the context of a forward pass, in place of a mode: for formats that
            other libraries bring.
        scaler: Scales the loss, in place of a mode's own.
        loss_scale_floor: A loss scale below this three updates in a row is an error.
        check_loss: Find out in the first update whether the loss is a sum over rows, by
            passes over a few rows that leave no trace. A mean is refused; a batch whose loss is
            not known to be a sum is never split. False: it is taken to be a sum.

    Attributes:
        evidence: What was measured for ``"auto"``. None: nothing was.
        applied: Updates that moved the parameters.
        skipped: Updates that did not, for gradients that were not finite.
        limit: The size of batch that did not fit into memory lately.
        findings: What is known of the loss functions that were used.

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
        self._mode: Mode | None = None if mode == "auto" else mode
        self._policy = None if autocast is None else Policy("custom", autocast, scaler)
        self._scaler = scaler
        self._settled = 0  # how many ranks have agreed
        self._floor = loss_scale_floor
        self._below = 0
        self._in_a_row = 0
        self.findings = LossFindings(enabled=check_loss)
        self._traces: WeakKeyDictionary[torch.nn.Module, PassTrace] = WeakKeyDictionary()
        self._recorders: list[LiveLosses] = []
        self._loaded: dict[str, Any] | None = None
        self.evidence: Evidence | None = None
        self.limit = SizeLimit()
        self.applied = 0
        self.skipped = 0

    @classmethod
    def measure(
        cls,
        model: torch.nn.Module,
        loss_sum: LossSum,
        batch: Any,
        *,
        candidates: Sequence[Mode] = ("fp32", "tf32", "bf16", "fp16"),
        rounds: int = 5,
    ) -> "Precision":
        """Choose the precision by a few steps of each on this model and batch.

        Steps are interleaved, and leave parameters, buffers and random states as they were. With
        copies of the model on several ranks, rank 0 measures, and all take what it chose.

        Args:
            model: The model, where it will be trained.
            loss_sum: ``(model, batch) → the sum of the loss``.
            batch: A typical batch.
            candidates: The modes to try, the simplest first; what the device cannot do is left
                out.
            rounds: Steps of each.

        Returns:
            A precision with its evidence, on the rank that has measured.

        Example:
            >>> model = torch.nn.Linear(3, 1)
            >>> loss_sum = lambda model, batch: model(batch).square().sum()
            >>> chosen = Precision.measure(model, loss_sum, torch.ones(4, 3))
            >>> chosen.mode in {"fp32", "bf16"}, chosen.evidence.trials[0].mode
            (True, 'fp32')
        """
        ranks = ranks_of(model)
        precision = cls()
        measure = precision._measure(
            loss_sum, ranks, batch, split=halves, candidates=candidates, rounds=rounds
        )
        mode = agreed(ranks, "auto", measure=measure)
        precision._mode = cast("Mode", mode)
        return precision

    @property
    def mode(self) -> str | None:
        """The mode in use. None until ``"auto"`` has chosen."""
        return self._mode if self._policy is None else self._policy.name

    @property
    def loss_scale(self) -> float:
        """The present loss scale; 1 where nothing is scaled."""
        scaler = None if self._policy is None else self._policy.scaler
        return 1.0 if scaler is None else float(scaler.get_scale())

    def prepare(self, model: torch.nn.Module) -> torch.nn.Module:
        """Cast the parameters, should the mode want it. Call it before making the optimizer."""
        return model.bfloat16() if self._mode == "bf16-true" else model

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
        """Begin an update.

        Args:
            model: The model: bare, in DistributedDataParallel, or after ``fully_shard``. With
                copies on several ranks, gradients are summed once for all batches, and buffers
                are rank 0's afterwards; with shards, ranks need equal numbers of batches.
            optimizer: The optimizer, or several that step together or not at all.
            weight: What the loss sums of this rank's window add up over: tokens, samples. Ranks
                add theirs by one small all-reduce.
            global_weight: The same over all ranks, where it is known: no rank asks another.
            clip: Largest norm of the gradient, above 0.
            split: ``batch → (first, second)``, for batches that are no tensor, dict or tuple of
                tensors with rows in dimension 0.
            learning_rate: Factor on the learning rate, a function of the update's global
                weight; see `scaled_by_weight`. The scheduler is none the wiser.

        Returns:
            The update: a context, and afterwards what came of it.

        Raises:
            LossError: If both or neither weight is given, or the sum of weights is not a
                positive number.
            UpdateError: If the model is wrapped in what would make the gradient wrong, or `clip`
                or the factor on the learning rate is no number that can be right.
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
            weighs = f"{total} (here {given!r})" if math.isnan(total) else f"{total}"
            message = "expected the number of tokens or samples that its loss sums over, 0 or more."
            raise LossError(f"the update weighs {weighs}, {message}")
        factor = 1.0 if learning_rate is None or not total else _number(learning_rate(total))
        if not 0 <= factor < math.inf:
            raise UpdateError(
                f"learning_rate gave a factor of {factor} for a weight of {total:g}, expected a "
                "number of 0 or more."
            )
        return Update(self, ranks, several, total, norm, split, factor)

    def captured(self, model: torch.nn.Module) -> PassState:
        """Copy what a pass changes, before the first one of an update."""
        if model not in self._traces:
            self._traces[model] = PassTrace(model)
        return self._traces[model].capture()

    def settled(self, ranks: Ranks) -> Policy | None:
        """Return the policy, once it is chosen for these ranks."""
        return None if self._settled < ranks.size else self._policy

    def ready(self, loss_sum: LossSum, ranks: Ranks, batch: Any, *, split: Split) -> Policy:
        """Choose the policy at the first batch of all."""
        policy = self._settle(ranks, self._measure(loss_sum, ranks, batch, split=split))
        assert policy is not None  # noqa: S101 (there is a batch)
        return policy

    def recorders(self, records: Sequence[Record], batches: int) -> int:
        """Count who exchanges losses at the end of this update; 0 if no exchange is due."""
        for owner, _ in records:
            if isinstance(owner, LiveLosses) and owner not in self._recorders:
                self._recorders.append(owner)
        due = any(each.due_after(batches) for each in self._recorders)
        return len(self._recorders) if due else 0

    def exchange(self) -> None:
        """Exchange the losses that were recorded, on all ranks at once."""
        for live in self._recorders:
            live.sync()

    def absent(self, ranks: Ranks, *, failed: bool) -> Policy | None:
        """Settle the precision with the other ranks, on one that has no batch or has failed."""
        policy = self._settle(ranks, None, failed=failed)
        if policy is not None and policy.scaler is not None:
            policy.scaler.scale(torch.zeros((), device=device_of(ranks.model)))  # it has to begin
        return policy

    def finished(
        self,
        update: Update,
        states: Sequence[PassState],
        records: Sequence[Record],
        *,
        batches: int,
    ) -> None:
        """Write records, count the update, and refuse gradients that are never finite."""
        for state in states:
            state.learn()
        for record in records:
            record.write()
        for live in self._recorders:
            live.count(batches)
        self.applied += update.applied
        self.skipped += not update.applied
        self.limit = self.limit.after_update(update.retries)
        self._refuse_never_finite(update)

    def _refuse_never_finite(self, update: Update) -> None:
        scale = self.loss_scale
        scaled = scale != 1.0
        self._in_a_row = 0 if update.applied or scaled else self._in_a_row + 1
        self._below = self._below + 1 if scaled and scale < self._floor else 0
        self._below = 0 if update.applied else self._below
        if self._below < _BELOW_FLOOR and self._in_a_row < _IN_A_ROW:
            return
        where = (
            f"not finite, in: {_not_finite(update.ranks.model)}. Look there for a division by zero "
            "or an overflow"
        )
        if self._below:
            raise LossScaleError(
                f"the loss scale sank to {scale:g}, below its floor of {self._floor:g}, and "
                f'gradients are still {where}; or use Precision("bf16"), which has the range.'
            )
        raise LossScaleError(
            f"in {self._in_a_row} updates in a row gradients were {where}; or lower the learning "
            "rate."
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what belongs to this process: the policy is made again."""
        kept = {"_settled": 0, "_loaded": self.state_dict()["scaler"], "_recorders": []}
        if self._mode is not None:
            kept["_policy"] = None
        return {**vars(self), **kept, "_traces": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of another process."""
        vars(self).update(state)
        self._traces = WeakKeyDictionary()

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs: the mode, the scaler's state, the counters."""
        scaler = None if self._policy is None else self._policy.scaler
        return {
            "mode": self.mode,
            "scaler": self._loaded if scaler is None else scaler.state_dict(),
            "applied": self.applied,
            "skipped": self.skipped,
            "below": self._below,
            "limit": [self.limit.tokens, self.limit.clean],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was saved; a mode that ``"auto"`` chose is kept.

        Raises:
            PrecisionError: If it is no state, or was saved in another mode.
        """
        saved = checked_state(state)
        if self.mode not in {None, saved.mode}:
            raise PrecisionError(
                f'the state was saved in "{saved.mode}", this is Precision("{self.mode}"). Resume '
                'in the same, or in "auto", which takes over what was chosen.'
            )
        if saved.mode in MODES:
            self._mode = saved.mode
        self._loaded = saved.scaler
        if self._policy is not None and self._policy.scaler is not None and self._loaded:
            self._policy.scaler.load_state_dict(self._loaded)
        self.applied, self.skipped, self._below = saved.applied, saved.skipped, saved.below
        self.limit = SizeLimit(saved.limit_tokens, saved.limit_clean)

    def _measure(
        self, loss_sum: LossSum, ranks: Ranks, batch: Any, *, split: Split, **options: Any
    ) -> Callable[[], Mode]:
        def run(batch: Any) -> Evidence:
            if ranks.kind == "copies":
                refuse_exchange(ranks.model, loss_sum, batch)
            return measured(ranks.model, loss_sum, batch, **options)

        def measure() -> Mode:
            # Shards make their passes together: one rank cannot try a half alone.
            whole = ranks.kind == "shards"
            self.evidence = run(batch) if whole else on_what_fits(run, batch, split=split)
            return choose(self.evidence)

        return measure

    def _settle(
        self, ranks: Ranks, measure: Callable[[], Mode] | None, *, failed: bool = False
    ) -> Policy | None:
        """Agree with the other ranks, once, and make the policy."""
        if self._settled < ranks.size:
            mode = agreed(ranks, self.mode or "auto", measure=measure, failed=failed)
            if mode is None:
                return None
            self._settled = ranks.size
            self._mode = None if mode == "custom" else cast("Mode", mode)
        if self._policy is None and self._mode is not None and not failed:
            self._policy = self._policy_of(self._mode, ranks.model)
        return self._policy

    def _policy_of(self, mode: Mode, model: torch.nn.Module) -> Policy:
        types = {each.dtype for each in model.parameters() if each.is_floating_point()}
        if mode == "bf16-true" and types != {torch.bfloat16}:
            raise PrecisionError(
                f'Precision("bf16-true"): the parameters are {types}. Call '
                "precision.prepare(model) before making the optimizer."
            )
        policy = policy_for(mode, device_of(model))
        if self._scaler is not None:
            policy = Policy(policy.name, policy.autocast, self._scaler)
        if self._loaded is not None and policy.scaler is not None:
            policy.scaler.load_state_dict(self._loaded)
        return policy


def _number(value: Any) -> float:
    """Return a number; NaN for what is none, which all ranks then see in the sum."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def _not_finite(model: torch.nn.Module) -> str:
    names = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
    ]
    shown = ", ".join(names[:8]) or "no parameter (the loss itself)"
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
