"""The formats of matrix products in one forward pass, by torch's hooks for all modules."""

from __future__ import annotations

import sys
from typing import Any

from .recorder import Recorder
from .updates import updates_of

_AFTER = 2  # updates before a forward pass is looked at: by then, lazy parts are built


class Products:
    """Counts the products of the layers that are called until the next backward pass."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._handle: Any = None
        self.is_done = False
        self._flops: dict[str, float] = {}
        self._largest: dict[str, tuple[float, str]] = {}
        self._formats: dict[str, int] = {}
        self._autocast: str | None = None
        self._is_training = False

    def begin(self, module: Any) -> None:
        """Begin to look."""
        self._handle = module.register_module_forward_hook(self._called)

    def _called(self, layer: Any, _inputs: Any, output: Any) -> None:
        self._recorder.guarded(self._count, layer, output)

    def _count(self, layer: Any, output: Any) -> None:
        torch = sys.modules["torch"]
        if not torch.is_grad_enabled():
            return
        weight = layer._parameters.get("weight")  # noqa: SLF001 -- torch's own name
        if weight is None:
            weight = layer._parameters.get("in_proj_weight")  # noqa: SLF001 -- torch's own name
        result = output[0] if isinstance(output, (tuple, list)) and output else output
        if weight is None or weight.ndim < 2 or not isinstance(result, torch.Tensor):
            return
        if isinstance(layer, torch.nn.Embedding) or not result.is_floating_point():
            return
        if result.ndim < 2:
            return
        device = result.device.type
        if torch.is_autocast_enabled(device):
            self._autocast = _name(torch.get_autocast_dtype(device))
        features = result.shape[-1]
        if features not in weight.shape:
            features = result.shape[1]
        flops = 2.0 * result.numel() * weight.numel() / max(features, 1)
        written = _name(result.dtype)
        self._flops[written] = self._flops.get(written, 0.0) + flops
        kind = type(layer).__name__
        name = f"{kind}({', '.join(map(str, weight.shape))})"
        self._largest[written] = max(self._largest.get(written, (0.0, "")), (flops, name))
        own = _name(weight.dtype)
        self._formats[own] = self._formats.get(own, 0) + weight.numel()
        self._is_training = self._is_training or layer.training

    def end(self) -> None:
        """Record what was seen, and look no more."""
        self._handle.remove()
        self._handle = None
        if not self._flops:
            return
        self.is_done = True
        largest = {name: layer for name, (_, layer) in self._largest.items()}
        parameters = max(self._formats, key=lambda each: self._formats[each])
        self._recorder.add(
            "products",
            {
                "flops": self._flops,
                "autocast": self._autocast,
                "largest": largest,
                "parameters": parameters,
                "is_training": self._is_training,
            },
        )

    @property
    def is_looking(self) -> bool:
        """Whether layers are looked at now."""
        return self._handle is not None


def watch_modules(module: Any, recorder: Recorder) -> None:
    """Look at one forward pass: from the batch after some updates to its backward pass."""
    products, updates = Products(recorder), updates_of(recorder)

    def after_update() -> None:
        is_due = not products.is_done and not products.is_looking
        if is_due and recorder.num_updates >= _AFTER and not _compiles():
            products.begin(module)

    def before_backward() -> None:
        if products.is_looking:
            products.end()

    updates.after_update.append(after_update)
    updates.before_losses.append(before_backward)


def _compiles() -> bool:
    """Return whether something is compiled, whose graphs depend on hooks of modules."""
    utils = sys.modules.get("torch._dynamo.utils")
    return utils is not None and bool(utils.counters["frames"])


def _name(dtype: Any) -> str:
    name = str(dtype).removeprefix("torch.")
    return {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}.get(name, name)
