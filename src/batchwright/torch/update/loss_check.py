"""Whether a loss is a sum over rows: found out on a few rows of a batch, and remembered."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Literal, TypeAlias

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from batchwright.errors import LossError, UpdateError
from batchwright.torch.data.rows import Split, num_rows, select_rows
from batchwright.torch.update.measuring import Policy
from batchwright.torch.update.out_of_memory import attempted
from batchwright.torch.update.passes import (
    ExchangeError,
    FixedRandomness,
    LossSum,
    PassState,
    identity,
    modules_of,
    refuse_other_losses,
    refused_exchange,
    untouched,
)
from batchwright.typing import Batch

_COMPARED = 1 << 22  # parameters, about, whose gradients are compared at most

# How far a sum may be from the parts' sum, relative to their size; the same for the losses of a
# whole batch, which add up more numbers; a mean from their mean; and each of them in 16 bits.
# Rounding in fp32 makes less than 1e-6 in networks of dozens of layers.
_EXACT, _WHOLE, _NEAR, _ROUNDED = 1e-5, 1e-4, 1e-3, 5e-2

_TRIES = 8  # batches on which a loss is tried until it is known what it is
_MOST = 32  # loss functions distinguished by what they hold; further ones are by their code
_IF_A_SUM = "Pass check_loss=False to Precision if it is a sum."

_Cut: TypeAlias = tuple[Batch, Batch, Batch]
"""Some rows, and the two halves of them."""


@dataclass(frozen=True)
class Finding:
    """What is known of a loss.

    ``"sum"``: parts of a batch add up to the whole. ``"no mean"``: their losses do; gradients were
    not compared. ``"mean"``: the whole lies between its parts. ``"coupled"``: the loss of a row
    depends on other rows. ``"unknown"``: it could not be found out.
    """

    kind: Literal["sum", "no mean", "mean", "coupled", "unknown"]
    detail: str = ""  # the figures, or why it is unknown
    error: Exception | None = None  # what the check itself ran into


_NO_MEMORY = Finding("unknown", "there was no memory to check it")


@dataclass(frozen=True, eq=False)
class Trial:
    """A loss, and what it is tried on."""

    loss_sum: LossSum
    model: torch.nn.Module
    batch: Batch
    split: Split
    policy: Policy


class LossFindings:
    """Tries each loss function on its first batch, and remembers what it is."""

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self._found: dict[Hashable, Finding] = {}
        self._tries: dict[Hashable, int] = {}

    def check(self, trial: Trial) -> None:
        """Refuse a loss that is a mean."""
        if not self.enabled:
            return
        key = self._key(trial.loss_sum)
        known = self._found.get(key)
        if known is not None and (known.kind != "unknown" or self._tries[key] >= _TRIES):
            return
        if known is None and check_loss(trial, _few_losses).kind == "sum":
            self._found[key] = Finding("no mean")  # more is found out before a batch is split
            return
        found = self._try(key, trial)
        if found.kind == "mean":
            raise LossError(
                f"loss_sum looks like a mean: {found.detail} (of a few rows); sums would add up. "
                'Use reduction="sum", or pass check_loss=False to Precision if this is right.'
            )
        if found.error is not None and known is None and _coupled_layer(trial.model) is None:
            warnings.warn(
                "it could not be checked that loss_sum is a sum over the rows of a batch: on a few "
                f"rows it raised {found.detail}. Training goes on. {_IF_A_SUM}",
                stacklevel=4,
            )

    def refuse_to_split(self, trial: Trial, *, whole: bool = False) -> None:
        """Refuse to split a batch whose loss is not known to be a sum over rows."""
        layer = _coupled_layer(trial.model)
        if layer is not None:
            raise UpdateError(
                f"the batch cannot be split: {layer} in training, whose statistics would change. "
                "Lower the budget, or replace it (GroupNorm, LayerNorm), or put it into eval()."
            )
        if not self.enabled:
            return
        key = self._key(trial.loss_sum)
        found = self._found.get(key)
        if found is None or found.kind in {"unknown", "no mean"}:
            found = self._try(key, trial)
        if whole and found.kind == "sum":
            seen = check_loss(trial, _all_losses)
            found = self._found[key] = found if seen.kind == "unknown" else seen
        if found.kind == "sum":
            return
        what, cure = "loss_sum is no sum over rows, as what a row adds depends on other rows", ""
        if found.kind == "unknown":
            what, cure = "it is not known whether loss_sum is a sum over rows", f" {_IF_A_SUM}"
        raise UpdateError(
            f"the batch cannot be split: {what} ({found.detail}). Lower the budget.{cure}"
        )

    def __getstate__(self) -> dict[str, object]:
        """Leave findings out: functions are others in another process."""
        return {"enabled": self.enabled, "_found": {}, "_tries": {}}

    def _key(self, loss_sum: LossSum) -> Hashable:
        key = identity(loss_sum)
        return key if key in self._found or len(self._found) < _MOST else key[0]

    def _try(self, key: Hashable, trial: Trial) -> Finding:
        self._tries[key] = self._tries.get(key, 0) + 1
        found = self._found[key] = check_loss(trial)
        return found


_Pass: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""A loss, and what is compared: its gradient as one vector, or the loss itself."""


