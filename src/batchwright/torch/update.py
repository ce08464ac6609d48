"""One optimizer update: any number of batches, one exact gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from batchwright.errors import BatchwrightError, LossError, PrecisionError, UpdateError
from batchwright.torch.loss_sums import LossSum, refuse_other_functions, refuse_other_losses
from batchwright.torch.out_of_memory import SizeLimit, is_out_of_memory, release_memory, tokens_of
from batchwright.torch.randomness import RandomState
from batchwright.torch.ranks import Ranks, parameters_of
from batchwright.torch.rows import Split, halves, refuse_coupled_rows

if TYPE_CHECKING:
    from batchwright.torch.policy import Policy


class Record(Protocol):
    """What an update leaves with the precision that it was made with."""

    limit: SizeLimit

    def settled(self, ranks: Ranks) -> Policy | None:
        """Return the policy, once nothing is left to choose or to check."""
        ...

    def ready(self, loss_sum: LossSum, ranks: Ranks, batch: Any, *, split: Split) -> Policy:
        """Return the policy; at the first batch, choose it and check the loss."""
        ...

    def absent(self, ranks: Ranks, *, failed: bool) -> Policy | None:
        """Settle the policy with the other ranks, on one that has no batch or has failed."""
        ...

    def finished(self, update: Update, model: torch.nn.Module) -> None:
        """Take note of an update, and refuse a loss scale that sank to its floor."""
        ...


@dataclass(eq=False)
class Update:
    """An update while it is made, and afterwards what came of it.

    Made by `Precision.update`. The gradient that the optimizer sees is the one of the global
    mean: the sum of the loss over all batches and ranks, divided by the sum of the weights,
    however samples fell into batches. A batch that does not fit into memory is split, and the
    whole window done again: nothing is lost, nothing counts twice.

    Attributes:
        weight: What the loss was divided by: summed over all ranks.
        applied: Whether the parameters moved. Schedules go by this.
        loss: The mean loss, over all ranks.
        grad_norm: Norm of the gradient before clipping; not finite where it was not applied.
        scale: The loss scale that was used.
        retries: How often the window was done again for want of memory.
        splits: How many batches were split.
    """

    record: Record = field(repr=False)
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
        """Begin: gradients are cleared, random states are kept for a replay."""
        self._pieces: list[tuple[LossSum, Any]] = []
        self._done = 0
        self._sum: torch.Tensor | None = None
        self._policy: Policy | None = None
        self._asked = False
        self._unfinished = 0
        self._local = self.ranks.model
        self._cut: Split = halves if self.split is None else self.split
        self._random = RandomState.capture(self._local)
        self.ranks.forget_passes()
        self._clear()
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
        self._unfinished += 1
        if not callable(loss_sum):
            refuse_other_functions(loss_sum)
        if self._policy is None:
            self._asked = True
            self._policy = self.record.settled(self.ranks) or self._try(loss_sum, batch)
        self._pieces.extend((loss_sum, part) for part in self._fitting(batch))
        while self._done < len(self._pieces):
            if not self._run(*self._pieces[self._done]):
                self._make_room()
        self._unfinished -= 1

    def _try(self, loss_sum: LossSum, batch: Any) -> Policy:
        """Look at the first batch of all, and leave no trace."""
        refuse_other_functions(loss_sum)
        policy = self.record.ready(loss_sum, self.ranks, batch, split=self._cut)
        self._random.restore()
        self._clear()
        return policy

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Reduce, unscale, check, clip and step; or, after an error, clear and tell the ranks."""
        problem = error
        if error is None and self._unfinished:
            problem = UpdateError(
                "an error of update.backward was caught within the update, which is not whole "
                "without that batch. Let the error end the with statement."
            )
        if self.ranks.kind == "shards" and problem is not None:
            self._clear()
            if self._asked and not isinstance(problem, PrecisionError):
                self.ranks.interrupt()
            if error is None:
                raise problem
            return  # the others wait within a pass, where no flag reaches them
        if self.ranks.kind == "copies" and not self._asked:
            try:  # others have asked, and wait for this rank
                self._policy = self.record.absent(self.ranks, failed=error is not None)
            except BatchwrightError as raised:
                problem = raised
        total = 0.0 if self._sum is None else float(self._sum)
        told = [problem is not None, len(self._pieces), total, self.weight, self.weight**2]
        try:
            # Before the first gradient is sent: no rank waits for one that failed.
            failures, batches, total, weights, squares = self.ranks.summed(told)
        except RuntimeError:
            self._clear()
            if error is not None:
                return  # a rank is gone: let this one's own error be seen
            raise
        if problem is None:
            problem = _refusal(self.ranks, failures, batches, weights, squares)
        if problem is not None:
            self._clear()
            if error is None:
                raise problem
            return
        assert self._policy is not None  # noqa: S101 (some rank has had a batch)
        self.loss = total / self.weight
        self._finish(self._policy)
        self._pieces.clear()
        self.record.finished(self, self._local)

    def _finish(self, policy: Policy) -> None:
        if self.ranks.kind == "copies":
            self.ranks.sum_gradients(parameters_of(self._local, self.optimizers))
            self.ranks.share_buffers()
        scaler = policy.scaler
        if scaler is not None:
            self.scale = float(scaler.get_scale())
            for optimizer in self.optimizers:
                scaler.unscale_(optimizer)
        parameters = [
            parameter
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        norm = get_total_norm([each.grad for each in parameters if each.grad is not None])
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        self.grad_norm = float(norm)
        self.applied = math.isfinite(self.grad_norm) and math.isfinite(self.loss)
        if self.applied:
            if self.clip is not None and self.grad_norm > self.clip:
                clip_grads_with_norm_(parameters, self.clip, norm)
            self._step()
        if scaler is not None:
            scaler.update()

    def _step(self) -> None:
        factor = self.learning_rate_factor
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        before = [group["lr"] for group in groups]
        if factor != 1.0:
            for group in groups:
                group["lr"] = group["lr"] * factor
        for optimizer in self.optimizers:
            optimizer.step()
        if factor != 1.0:
            for group, rate in zip(groups, before, strict=True):
                group["lr"] = rate

    def _run(self, loss_sum: LossSum, batch: Any) -> bool:
        """Run one piece; tell whether it fitted."""
        policy = self._policy
        assert policy is not None  # noqa: S101 (set by the first call of backward)
        try:
            with policy.autocast():
                loss = loss_sum(self._local, batch)
            refuse_other_losses(loss)
            divided = loss.float() / self.weight
            if self.ranks.kind == "shards":
                divided = divided * self.ranks.size  # they average over ranks
            scaled = divided if policy.scaler is None else policy.scaler.scale(divided)
            torch.autograd.backward(scaled)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            told = loss.detach().double()
            self._sum = told if self._sum is None else self._sum + told
            self._done += 1
            return True
        return False  # outside of the handler: the traceback kept the tensors alive

    def _make_room(self) -> None:
        """Split what did not fit, and begin the window again: partial gradients are no use."""
        loss_sum, batch = self._pieces[self._done]
        if self.ranks.kind == "shards":
            raise UpdateError(
                "out of memory with sharded parameters: ranks exchange them in every pass, so one "
                "of them cannot split a batch alone. Lower the budget."
            )
        refuse_coupled_rows(self._local)
        self.record.limit = self.record.limit.lowered(tokens_of(batch))
        try:
            parts = self._cut(batch)
        except UpdateError as error:
            raise UpdateError(f"out of memory, and {error}") from error
        self._pieces[self._done : self._done + 1] = [(loss_sum, part) for part in parts]
        self.splits += 1
        self.retries += 1
        self._done, self._sum = 0, None
        self._clear()
        release_memory()
        self._random.restore()

    def _fitting(self, batch: Any) -> list[Any]:
        """Split a batch beforehand that is as large as one which did not fit lately."""
        if not self.record.limit.excludes(tokens_of(batch)):
            return [batch]
        try:
            refuse_coupled_rows(self._local)
            first, second = self._cut(batch)
        except UpdateError:
            return [batch]
        self.splits += 1
        return [*self._fitting(first), *self._fitting(second)]

    def _clear(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self.ranks.kind == "copies":  # parameters of no optimizer are summed over ranks too
            self._local.zero_grad(set_to_none=True)


def _refusal(
    ranks: Ranks, failures: float, batches: float, weights: float, squares: float
) -> Exception | None:
    """Say why no rank may step, the same on all of them; None if all may."""
    if failures:
        return ranks.without(failures)
    if not batches:
        return LossError("an update without a batch: call update.backward(loss_sum, batch).")
    mean = weights / ranks.size
    if squares / ranks.size - mean**2 > 1e-12 * mean**2:
        return LossError(
            f"global_weight differs over ranks, {mean:g} in the mean: expected the sum over all "
            "ranks. Pass weight= for this rank's own."
        )
    return None
