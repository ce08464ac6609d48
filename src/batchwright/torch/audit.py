"""The audit: what is lost in half floats, layer by layer, in every so many updates."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from batchwright._records import on_trial
from batchwright.errors import PrecisionError
from batchwright.torch.audit_exponents import Exponents, count_bins
from batchwright.torch.audit_report import AuditReport, LayerAudit, LostUpdates
from batchwright.torch.data.trees import tensors_of
from batchwright.torch.update.precision import Precision

_NAMES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
}
_HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Audit:
    """Looks at every N-th update: activations, their gradients, what parameters change by.

    Values are counted by their power of two. So an audit in fp32 or bf16 tells what fp16 would
    lose, at any loss scale, before the switch; and zeros that were zero are told from those that
    became it. In fp16 itself the two look alike. Nothing that is computed changes. In between,
    no hook is in place but one on the optimizer's step.

    Under DistributedDataParallel each rank sees its own batches; under FSDP its own shards, and no
    gradients by parameters.

    Args:
        model: The model.
        optimizer: The optimizer, or several; the last counts updates. Skipped steps do
            not count. None: every pass is looked at, until `close`.
        every: Look at each N-th update, the N-th first.
        precision: What the updates are made with, to take the loss scale out of the gradients.
        scaler: The same, in a loop without `Precision`.
        tell: Called with the report after each update that was looked at; `print`, for one.

    Raises:
        PrecisionError: If `every` is less than 1, or both `precision` and `scaler` are given.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        >>> with Audit(model, optimizer, every=1) as audit:
        ...     model(torch.ones(2, 4)).sum().backward()
        ...     optimizer.step()
        >>> report = audit.report()
        >>> [layer.name for layer in report.layers], report.advice()
        (['0', '1'], [])
        >>> report.advice("bf16-true")
        ['100 % of the updates are lost with parameters in bf16: too small beside the parameter ...
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        *,
        every: int = 100,
        precision: Precision | None = None,
        scaler: torch.amp.GradScaler | None = None,
        tell: Callable[[AuditReport], object] | None = None,
    ) -> None:
        if every < 1:
            raise PrecisionError(f"Audit(every={every}): expected at least 1.")
        if precision is not None and scaler is not None:
            raise PrecisionError("Audit: give either the precision or a scaler, got both.")
        several = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else optimizer
        self._optimizers = list(several or [])
        self._model = model.module if isinstance(model, DistributedDataParallel) else model
        self._every, self._precision, self._scaler, self._tell = every, precision, scaler, tell
        self._looking: list[RemovableHandle] = []
        self._before: dict[torch.nn.Parameter, torch.Tensor] = {}
        self.clear()
        self._counting = [
            handle
            for each in self._optimizers
            for handle in (
                each.register_step_pre_hook(self._before_step),
                each.register_step_post_hook(self._after_step),
            )
        ]
        if not self._optimizers or every == 1:
            self._look()

    def __enter__(self) -> Self:
        """Go on; hooks are in place since the audit was made."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Take all hooks off. The report stays."""
        self._look_away()
        for handle in self._counting:
            handle.remove()
        self._counting.clear()

    def clear(self) -> None:
        """Forget what was seen."""
        self._bins: dict[tuple[str, str], torch.Tensor] = {}
        self._formats: dict[str, str] = {}
        self._lost: dict[str, LostUpdates] = {}
        self._scale = 1.0
        self._updates = self._passed = 0

    def report(self) -> AuditReport:
        """Return what was seen since the beginning, or since `clear`."""
        sequence = {name: place for place, name in enumerate(self._formats)}
        layers = [self._layer(name, module) for name, module in _layers(self._model)]
        layers.sort(key=lambda layer: sequence.get(layer.name, len(sequence)))
        return AuditReport(tuple(layers), self._updates, self._passed, self._scale)

    def _layer(self, name: str, module: torch.nn.Module) -> LayerAudit:
        own = next(module.parameters(recurse=False), None)
        return LayerAudit(
            name or "model",
            type(module).__name__,
            self._formats.get(name),
            None if own is None else _name_of(own),
            activations=self._seen(name, "activations"),
            gradients=self._seen(name, "gradients"),
            parameter_gradients=self._seen(name, "parameter_gradients"),
            updates=self._seen(name, "updates"),
            lost=self._lost.get(name, LostUpdates()),
        )

    def _seen(self, name: str, what: str) -> Exponents:
        bins = self._bins.get((name, what))
        return Exponents() if bins is None else Exponents.from_bins(bins.tolist())

    def _look(self) -> None:
        self._looking = [
            module.register_forward_hook(partial(self._forward, name))
            for name, module in _layers(self._model)
        ]
        self._looking += [
            _on_gradient(parameter, partial(self._backward, name, "parameter_gradients"))
            for name, parameter in _owned(self._model)
            if parameter.requires_grad
        ]

    def _look_away(self) -> None:
        for handle in self._looking:
            handle.remove()
        self._looking.clear()
        self._before.clear()

    def _forward(self, name: str, module: torch.nn.Module, inputs: object, output: Any) -> None:
        if on_trial() or not torch.is_grad_enabled():
            return  # passes that measure, check or evaluate belong to no update
        for tensor in tensors_of(output):
            if not tensor.is_floating_point() or not tensor.ndim:  # a single number is a loss
                continue
            self._formats.setdefault(name, _name_of(tensor))
            self._count(name, "activations", tensor)
            if tensor.requires_grad:
                # On the tensor, not the module: that would put a node into the graph.
                _on_gradient(tensor, partial(self._backward, name, "gradients"))

    def _backward(self, name: str, what: str, gradient: torch.Tensor) -> None:
        if self._looking and not on_trial():
            self._scale = self._loss_scale()
            self._count(name, what, gradient, scale=self._scale)

    def _loss_scale(self) -> float:
        if self._precision is not None:
            return self._precision.loss_scale
        return 1.0 if self._scaler is None else float(self._scaler.get_scale())

    def _count(self, name: str, what: str, values: torch.Tensor, *, scale: float = 1.0) -> None:
        bins = count_bins(_local(values), scale=scale)
        held = self._bins.get((name, what))
        self._bins[name, what] = bins if held is None else held + bins.to(held.device)

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if self._looking:
            for parameter in _moving(optimizer):
                self._before[parameter] = _local(parameter).clone()

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if self._before and not self._was_skipped():
            for name, parameter in _owned(self._model):
                if parameter in self._before:
                    self._changed(name, parameter, self._before[parameter])
        self._before.clear()
        if optimizer is not self._optimizers[-1]:
            return
        self._passed += 1
        if self._looking:
            self._updates += 1
            self._look_away()
            if self._tell is not None:
                self._tell(self.report())
        if (self._passed + 1) % self._every == 0:
            self._look()

    def _was_skipped(self) -> bool:
        """Tell whether a fused optimizer was called, and left all as it was by itself."""
        moved = (not torch.equal(_local(each), was) for each, was in self._before.items())
        finite = (bool(_gradient(each).isfinite().all()) for each in self._before)
        return not any(moved) and not all(finite)

    def _changed(self, name: str, parameter: torch.nn.Parameter, before: torch.Tensor) -> None:
        after = _local(parameter)
        change = after - before
        self._count(name, "updates", change)
        due = (change != 0) | (_gradient(parameter) != 0)
        lost_in = {}
        if parameter.dtype not in _HALVES.values():
            for kept, dtype in _HALVES.items():
                rounded = before.to(dtype)
                stays = (rounded.to(change.dtype) + change).to(dtype) == rounded
                lost_in[kept] = int((stays & due).sum())
        seen = LostUpdates(int(due.sum()), int((due & (change == 0)).sum()), lost_in)
        self._lost[name] = self._lost.get(name, LostUpdates()) + seen


