"""One optimizer update: any number of batches, one exact gradient."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, Self, cast
from weakref import WeakKeyDictionary

import torch

from batchwright._records import Record, kept_back
from batchwright.errors import LossError, PrecisionError, UpdateError
from batchwright.torch.data.rows import Split, checked, halves
from batchwright.torch.update.live_losses import LiveLosses
from batchwright.torch.update.loss_check import LossFindings, Trial
from batchwright.torch.update.measuring import Evidence, Mode, Policy, agreed, measured, policy_for
from batchwright.torch.update.out_of_memory import is_out_of_memory, release_memory, tokens_of
from batchwright.torch.update.passes import (
    LossSum,
    PassState,
    PassTrace,
    modules_of,
    refuse_other_functions,
    refuse_other_losses,
)
from batchwright.torch.update.ranks import Ranks, device_of
from batchwright.torch.update.step import Step
from batchwright.typing import Batch, State

_LOGGER = logging.getLogger("batchwright")

# Updates in a row that were not applied, after which a run ends.
_BELOW_FLOOR = 3  # with the loss scale below its floor
_IN_A_ROW = 10  # without a loss scale

# A batch that ran out of memory is tried whole again after a hundred updates without that.
_BELOW = 0.9
_GROWTH = 0.9**-0.01


@dataclass(eq=False, repr=False)
class Session:
    """What the updates of one `Precision` share: its base class."""

    mode: str | None  # None: to be measured; "custom": of the user's own policy
    policy: Policy | None
    scaler: torch.amp.GradScaler | None  # the user's own
    loss_scale_floor: float
    findings: LossFindings
    limit: float | None = None  # batches of more tokens are split before they are tried
    evidence: Evidence | None = None
    applied: int = 0
    skipped: int = 0
    splits: int = 0
    below: int = 0  # updates in a row with the loss scale below its floor
    loaded: State | None = None  # state of the scaler that is to be made

    def __post_init__(self) -> None:
        self._in_a_row = 0  # updates that were not applied, without a loss scale
        self._agreed = 0  # ranks
        self._traces: WeakKeyDictionary[torch.nn.Module, PassTrace] = WeakKeyDictionary()
        self._recorders: list[LiveLosses] = []

    def __getstate__(self) -> State:
        """Leave out what belongs to this process: the policy is made again."""
        policy = self.policy if self.mode == "custom" else None
        kept: State = {
            "loaded": self.scaler_state(),
            "policy": policy,
            "_agreed": 0,
            "_recorders": [],
        }
        return vars(self) | kept | {"_traces": None}

    def __setstate__(self, state: State) -> None:
        vars(self).update(state)
        self._traces = WeakKeyDictionary()

    @property
    def loss_scale(self) -> float:
        """The present loss scale; 1 where nothing is scaled."""
        return 1.0 if self.policy is None else float(self.policy.scaler.get_scale())

    def scaler_state(self) -> State | None:
        """Return the state of the gradient scaler, also of one that is to be made."""
        return self.loaded if self.policy is None else self.policy.scaler.state_dict() or None

    def load_scaler(self, state: State | None) -> None:
        """Take the state of a gradient scaler, also of one that is to be made."""
        self.loaded = state
        if state and self.policy is not None:
            self.policy.scaler.load_state_dict(state)

    def has_agreed(self, ranks: Ranks) -> bool:
        """Return whether these ranks have agreed on a policy."""
        return self._agreed >= ranks.size and self.policy is not None

    def agree(
        self, ranks: Ranks, measure: Callable[[], Mode] | None, *, failed: bool = False
    ) -> None:
        """Agree on a policy with the other ranks, once; see `agreed`."""
        if self._agreed < ranks.size:
            mode = agreed(ranks, self.mode or "auto", measure=measure, failed=failed)
            if mode is None:
                return
            if self.mode is None and ranks.rank == 0:
                _LOGGER.warning('Precision("auto") chose %s: %s', mode, self.evidence)
            self._agreed, self.mode = ranks.size, mode
        if self.policy is None and self.mode is not None and not failed:
            self.policy = policy_for(cast("Mode", self.mode), ranks.model, self.scaler)
            self.load_scaler(self.loaded)

    def choose(
        self, ranks: Ranks, loss_sum: LossSum, batch: Batch, split: Split, **options: Any
    ) -> Mode:
        """Choose a mode by a few steps of each on this batch."""
        self.evidence = measured(ranks, loss_sum, batch, split, **options)
        return self.evidence.choice

    def capture(self, model: torch.nn.Module) -> PassState:
        """Copy what a pass changes, before the first one of an update."""
        if model not in self._traces:
            self._traces[model] = PassTrace(model)
        return self._traces[model].capture()

    def recorders(self, records: Iterable[Record], batches: int) -> int:
        """Count the `LiveLosses` that exchange after this update; 0 if no exchange is due."""
        for owner, _ in records:
            if isinstance(owner, LiveLosses) and owner not in self._recorders:
                self._recorders.append(owner)
        due = any(each.due_after(batches) for each in self._recorders)
        return len(self._recorders) if due else 0

    def exchange(self) -> None:
        """Exchange the losses that were recorded, on all ranks at once."""
        for live in self._recorders:
            live.sync()

    def finish(self, update: Update, records: Iterable[Record], batches: int) -> None:
        """Write records, count the update, and refuse gradients that are never finite."""
        for record in records:
            record.write()
        for live in self._recorders:
            live.count(batches)
        self.applied += update.applied
        self.skipped += not update.applied
        self.splits += update.splits
        if self.limit is not None and not update.retries:
            self.limit *= _GROWTH  # memory may have become free again
        scale, skipped = self.loss_scale, not update.applied
        self._in_a_row = self._in_a_row + 1 if skipped and scale == 1.0 else 0
        sinks = skipped and scale != 1.0 and scale < self.loss_scale_floor
        self.below = self.below + 1 if sinks else 0
        if self.below < _BELOW_FLOOR and self._in_a_row < _IN_A_ROW:
            return
        what = f"{self._in_a_row} updates in a row were not applied"
        cure = "lower the learning rate"
        if self.below:
            what = f"the loss scale sank to {scale:g}, below its floor of {self.loss_scale_floor:g}"
            cure = 'use Precision("bf16"), which has the range'
        names = [
            name
            for name, parameter in update.ranks.model.named_parameters()
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
        ]
        shown = ", ".join(names[:8]) or "no parameter (the loss itself)"
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise UpdateError(
            f"{what}: gradients are not finite, in: {shown}{more}. Look there for a division by "
            f"zero or an overflow, or {cure}."
        )


@dataclass(eq=False)
class _Piece:
    """A batch, or a part of one, and what its pass recorded."""

    loss_sum: LossSum
    batch: Batch
    records: list[Record] = field(default_factory=list)


@dataclass(eq=False)
class Update:
    """An update while it is made, and afterwards its results.

    Made by `Precision.update`. The gradient that the optimizer sees is the one of the global
    mean: the sum of the loss over all batches and ranks, divided by the sum of the weights,
    however samples fell into batches. If a batch does not fit into memory, it is split and the
    whole update starts again: nothing is lost, nothing counts twice.

    After an error no rank has stepped, or all have the same parameters; learning rates and the
    loss scale are as before, and gradients are cleared: the next update is right.

    Attributes:
        weight: What the loss was divided by: summed over all ranks. An update that weighs 0
            runs nothing and is not applied.
        applied: Whether the parameters moved. Step a scheduler only then.
        loss: The mean loss, over all ranks.
        grad_norm: Norm of the gradient before clipping; not finite where it was not applied.
        scale: The loss scale that was used.
        retries: How often the update started again for lack of memory.
        splits: How many batches were split.
        seconds: From asking for the update to its end, waits for other ranks included.
    """

    session: Session = field(repr=False)
    ranks: Ranks = field(repr=False)
    optimizers: Sequence[torch.optim.Optimizer] = field(repr=False)
    weight: float
    clip: float | None = None
    split: Split | None = field(default=None, repr=False)
    learning_rate_factor: float = 1.0
    applied: bool = False
    loss: float = math.nan
    grad_norm: float = math.nan
    scale: float = 1.0
    retries: int = 0
    splits: int = 0
    seconds: float = math.nan
    _begun: float = field(default_factory=perf_counter, repr=False)
    _is_open: bool = field(default=False, init=False, repr=False)

    def __enter__(self) -> Self:
        """Begin: gradients are cleared, what a pass changes is copied for a second try."""
        self._is_open = True
        self._pieces: list[_Piece] = []
        self._done = self._batches = 0
        self._sum: torch.Tensor | None = None
        self._asked = False  # whether the ranks have agreed on a policy in this update
        self._unfinished: BaseException | None = None
        self._model = self.ranks.model
        self._cut: Split = halves if self.split is None else checked(self.split)
        try:
            self.ranks.forget_passes()
            self._clear()
            self._states = {self._model: self.session.capture(self._model)}
        except BaseException as error:  # noqa: BLE001 (raised by `backward`)
            # A context that was not entered has no end, where other ranks wait.
            self._unfinished = error
        return self

    def backward(self, loss_sum: LossSum, batch: Batch) -> None:
        """Run one batch forward and backward.

        Args:
            loss_sum: ``(model, batch) → scalar``, the *sum* of the loss over what the weight
                counts. It may be called again with parts of the batch.
            batch: The batch; see `split` of `Precision.update` for its kind.

        Raises:
            LossError: If that is no function of model and batch, or its loss no scalar sum.
            UpdateError: If a batch does not fit into memory and cannot be split, or the update
                has not begun or has ended.
        """
        if not self._is_open:
            raise UpdateError(
                "update.backward was called outside of its update: call it inside "
                "`with precision.update(…) as update:`."
            )
        if self._unfinished is not None:
            raise self._unfinished
        try:
            if self.weight:
                self._backward(loss_sum, batch)
            else:
                refuse_other_functions(loss_sum)
        except BaseException as error:
            self._unfinished = error
            raise

    def _backward(self, loss_sum: LossSum, batch: Batch) -> None:
        if not self._asked:
            if not self.session.has_agreed(self.ranks):
                refuse_other_functions(loss_sum)
            self._asked = True
            measure = partial(self.session.choose, self.ranks, loss_sum, batch, self._cut)
            self.session.agree(self.ranks, measure)
        for module in modules_of(loss_sum):
            if module not in self._states:
                self._states[module] = self.session.capture(module)
        self._pieces += [_Piece(loss_sum, part) for part in self._fitting(loss_sum, batch)]
        while self._done < len(self._pieces):
            if self._run(self._pieces[self._done]):
                self._done += 1
            else:
                self._make_room()
        self._batches += 1
        if self.ranks.kind != "shards":  # they pass forward together; one may have a single row
            self.session.findings.check(self._trial(loss_sum, batch))

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Reduce, unscale, check, clip and step; or, after an error, clear on all ranks."""
        problem = error
        if error is None and self._unfinished is not None:
            problem = UpdateError(
                "an error of update.backward was caught within the update, which is not whole "
                "without that batch. Let the error end the with statement."
            )
            problem.__cause__ = self._unfinished
        try:
            if self.weight:
                self._end(problem)
            else:
                self._clear()
        except BaseException as raised:
            self._clear()
            if error is None or not isinstance(raised, Exception):
                raise  # else the error that ended the block is the one to see
        finally:
            self._is_open = False
            self._pieces.clear()
            self.seconds = perf_counter() - self._begun

    def _end(self, problem: BaseException | None) -> None:
        if self.ranks.kind == "shards" and problem is not None:
            # The others wait within a pass, where no flag reaches them.
            if self._asked and not isinstance(problem, PrecisionError):
                self.ranks.interrupt()
            raise problem
        total = 0.0
        try:
            if self.ranks.kind == "copies" and not self._asked:  # others have asked, and wait
                self.session.agree(self.ranks, None, failed=problem is not None)
                if self.session.policy is not None:  # have the scaler make its tensors
                    zero = torch.zeros((), device=device_of(self._model))
                    self.session.policy.scaler.scale(zero)
            total = 0.0 if self._sum is None else float(self._sum)
        except BaseException as raised:  # noqa: BLE001 (raised below, once the other ranks know)
            problem = problem or raised
        step = Step(self.ranks, self.optimizers)
        records = [record for piece in self._pieces for record in piece.records]
        due = self.session.recorders(records, self._batches)
        own = [len(self._pieces), total, self.weight, self.weight**2, due, due**2]
        # Before the first gradient is sent: no rank waits for one that failed.
        pieces, total, weights, squares, due_sum, due_squares = step.agree(own, problem)
        if problem is None and not pieces:
            problem = LossError("an update without a batch: call update.backward(loss_sum, batch).")
        mean = weights / self.ranks.size
        if problem is None and squares / self.ranks.size - mean**2 > 1e-12 * mean**2:
            problem = LossError(
                f"global_weight differs over ranks, {mean:g} in the mean: expected the sum over "
                "all ranks. Pass weight= for this rank's own."
            )
        if problem is not None:
            raise problem
        self.loss = total / self.weight
        self.scale = self.session.loss_scale
        self.grad_norm, self.applied = step(
            self._policy.scaler,
            finite=math.isfinite(self.loss),
            clip=self.clip,
            learning_rate_factor=self.learning_rate_factor,
        )
        for state in self._states.values():
            state.learn()
        self.session.finish(self, records, self._batches)
        if due_sum and due_squares * self.ranks.size == due_sum**2:  # the same on every rank
            self.session.exchange()

    def _run(self, piece: _Piece) -> bool:
        """Run one piece; return whether it fitted."""
        try:
            with kept_back() as piece.records, self._policy.autocast():
                loss = piece.loss_sum(self._model, piece.batch)
            refuse_other_losses(loss)
            divided = loss.float() / self.weight
            if self.ranks.kind == "shards":
                divided = divided * self.ranks.size  # they average over ranks
            torch.autograd.backward(self._policy.scaler.scale(divided))
            value = loss.detach().double()
            self._sum = value if self._sum is None else self._sum + value
        except Exception as error:
            if isinstance(error, TypeError):
                refuse_other_functions(piece.loss_sum)
            if not is_out_of_memory(error):
                raise
        else:
            return True
        return False  # outside of the handler: the traceback kept the tensors alive

    def _make_room(self) -> None:
        """Split what did not fit, and start again: partial gradients are of no use."""
        piece = self._pieces[self._done]
        if self.ranks.kind == "shards":
            raise UpdateError(
                "out of memory with sharded parameters: one rank cannot split a batch alone, as "
                "ranks exchange parameters in every pass. Lower the budget."
            )
        self._sum = None
        self._clear()
        release_memory()
        for state in reversed(self._states.values()):  # random states of the beginning last
            state.restore()
            state.refuse_late_buffers()
        limit = self.session.limit or math.inf
        self.session.limit = min(limit, _BELOW * tokens_of(piece.batch))
        try:
            parts = self._parts(piece.loss_sum, piece.batch, whole=True)
        except UpdateError as error:
            raise UpdateError(f"out of memory, and {error}") from error
        both = [_Piece(piece.loss_sum, part) for part in parts]
        self._pieces[self._done : self._done + 1] = both
        self._done = 0
        self.splits += 1
        self.retries += 1

    def _fitting(self, loss_sum: LossSum, batch: Batch) -> list[Batch]:
        """Split a batch beforehand that is as large as one which did not fit lately."""
        if self.session.limit is not None and tokens_of(batch) > self.session.limit:
            with suppress(UpdateError):
                first, second = self._parts(loss_sum, batch)
                self.splits += 1
                return [*self._fitting(loss_sum, first), *self._fitting(loss_sum, second)]
        return [batch]

    def _parts(
        self, loss_sum: LossSum, batch: Batch, *, whole: bool = False
    ) -> tuple[Batch, Batch]:
        """Cut a batch in two, where that leaves the gradient what it is."""
        parts = self._cut(batch)
        self.session.findings.refuse_to_split(self._trial(loss_sum, batch), whole=whole)
        return parts

    def _trial(self, loss_sum: LossSum, batch: Batch) -> Trial:
        return Trial(loss_sum, self._model, batch, self._cut, self._policy)

    @property
    def _policy(self) -> Policy:
        assert self.session.policy is not None  # noqa: S101 (some rank has had a batch)
        return self.session.policy

    def _clear(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self.ranks.kind == "copies":  # parameters of no optimizer are summed over ranks too
            self._model.zero_grad(set_to_none=True)