class _Passes:
    """Runs passes over parts of a batch, each from the same state, and compares them."""

    def __init__(self, trial: Trial, state: PassState) -> None:
        self.trial = trial
        self._state = state
        # A compiled model would compile again for these shapes.
        self._model = getattr(trial.model, "_orig_mod", trial.model)
        self._rounds = _rounds(self._model, trial.policy)
        self._fixed: Callable[[], AbstractContextManager[object]] = nullcontext
        self._made: dict[int, _Pass] = {}  # by part: one cut's half is the next one's whole
        self._parameters = _smallest_parameters(self._model)
        self._grad = True

    def compare_losses(self, *, grad: bool = True) -> None:
        """Compare losses alone from now on; `grad` says whether a pass prepares for gradients."""
        self._parameters, self._grad = [], grad
        self._made.clear()

    def compare(self, cut: _Cut, *, exact: float = _EXACT) -> Finding:
        """Run the rows and their halves, and say what the loss is."""
        for part in cut:
            if id(part) in self._made:
                continue
            self._state.restore()
            with self._fixed(), torch.set_grad_enabled(self._grad):
                self._made[id(part)] = self._pass(part)
            if self._fixed is nullcontext and self._state.random.moved():
                self._fixed = FixedRandomness
                self._made.clear()
                return self.compare(cut, exact=exact)
        passes = [self._made[id(part)] for part in cut]
        return _compared(passes, rounds=self._rounds, exact=exact)

    def compare_what_fits(self, cut: _Cut, *, exact: float = _EXACT) -> list[Finding]:
        """Return one finding, or none where memory ran out."""
        found = attempted(partial(self.compare, cut, exact=exact))
        return [] if found is None else [found]

    def _pass(self, batch: Batch) -> _Pass:
        with self.trial.policy.autocast():
            loss = self.trial.loss_sum(self._model, batch)
        value = loss.detach().double()
        if not self._parameters:
            return value, value
        refuse_other_losses(loss)
        # Not `backward`: that would add to gradients, and run hooks that step an optimizer.
        gradients = torch.autograd.grad(
            loss.float(), self._parameters, allow_unused=True, materialize_grads=True
        )
        dense = [each.to_dense().to(loss.device).float().flatten() for each in gradients]
        return value, torch.cat(dense).detach()


def _compared(passes: Sequence[_Pass], *, rounds: bool = False, exact: float = _EXACT) -> Finding:
    """Say what a loss is, from passes over some rows and over their two halves."""
    losses = [float(loss) for loss, _ in passes]
    figures = f"two halves give {losses[1]:.4g} and {losses[2]:.4g}, the whole {losses[0]:.4g}"
    if not all(map(math.isfinite, losses)):
        return Finding("unknown", f"the losses are not finite: {figures}")
    whole, first, second = (compared for _, compared in passes)
    sizes = [_norm(each) for each in (whole, first, second)]
    near = (_ROUNDED if rounds else _NEAR) * sum(sizes)
    is_sum = _norm(whole - first - second) <= (_ROUNDED if rounds else exact) * sum(sizes)
    # A share of exactly 0 or 1 is no mean: the whole is one of its parts, as of a maximum.
    share = _share(passes)
    between = whole - share * first - (1.0 - share) * second
    is_mean = 1e-3 < share < 1 - 1e-3 and _norm(between) <= near
    if is_sum and (is_mean or min(sizes[1:]) <= near):
        return Finding("unknown", "one of the parts has no gradient")
    return Finding("sum" if is_sum else "mean" if is_mean else "coupled", figures)


def _share(passes: Sequence[_Pass]) -> float:
    """Return the weight of the first half, were the whole a mean of the two."""
    along = apart = 0.0
    for whole, first, second in zip(*passes, strict=True):
        size = _norm(first) + _norm(second) or 1.0
        between = (first - second) / size
        along += float(((whole - second) / size * between).sum(dtype=torch.float64))
        apart += float(between.square().sum(dtype=torch.float64))
    return 0.5 if apart < 1e-12 else along / apart


