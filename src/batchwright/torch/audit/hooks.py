"""Hooks that count, in every N-th update, what half precision loses in each layer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self, cast

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from batchwright._checks import whole_number
from batchwright._records import on_trial
from batchwright.errors import PrecisionError
from batchwright.torch.audit.report import (
    AuditReport,
    Exponents,
    LayerAudit,
    LostUpdates,
    count_bins,
)
from batchwright.torch.data.trees import tensors_of
from batchwright.torch.update.precision import Precision
from batchwright.torch.update.ranks import is_sharded

_HALVES = (torch.float16, torch.bfloat16)
_NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}


class Audit:
    """Audits every N-th update: activations, their gradients, changes of parameters.

    Values are counted by their power of two: an audit in fp32 or bf16 shows what fp16 would lose
    at any loss scale. Nothing that is computed changes. Under DistributedDataParallel each rank
    sees its own batches; under FSDP its own shards, and no gradients of parameters.

    Args:
        model: The model.
        optimizer: The optimizer, or several; the last one counts updates. Skipped steps do not
            count. None: every pass is audited, until `close`.
        every: Audit each N-th update, the N-th first.
        precision: The precision of the updates, to divide the loss scale out of the gradients; in
            a loop without `Precision`, its `torch.amp.GradScaler`.

    Raises:
        PrecisionError: If `every` is less than 1.

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
        ['100 % of the updates are lost with parameters in bf16: too small to change them ...
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        *,
        every: int = 100,
        precision: Precision | torch.amp.GradScaler | None = None,
    ) -> None:
        whole_number("Audit", "every", every, error=PrecisionError)
        several = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else optimizer
        self._optimizers = list(several or [])
        self._model = model.module if isinstance(model, DistributedDataParallel) else model
        self._every, self._precision = every, precision
        self._looking: list[RemovableHandle] = []
        self._before: dict[torch.nn.Parameter, torch.Tensor] = {}
        self._bins: dict[tuple[str, str], torch.Tensor] = {}
        self._formats: dict[str, str] = {}
        self._lost: dict[str, LostUpdates] = {}
        self._scale = 1.0
        self._updates = self._passed = 0
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
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove all hooks, and keep the report."""
        self._look_away()
        for handle in self._counting:
            handle.remove()
        self._counting.clear()

    def report(self) -> AuditReport:
        """Return what was counted since the beginning."""
        modules = dict(_layers(self._model))
        called = [name for name in self._formats if name in modules]
        layers = []
        for name in dict.fromkeys([*called, *modules]):
            own = next(modules[name].parameters(recurse=False), None)
            layer = LayerAudit(
                name or "model",
                type(modules[name]).__name__,
                self._formats.get(name),
                None if own is None else _name_of(own),
                lost=self._lost.get(name, LostUpdates()),
            )
            seen: dict[str, Any] = {
                what: Exponents.of_bins(bins)
                for (layer_name, what), bins in self._bins.items()
                if layer_name == name
            }
            layers.append(replace(layer, **seen))
        return AuditReport(tuple(layers), self._updates, self._passed, self._scale)

    def _look(self) -> None:
        self._looking = [
            module.register_forward_hook(partial(self._forward, name))
            for name, module in _layers(self._model)
        ]
        self._looking += [
            _on_gradient(parameter, partial(self._backward, name, "parameter_gradients"))
            for parameter, name in _owners(self._model).items()
            if parameter.requires_grad
        ]

    def _look_away(self) -> None:
        for handle in self._looking:
            handle.remove()
        self._looking.clear()
        self._before.clear()

    def _forward(self, name: str, module: torch.nn.Module, inputs: object, output: object) -> None:
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
            if isinstance(self._precision, Precision):
                self._scale = self._precision.loss_scale
            elif self._precision is not None:
                self._scale = float(self._precision.get_scale())
            self._count(name, what, gradient, scale=self._scale)

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
            owners = _owners(self._model)
            for parameter in owners.keys() & self._before.keys():
                self._changed(owners[parameter], parameter, self._before[parameter])
        self._before.clear()
        if optimizer is not self._optimizers[-1]:
            return
        self._passed += 1
        if self._looking:
            self._updates += 1
            self._look_away()
        if (self._passed + 1) % self._every == 0:
            self._look()

    def _was_skipped(self) -> bool:
        """Return whether a fused optimizer was called and skipped the step by itself."""
        moved = (not torch.equal(_local(each), was) for each, was in self._before.items())
        finite = (bool(_gradient(each).isfinite().all()) for each in self._before)
        return not any(moved) and not all(finite)

    def _changed(self, name: str, parameter: torch.nn.Parameter, before: torch.Tensor) -> None:
        after = _local(parameter)
        change = after - before
        self._count(name, "updates", change)
        due = (change != 0) | (_gradient(parameter) != 0)
        stays = [change == 0] * 3  # as it is kept, in fp16, in bf16
        if parameter.dtype not in _HALVES:
            for place, dtype in enumerate(_HALVES, start=1):
                rounded = before.to(dtype)
                stays[place] = (rounded.to(change.dtype) + change).to(dtype) == rounded
        seen = LostUpdates(int(due.sum()), *(int((due & each).sum()) for each in stays))
        self._lost[name] = self._lost.get(name, LostUpdates()) + seen


def _layers(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield modules without children, and those with parameters of their own."""
    for name, module in model.named_modules():
        is_leaf = next(module.children(), None) is None
        if is_leaf or next(module.parameters(recurse=False), None) is not None:
            yield name, module


def _owners(model: torch.nn.Module) -> dict[torch.nn.Parameter, str]:
    """Return the layer of each parameter; the first one, if it is shared."""
    owners: dict[torch.nn.Parameter, str] = {}
    for name, layer in _layers(model):
        for parameter in layer.parameters(recurse=False):
            owners.setdefault(parameter, name)
    return owners


def _on_gradient(tensor: torch.Tensor, call: Callable[[torch.Tensor], None]) -> RemovableHandle:
    handle: RemovableHandle = tensor.register_hook(call)  # type: ignore[no-untyped-call]
    return handle


def _moving(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """List the parameters that a step should move: none at a rate of 0, as warm-up begins."""
    return [
        each
        for group in optimizer.param_groups
        if group["lr"] != 0
        for each in group["params"]
        if each.grad is not None and each.is_floating_point()
    ]


def _local(values: torch.Tensor) -> torch.Tensor:
    """Return the values as a dense tensor: of a sharded one, this rank's."""
    values = values.detach()
    local: torch.Tensor = cast("Any", values).to_local() if is_sharded(values) else values
    return local.to_dense() if local.is_sparse else local


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None  # noqa: S101 (see _moving)
    return _local(parameter.grad)


def _name_of(tensor: torch.Tensor) -> str:
    return _NAMES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