def _layers(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Go through modules without children, and those with parameters of their own."""
    for name, module in model.named_modules():
        is_leaf = next(module.children(), None) is None
        if is_leaf or next(module.parameters(recurse=False), None) is not None:
            yield name, module


def _owned(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Go through parameters with the layer that they are in; tied ones with the first of theirs."""
    seen = set()
    for name, layer in _layers(model):
        for parameter in layer.parameters(recurse=False):
            if parameter not in seen:
                seen.add(parameter)
                yield name, parameter


def _on_gradient(tensor: torch.Tensor, call: Callable[[torch.Tensor], None]) -> RemovableHandle:
    handle: RemovableHandle = tensor.register_hook(call)  # type: ignore[no-untyped-call]
    return handle


def _moving(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """List the parameters that a step is to move: a rate of 0, as warm-up begins, moves none."""
    return [
        each
        for group in optimizer.param_groups
        if group["lr"] != 0
        for each in group["params"]
        if each.grad is not None and each.is_floating_point()
    ]


def _local(values: torch.Tensor) -> torch.Tensor:
    """Return the values themselves, strided: of a sharded tensor, this rank's."""
    values = values.detach()
    local: torch.Tensor = values.to_local() if isinstance(values, DTensor) else values
    return local.to_dense() if local.is_sparse else local


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None  # noqa: S101 (see _moving)
    return _local(parameter.grad)


def _name_of(tensor: torch.Tensor) -> str:
    return _NAMES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