def _norm(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def _coupled_layer(model: torch.nn.Module) -> str | None:
    """Describe the first layer that computes statistics over the rows of a batch, if any."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            return f"{name or 'the model'} is a {type(module).__name__}"
    return None


def _few_rows(trial: Trial) -> list[_Cut]:
    """Return small parts of a batch with their two halves, the larger part first.

    Halves of two rows or more where there are any: losses that drop dimensions of size one go
    wrong on single rows. A batch of one row is doubled: sums double with it, and means do not.
    """
    cuts: list[_Cut] = []
    cut = _cut(trial, trial.batch)
    while cut is not None:
        cuts.append(cut)
        cut = _cut(trial, cut[1]) or _cut(trial, cut[2])
    if not cuts and num_rows(trial.batch) == 1:
        with suppress(UpdateError):  # of one packed document
            cuts.append((select_rows(trial.batch, [0, 0]), trial.batch, trial.batch))
    return cuts[-2:]


def _cut(trial: Trial, batch: Batch) -> _Cut | None:
    try:
        return (batch, *trial.split(batch))
    except UpdateError:
        return None


def _smallest_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Choose the parameters to compare: the smallest, which are found in every layer."""
    trained = (each for each in model.parameters() if each.requires_grad)
    wanted = sorted(trained, key=torch.Tensor.numel)
    totals = accumulate(each.numel() for each in wanted)
    few = [each for each, total in zip(wanted, totals, strict=True) if total <= _COMPARED]
    return few or wanted[:1]


def _rounds(model: torch.nn.Module, policy: Policy) -> bool:
    """Return whether products are rounded to 16 bits or so."""
    floating = [each for each in model.parameters() if each.is_floating_point()]
    on_gpu = any(each.device.type == "cuda" for each in floating)
    single = all(each.dtype in {torch.float32, torch.float64} for each in floating)
    return policy.name != "fp32" or not single or (on_gpu and torch.backends.cudnn.allow_tf32)


def _few_losses(passes: _Passes) -> Finding:
    """Compare the losses of a few rows, by three forward passes: no mean passes for a sum."""
    passes.compare_losses()
    cuts = _few_rows(passes.trial)
    return passes.compare(cuts[0]) if cuts else Finding("unknown")


def _few_gradients(passes: _Passes) -> Finding:
    """Compare the loss and the gradient of up to seven rows, by five passes."""
    cuts = _few_rows(passes.trial)
    if not cuts:
        return Finding("unknown", "the batch cannot be cut in two")
    found: list[Finding] = []
    try:
        for cut in cuts:
            found += passes.compare_what_fits(cut)
    except Exception as error:
        # Checkpoints of the older kind allow `backward` alone.
        older = isinstance(error, RuntimeError) and "use_reentrant" in str(error)
        if not older and all(each.kind == "unknown" for each in found):
            raise
    if not found:  # losses alone need less memory
        passes.compare_losses(grad=False)
        found = passes.compare_what_fits(cuts[-1])
    kinds = ("coupled", "mean", "sum", "unknown")  # what one cut shows, another may hide
    return min(found, key=lambda each: kinds.index(each.kind), default=_NO_MEMORY)


def _all_losses(passes: _Passes) -> Finding:
    """Compare the losses of a whole batch, or of its half, and so on, whatever fits.

    What holds for a few rows need not hold for many: a loss over the hardest k is a sum on k rows.
    """
    passes.compare_losses(grad=False)
    cut = _cut(passes.trial, passes.trial.batch)
    while cut is not None:
        for found in passes.compare_what_fits(cut, exact=_WHOLE):
            return found
        cut = _cut(passes.trial, cut[1])
    return _NO_MEMORY


def check_loss(trial: Trial, look: Callable[[_Passes], Finding] = _few_gradients) -> Finding:
    """Compare the loss of some rows with those of their two halves, without leaving a trace.

    The model runs as it trains, with random numbers replaced by constants. An error is a finding.
    """
    try:
        with untouched(trial.model, *modules_of(trial.loss_sum)) as state, refused_exchange():
            return look(_Passes(trial, state))
    except ExchangeError as error:
        return Finding("coupled", str(error))
    except Exception as error:  # noqa: BLE001 (a check must not end a run that would train)
        first_line = str(error).partition("\n")[0][:200]
        return Finding("unknown", f"{type(error).__name__}: {first_line}", error)
