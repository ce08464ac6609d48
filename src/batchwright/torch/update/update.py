"""One optimizer update: any number of batches, one exact gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch

from batchwright._records import Record, kept_back
from batchwright.errors import LossError, PrecisionError, UpdateError
from batchwright.torch.data.rows import Split, checked, halves
from batchwright.torch.update.loss_findings import LossFindings, Trial
from batchwright.torch.update.loss_sums import (
    LossSum,
    modules_of,
    refuse_other_functions,
    refuse_other_losses,
)
from batchwright.torch.update.out_of_memory import (
    SizeLimit,
    is_out_of_memory,
    release_memory,
    tokens_of,
)
from batchwright.torch.update.pass_state import PassState
from batchwright.torch.update.ranks import Ranks
from batchwright.torch.update.step import Step

if TYPE_CHECKING:
    from batchwright.torch.update.policy import Policy


class Session(Protocol):
    """What an update needs of the precision that it was made with."""

    limit: SizeLimit
    findings: LossFindings

    def captured(self, model: torch.nn.Module) -> PassState:
        """Copy what a pass changes, before the first one."""
        ...

    def settled(self, ranks: Ranks) -> Policy | None:
        """Return the policy, once it is chosen for these ranks."""
        ...

    def ready(self, loss_sum: LossSum, ranks: Ranks, batch: Any, *, split: Split) -> Policy:
        """Choose the policy at the first batch."""
        ...

    def absent(self, ranks: Ranks, *, failed: bool) -> Policy | None:
        """Settle the policy with the other ranks, on one that has no batch or has failed."""
        ...

    def recorders(self, records: Sequence[Record], batches: int) -> int:
        """Count who exchanges losses at the end of this update; 0 if no exchange is due."""
        ...

    def finished(
        self,
        update: Update,
        states: Sequence[PassState],
        records: Sequence[Record],
        *,
        batches: int,
    ) -> None:
        """Take note of an update, and refuse gradients that are never finite."""
        ...

    def exchange(self) -> None:
        """Exchange the losses that were recorded, on all ranks at once."""
        ...


@dataclass(eq=False)
class _Piece:
    """A batch, or a part of one, and what its pass recorded."""

    loss_sum: LossSum
    batch: Any
    records: list[Record] = field(default_factory=list)


@dataclass(eq=False)
class Update:
    """An update while it is made, and afterwards what came of it.

    Made by `Precision.update`. The gradient that the optimizer sees is the one of the global
    mean: the sum of the loss over all batches and ranks, divided by the sum of the weights,
    however samples fell into batches. A batch that does not fit into memory is split, and the
    whole update starts again: nothing is lost, nothing counts twice.

    After an error no rank has stepped, or all have the same parameters; learning rates and the
    loss scale are as before, and gradients are cleared: the next update is right.

    Attributes:
        weight: What the loss was divided by: summed over all ranks. An update that weighs 0
            runs nothing and is not applied.
        applied: Whether the parameters moved. Schedules go by this.
        loss: The mean loss, over all ranks.
        grad_norm: Norm of the gradient before clipping; not finite where it was not applied.
        scale: The loss scale that was used.
        retries: How often the update started again for want of memory.
        splits: How many batches were split.
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

    def __enter__(self) -> Self:
        """Begin: gradients are cleared, what a pass changes is copied for a second try."""
        self._pieces: list[_Piece] = []
        self._batches = 0
        self._done = 0
        self._sum: torch.Tensor | None = None
        self._policy: Policy | None = None
        self._asked = False
        self._unfinished: BaseException | None = None
        self._local = self.ranks.model
        self._cut: Split = halves if self.split is None else checked(self.split)
        try:
            self.ranks.forget_passes()
            self._clear()
            self._state = self.session.captured(self._local)
            self._states: dict[torch.nn.Module, PassState] = {self._local: self._state}
        except BaseException as error:  # noqa: BLE001 (raised by `backward`)
            # A context that was not entered has no end, where other ranks wait.
            self._unfinished = error
        return self

    def backward(self, loss_sum: LossSum, batch: Any) -> None:
        """Run one batch forward and backward.

        Args:
            loss_sum: ``(model, batch) → scalar``, the *sum* of the loss over what the weight
                counts. It may be called again with parts of the batch.
            batch: The batch; see `split` of `Precision.update` for its kind.

        Raises:
            LossError: If that is no function of model and batch, or its loss no scalar sum.
            UpdateError: If a batch does not fit into memory and cannot be split.
        """
        if self._unfinished is not None:
            raise self._unfinished
        if not self.weight:
            refuse_other_functions(loss_sum)
            return
        try:
            self._backward(loss_sum, batch)
        except BaseException as error:
            self._unfinished = error
            raise

    def _backward(self, loss_sum: LossSum, batch: Any) -> None:
        if self._policy is None:
            self._policy = self.session.settled(self.ranks)
            if self._policy is None:
                refuse_other_functions(loss_sum)
                self._asked = True
                self._policy = self.session.ready(loss_sum, self.ranks, batch, split=self._cut)
            self._asked = True
        for module in modules_of(loss_sum):
            if module not in self._states:
                self._states[module] = self.session.captured(module)
        self._pieces.extend(_Piece(loss_sum, part) for part in self._fitting(loss_sum, batch))
        while self._done < len(self._pieces):
            if not self._run(self._pieces[self._done]):
                self._make_room()
        self._batches += 1
        if self.ranks.kind != "shards":  # they pass forward together; one may have a single row
            self.session.findings.check(self._trial(loss_sum, batch))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Reduce, unscale, check, clip and step; or, after an error, clear on all ranks."""
        try:
            if self.weight:
                self._end(error or self._caught())
            else:
                self._clear()
        except BaseException as raised:
            self._clear()
            if error is None or not isinstance(raised, Exception):
                raise  # else the error that ended the block is the one to see
        finally:
            self._pieces.clear()

    def _caught(self) -> Exception | None:
        """Return the error of an update that is not whole, though no error ended it."""
        if self._unfinished is None:
            return None
        error = UpdateError(
            "an error of update.backward was caught within the update, which is not whole "
            "without that batch. Let the error end the with statement."
        )
        error.__cause__ = self._unfinished
        return error

    def _end(self, problem: BaseException | None) -> None:
        if self.ranks.kind == "shards" and problem is not None:
            # The others wait within a pass, where no flag reaches them.
            if self._asked and not isinstance(problem, PrecisionError):
                self.ranks.interrupt()
            raise problem
        total = 0.0
        try:
            if self.ranks.kind == "copies" and not self._asked:
                # Others have asked, and wait for this rank.
                self._policy = self.session.absent(self.ranks, failed=problem is not None)
            total = 0.0 if self._sum is None else float(self._sum)
        except BaseException as raised:  # noqa: BLE001 (raised below, once the other ranks know)
            problem = problem or raised
        step = Step(self.ranks, self.optimizers)
        records = [record for piece in self._pieces for record in piece.records]
        due = self.session.recorders(records, self._batches)
        own = [len(self._pieces), total, self.weight, self.weight**2, due, due**2]
        # Before the first gradient is sent: no rank waits for one that failed.
        batches, total, weights, squares, due_sum, due_squares = step.agree(own, problem)
        problem = problem or _refusal(self.ranks, batches, weights, squares)
        if problem is not None:
            raise problem
        assert self._policy is not None  # noqa: S101 (some rank has had a batch)
        self.loss = total / self.weight
        scaler = self._policy.scaler
        if scaler is not None:
            self.scale = float(scaler.get_scale())
        self.grad_norm, self.applied = step(
            scaler,
            finite=math.isfinite(self.loss),
            clip=self.clip,
            learning_rate_factor=self.learning_rate_factor,
        )
        self.session.finished(self, [*self._states.values()], records, batches=self._batches)
        if due_sum and due_squares * self.ranks.size == due_sum**2:  # the same on every rank
            self.session.exchange()

    def _run(self, piece: _Piece) -> bool:
        """Run one piece; return whether it fitted."""
        policy = self._policy
        assert policy is not None  # noqa: S101 (set by the first call of backward)
        try:
            with kept_back() as piece.records, policy.autocast():
                loss = piece.loss_sum(self._local, piece.batch)
            refuse_other_losses(loss)
            divided = loss.float() / self.weight
            if self.ranks.kind == "shards":
                divided = divided * self.ranks.size  # they average over ranks
            scaled = divided if policy.scaler is None else policy.scaler.scale(divided)
            torch.autograd.backward(scaled)
            value = loss.detach().double()
            self._sum = value if self._sum is None else self._sum + value
        except Exception as error:
            if isinstance(error, TypeError):
                refuse_other_functions(piece.loss_sum)
            if not is_out_of_memory(error):
                raise
        else:
            self._done += 1
            return True
        return False  # outside of the handler: the traceback kept the tensors alive

    def _make_room(self) -> None:
        """Split what did not fit, and start again: partial gradients are of no use."""
        piece = self._pieces[self._done]
        if self.ranks.kind == "shards":
            raise UpdateError(
                "out of memory with sharded parameters: ranks exchange them in every pass, so one "
                "of them cannot split a batch alone. Lower the budget."
            )
        self._done, self._sum = 0, None
        self._clear()
        release_memory()
        for state in reversed(self._states.values()):  # random states of the beginning last
            state.restore()
            state.refuse_late_buffers()
        self.session.limit = self.session.limit.lowered(tokens_of(piece.batch))
        try:
            parts = self._parts(piece.loss_sum, piece.batch, whole=True)
        except UpdateError as error:
            raise UpdateError(f"out of memory, and {error}") from error
        number = next(n for n, each in enumerate(self._pieces) if each is piece)
        self._pieces[number : number + 1] = [_Piece(piece.loss_sum, part) for part in parts]
        self.splits += 1
        self.retries += 1

    def _fitting(self, loss_sum: LossSum, batch: Any) -> list[Any]:
        """Split a batch beforehand that is as large as one which did not fit lately."""
        if not self.session.limit.excludes(tokens_of(batch)):
            return [batch]
        try:
            first, second = self._parts(loss_sum, batch)
        except UpdateError:
            return [batch]
        self.splits += 1
        return [*self._fitting(loss_sum, first), *self._fitting(loss_sum, second)]

    def _parts(self, loss_sum: LossSum, batch: Any, *, whole: bool = False) -> tuple[Any, Any]:
        """Cut a batch in two, where that leaves the gradient what it is."""
        parts = self._cut(batch)
        self.session.findings.refuse_to_split(self._trial(loss_sum, batch), whole=whole)
        return parts

    def _trial(self, loss_sum: LossSum, batch: Any) -> Trial:
        assert self._policy is not None  # noqa: S101 (set by the first call of backward)
        return Trial(loss_sum, self._local, batch, self._cut, self._policy, self._state.trace)

    def _clear(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self.ranks.kind == "copies":  # parameters of no optimizer are summed over ranks too
            self._local.zero_grad(set_to_none=True)


def _refusal(ranks: Ranks, batches: float, weights: float, squares: float) -> Exception | None:
    """Return why no rank may step, the same on all of them; None if all may."""
    if not batches:
        return LossError("an update without a batch: call update.backward(loss_sum, batch).")
    mean = weights / ranks.size
    if squares / ranks.size - mean**2 > 1e-12 * mean**2:
        return LossError(
            f"global_weight differs over ranks, {mean:g} in the mean: expected the sum over all "
            "ranks. Pass weight= for this rank's own."
        )
    return None
