"""Whether a loss is a sum over rows, found out on a few rows of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from batchwright._records import kept_back
from batchwright.errors import UpdateError
from batchwright.torch.data.rows import Split, num_rows, select_rows
from batchwright.torch.update.exchange import ExchangeError, refused_exchange
from batchwright.torch.update.fixed_randomness import FixedRandomness
from batchwright.torch.update.loss_sums import LossSum, modules_of, refuse_other_losses
from batchwright.torch.update.out_of_memory import is_out_of_memory, release_memory
from batchwright.torch.update.pass_state import PassState, PassTrace
from batchwright.torch.update.policy import Policy

COMPARED = 1 << 22
"""Gradients of at most about this many parameters are compared."""

_EXACT, _NEAR, _ROUNDED = 1e-5, 1e-3, 5e-2
"""How far a sum may be from the parts' sum, relative to their size, and a mean from their mean; and
either in 16 bits. Rounding in fp32 makes less than 1e-6 in networks of dozens of layers."""

_WHOLE = 1e-4
"""The same for the losses of a whole batch, which sum up more numbers."""

_Cut: TypeAlias = tuple[Any, Any, Any]
"""Some rows, and the two halves of them."""


@dataclass(frozen=True)
class Finding:
    """What is known of a loss.

    Attributes:
        kind: ``"sum"``: parts of a batch add up to the whole. ``"mean"``: the whole lies between
            its parts. ``"coupled"``: neither, the loss of a row depends on other rows.
            ``"no mean"``: losses add up; gradients were not compared. ``"unknown"``: it could
            not be found out.
        detail: The figures, or why it is unknown.
        error: What the check itself ran into. None: nothing.
    """

    kind: Literal["sum", "no mean", "mean", "coupled", "unknown"]
    detail: str = ""
    error: Exception | None = None


@dataclass(frozen=True, eq=False)
class Trial:
    """What a loss is tried on.

    Attributes:
        loss_sum: The loss.
        model: The model.
        batch: A batch; a few of its rows are enough.
        split: Cuts a batch in two.
        policy: The precision.
        trace: What passes through the model change.
    """

    loss_sum: LossSum
    model: torch.nn.Module
    batch: Any
    split: Split
    policy: Policy
    trace: PassTrace


def losses_add_up(trial: Trial) -> bool:
    """Return whether the losses of a few rows are clearly a sum over rows, by passes forward alone.

    No mean passes for a sum: two losses of one sign add up to more than any mean of them. A loss
    whose gradient alone depends on other rows does; see `check_loss`. Nothing is changed.

    Args:
        trial: The loss, and what it is tried on.

    Returns:
        True after three passes. False: they show something else, or nothing.
    """

    def values(passes: _Passes) -> Finding:
        cuts = _few_rows(trial.batch, trial.split)[:1]
        passes.of_losses_alone()
        return passes.compare(cuts[0]) if cuts else Finding("unknown")

    return _undone(trial, values).kind == "sum"


def check_loss(trial: Trial) -> Finding:
    """Compare the loss and the gradient of a few rows with those of their two halves.

    The model runs as in training: in its mode, with gradients, in its precision. Gradients that
    parameters hold, buffers, random states and records of losses are left as they were. Where
    random numbers are drawn they are replaced by constants, so that sums add up exactly.

    Args:
        trial: The loss, and what it is tried on.

    Returns:
        What was found. Five passes over up to seven rows.
    """
    return _undone(trial, partial(_found, trial))


def _undone(trial: Trial, look: Callable[[_Passes], Finding]) -> Finding:
    """Run passes, and put back what they change; an error of theirs is a finding."""
    traces = [PassTrace(each) for each in modules_of(trial.loss_sum) if each is not trial.model]
    others = [each.capture() for each in traces]
    state = trial.trace.capture(every_buffer=True)
    try:
        with kept_back(on_trial=True), refused_exchange():
            return look(_Passes(trial, state))
    except ExchangeError as error:
        return Finding("coupled", str(error))
    except Exception as error:  # noqa: BLE001 (a check must not end a run that would train)
        first_line = str(error).partition("\n")[0][:200]
        return Finding("unknown", f"{type(error).__name__}: {first_line}", error)
    finally:
        for each in (*others, state):
            each.restore()


def _found(trial: Trial, passes: _Passes) -> Finding:
    cuts = _few_rows(trial.batch, trial.split)
    if not cuts:
        return Finding("unknown", "the batch cannot be cut in two")
    found: list[Finding] = []
    for cut in cuts:
        try:
            found.append(passes.compare(cut))
        except Exception as error:
            if not is_out_of_memory(error) and (not found or found[0].kind == "unknown"):
                if not _refuses_grad(error):
                    raise
                break
        else:
            continue
        release_memory()  # outside of the handler: the traceback kept the tensors alive
    if not found:  # losses alone need less memory
        passes.of_losses_alone(grad=False)
        try:
            found.append(passes.compare(cuts[-1]))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
    kinds = ("coupled", "mean", "sum", "unknown")  # what one cut shows, another may hide
    no_memory = Finding("unknown", "there was no memory to check it")
    return min(found, key=lambda each: kinds.index(each.kind), default=no_memory)


def check_whole(trial: Trial) -> Finding:
    """Compare the losses of a batch that is about to be split with those of its halves.

    What holds for a few rows need not hold for many: a loss over the hardest k is a sum on k rows.
    Without gradients the batch may fit; else its half is compared, and so on.

    Returns:
        What was found; often unknown, as for losses that take gradients inside.
    """
    return _undone(trial, partial(_found_of_all, trial))


def _found_of_all(trial: Trial, passes: _Passes) -> Finding:
    passes.of_losses_alone(grad=False)
    batch = trial.batch
    while (cut := _cut(trial.split, batch)) is not None:
        try:
            return passes.compare(cut, exact=_WHOLE)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        release_memory()
        batch = cut[1]
    return Finding("unknown", "there was no memory to check it")


def _refuses_grad(error: Exception) -> bool:
    """Whether checkpoints of the older kind, which allow `backward` alone, are in the way."""
    return isinstance(error, RuntimeError) and "use_reentrant" in str(error)


@dataclass(frozen=True, eq=False)
class Pass:
    """A loss, and its gradient for some parameters."""

    loss: float
    gradients: tuple[torch.Tensor, ...] = ()

    @property
    def size(self) -> float:
        """The norm of the gradient, or the loss where that is all there is."""
        return norm_of(self.gradients) if self.gradients else abs(self.loss)


class _Passes:
    """Runs passes over parts of a batch, each from the same state, and compares them."""

    def __init__(self, trial: Trial, state: PassState) -> None:
        self._trial = trial
        self._state = state
        # A compiled model would compile again for these shapes.
        self._model = getattr(trial.model, "_orig_mod", trial.model)
        self._rounds = _rounds(self._model, trial.policy)
        self._fixed: Callable[[], AbstractContextManager[Any]] = nullcontext
        self._made: dict[int, Pass] = {}  # by part: one cut's half is the next one's whole
        self.parameters = _compared(self._model)
        self._grad = True

    def of_losses_alone(self, *, grad: bool = True) -> None:
        """Go on without comparing gradients; `grad` says whether a pass prepares for them."""
        self.parameters = []
        self._grad = grad
        self._made.clear()

    def compare(self, cut: _Cut, *, exact: float = _EXACT) -> Finding:
        """Run the rows and their halves, and say what the loss is."""
        for part in cut:
            if id(part) in self._made:
                continue
            self._state.restore()
            with self._fixed(), torch.set_grad_enabled(self._grad):
                self._made[id(part)] = self._pass(part)
            if self._fixed is nullcontext and self._state.random.generators.moved():
                self._fixed = FixedRandomness
                self._made.clear()
                return self.compare(cut, exact=exact)
        whole, first, second = (self._made[id(part)] for part in cut)
        return compared(whole, first, second, rounds=self._rounds, exact=exact)

    def _pass(self, batch: Any) -> Pass:
        with self._trial.policy.autocast():
            loss = self._trial.loss_sum(self._model, batch)
        if not self.parameters:
            return Pass(float(loss.detach()))
        refuse_other_losses(loss)
        # Not `backward`: that would add to gradients, and run hooks that step an optimizer.
        found = torch.autograd.grad(loss.float(), self.parameters, allow_unused=True)
        gradients = (
            torch.zeros_like(parameter) if gradient is None else gradient
            for parameter, gradient in zip(self.parameters, found, strict=True)
        )
        dense = (each.to_dense() if each.is_sparse else each for each in gradients)
        return Pass(float(loss.detach()), tuple(each.detach().float() for each in dense))


def compared(
    whole: Pass, first: Pass, second: Pass, *, rounds: bool = False, exact: float = _EXACT
) -> Finding:
    """Say what a loss is, from passes over some rows and over their two halves.

    Args:
        whole: Of the rows.
        first: Of the first half.
        second: Of the second half.
        rounds: Whether numbers of 16 bits are involved.
        exact: How far a sum may be from the parts' sum, relative to their size, otherwise.

    Example:
        >>> [compared(Pass(whole), Pass(2.0), Pass(3.0)).kind for whole in (5.0, 2.5, 4.0)]
        ['sum', 'mean', 'coupled']
    """
    figures = f"two halves give {first.loss:.4g} and {second.loss:.4g}, the whole {whole.loss:.4g}"
    if not all(math.isfinite(each.loss) for each in (whole, first, second)):
        return Finding("unknown", f"the losses are not finite: {figures}")
    sizes = whole.size + first.size + second.size
    is_sum = _distance(whole, first, second, 1.0, 1.0) <= (_ROUNDED if rounds else exact) * sizes
    # A share of exactly 0 or 1 is no mean: the whole is one of its parts, as of a maximum.
    share = _share(whole, first, second)
    near = (_ROUNDED if rounds else _NEAR) * sizes
    is_mean = 1e-3 < share < 1 - 1e-3 and (
        _distance(whole, first, second, share, 1.0 - share) <= near
    )
    if is_sum and (is_mean or min(first.size, second.size) <= near):
        return Finding("unknown", "one of the parts has no gradient")
    if is_sum:
        return Finding("sum", figures)
    return Finding("mean" if is_mean else "coupled", figures)


def _distance(whole: Pass, first: Pass, second: Pass, a: float, b: float) -> float:
    """Return how far the whole is from `a` times the first half and `b` times the second."""
    if not whole.gradients:
        return abs(whole.loss - a * first.loss - b * second.loss)
    triples = zip(whole.gradients, first.gradients, second.gradients, strict=True)
    return norm_of([g - a * g1 - b * g2 for g, g1, g2 in triples])


def _share(whole: Pass, first: Pass, second: Pass) -> float:
    """Return the weight of the first half, were the whole a mean of the two."""
    size = abs(first.loss) + abs(second.loss) or 1.0
    norm = first.size + second.size or 1.0
    along = (whole.loss - second.loss) * (first.loss - second.loss) / size**2
    apart = ((first.loss - second.loss) / size) ** 2
    for g, g1, g2 in zip(whole.gradients, first.gradients, second.gradients, strict=True):
        between = (g1 - g2) / norm
        along += float(((g - g2) / norm * between).sum(dtype=torch.float64))
        apart += float(between.square().sum(dtype=torch.float64))
    return 0.5 if apart < 1e-12 else along / apart


def norm_of(tensors: Sequence[torch.Tensor]) -> float:
    """Return the norm of some tensors as one vector."""
    return math.sqrt(sum(float(each.double().square().sum()) for each in tensors))


def coupled_layer(model: torch.nn.Module) -> str | None:
    """Describe the first layer that computes statistics over the rows of a batch, if any.

    Example:
        >>> coupled_layer(torch.nn.Sequential(torch.nn.BatchNorm1d(3)))
        '0 is a BatchNorm1d'
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            return f"{name or 'the model'} is a {type(module).__name__}"
    return None


def _few_rows(batch: Any, split: Split) -> list[_Cut]:
    """Return small parts of a batch with their two halves, the larger part first.

    Halves of two rows or more where there are any: losses that drop dimensions of size one go
    wrong on single rows. A batch of one row is doubled: sums double with it, and means do not.
    """
    cuts: list[_Cut] = []
    halves = [batch]
    while True:
        cut = next((each for each in map(partial(_cut, split), halves) if each is not None), None)
        if cut is None:
            return cuts[-2:] or _doubled(batch)
        cuts.append(cut)
        halves = [*cut[1:]]


def _cut(split: Split, batch: Any) -> _Cut | None:
    try:
        return (batch, *split(batch))
    except UpdateError:
        return None


def _doubled(batch: Any) -> list[_Cut]:
    try:
        return [(select_rows(batch, [0, 0]), batch, batch)] if num_rows(batch) == 1 else []
    except UpdateError:  # one packed document
        return []


def _compared(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Choose the parameters to compare: the smallest, which are found in every layer."""
    wanted = sorted((each for each in model.parameters() if each.requires_grad), key=_size)
    chosen: list[torch.nn.Parameter] = []
    total = 0
    for parameter in wanted:
        total += _size(parameter)
        if chosen and total > COMPARED:
            break
        chosen.append(parameter)
    return chosen


def _size(parameter: torch.Tensor) -> int:
    return parameter.numel()


def _rounds(model: torch.nn.Module, policy: Policy) -> bool:
    """Return whether products are rounded to 16 bits or so."""
    floating = [each for each in model.parameters() if each.is_floating_point()]
    on_gpu = any(each.device.type == "cuda" for each in floating)
    whole = all(each.dtype in {torch.float32, torch.float64} for each in floating)
    return policy.name != "fp32" or not whole or (on_gpu and torch.backends.cudnn.allow_tf32)
