"""Hooks in the backward pass and in optimizers."""

from __future__ import annotations

import functools
import math
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from .loaders import seen_by
from .losses import LossFacts, facts_of
from .overheads import overhead_of
from .recorder import Recorder, clock
from .replay import Replay

_LOOKS = 8  # updates before which gradients are looked at
_TIMED = 2  # the update before whose first backward pass operations are timed
_PARAMETERS = 3  # of which gradients are looked at
_LATER = "later"  # for a loss on a device, which a later event has


class Updates:
    """The updates of a process."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self._seen = recorder, seen_by(recorder)
        self._optimizer: Any = None  # whose steps are updates
        self._numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._known = 0  # optimizers
        self._other: Any = None  # another one, which has stepped since the last update
        self._shared: dict[int, bool] = {}  # number → whether it has parameters of that optimizer
        self._backwards = 0  # since the last step with a backward pass of its own
        self._accumulates = False  # whether the last update had several
        self._depth = 0
        self._losses = 0  # that are read later
        self._compiled = 0
        self._replay = Replay()
        self.num_applied = 0  # steps of the optimizer
        self.schedules: weakref.WeakSet[Any] = weakref.WeakSet()
        self._scheduled = 0  # steps of schedules up to the last update
        self.clips_scaled = False
        self.unscaled: set[int] = set()  # ids of optimizers whose gradients are unscaled
        self.scaler: Any = None
        self.after_update: list[Callable[[], None]] = []  # called by others
        self.before_losses: list[Callable[[], None]] = []

    def before_backward(self, tensors: Any) -> None:
        """Record a backward pass before it begins."""
        self._depth += 1
        if self._depth > 1:  # activations are recomputed
            return
        start = clock()
        for call in self.before_losses:
            self._recorder.guarded(call)
        root = tensors[0] if isinstance(tensors, (list, tuple)) and tensors else tensors
        facts = LossFacts()
        if getattr(root, "grad_fn", None) is not None and root.numel() == 1:
            facts = facts_of(root)
        is_stale = None
        if self._backwards == 0 and self._optimizer is not None:
            is_stale = self._is_stale() if self._recorder.num_updates <= _LOOKS else None
            # Ranks average gradients in their last backward pass; one pass alone has no parts.
            if self._accumulates and _ranks()[1] == 1:
                number = self._recorder.num_updates
                self._replay.begin(number, self._optimizer, is_stale=is_stale)
        if self._backwards == 0 and self._recorder.num_updates == _TIMED:
            self._recorder.guarded(self._time_operations, root)
        self._backwards += 1
        self._seen.trains()
        self._replay.expect(facts)
        scale = self._scale()
        loss, counted = self._now(root, facts)
        self._recorder.add(
            "backward",
            start,
            loss,
            facts.reduction,
            facts.factor,
            counted,
            scale,
            is_stale,
            facts.part,
        )

    def after_backward(self) -> None:
        """Record that a backward pass has ended."""
        self._depth -= 1
        if self._depth == 0:
            self._recorder.add("computed", clock())
            self._recorder.guarded(self._replay.add)

    def _time_operations(self, root: Any) -> None:
        seconds = overhead_of(root)
        if seconds is not None:
            self._recorder.add("overhead", seconds)

    def _now(self, root: Any, facts: LossFacts) -> tuple[float | str | None, int | None]:
        """Read the loss and its count; on a device they are read later."""
        loss, counted = root.detach(), facts.counted
        if loss.numel() != 1:
            return None, None
        if loss.device.type == "cpu":
            return float(loss), None if counted is None else int(counted)
        number = self._losses
        self._losses += 1

        def read() -> None:
            value = float(loss)
            self._recorder.add("loss", number, value, None if counted is None else int(counted))

        self._recorder.pending.append(read)
        return _LATER, None

    def _scale(self) -> float | None:
        if self.scaler is None:
            return None
        return float(self.scaler.get_scale())

    def _is_stale(self) -> bool:
        """Return whether gradients of an earlier update are still there."""
        looked = [
            each.grad
            for group in self._groups()
            for each in group["params"]
            if getattr(each, "grad", None) is not None
        ][:_PARAMETERS]
        return any(bool((each != 0).any()) for each in looked)

    def _groups(self) -> Sequence[Any]:
        return getattr(self._optimizer, "param_groups", ())

    def applied(self, optimizer: Any) -> None:
        """Record a step of an optimizer."""
        self.num_applied += 1
        if self._is_update(optimizer):
            error = self._recorder.guarded(self._replay.end)
            if error is not None:
                self._recorder.add("gradient", error)
            self._update(was_skipped=False)

    def skipped(self, optimizer: Any) -> None:
        """Record a step that a gradient scaler has skipped."""
        if self._is_update(optimizer):
            self._update(was_skipped=True)

    def _is_update(self, optimizer: Any) -> bool:
        """Return whether a step is an update; record a step of another optimizer.

        Updates are the steps of one optimizer: the first, until another one that shares parameters
        with it steps after a backward pass, or one with other parameters does so twice in a row.
        A step without its own backward pass is part of the previous update.
        """
        if optimizer is self._optimizer:
            self._other = None
            return True
        if self._optimizer is None:
            self._number_of(optimizer)
            self._optimizer = optimizer
            self._recorder.add("process", self._process())
            return True
        number = self._number_of(optimizer)
        if not self._backwards:
            return False
        if optimizer is not self._other and not self._shares(optimizer, number):
            self._recorder.add("step", number)
            self._other, self._backwards = optimizer, 0
            return False
        self._recorder.add("main", number)
        self._optimizer, self._other, self._shared = optimizer, None, {}
        self._scheduled = self._schedule_steps()
        return True

    def _number_of(self, optimizer: Any) -> int:
        number = self._numbers.get(optimizer)
        if number is None:
            number = self._numbers[optimizer] = self._known
            self._known += 1
            self._recorder.add("optimizer", number, type(optimizer).__name__)
        return number

    def _shares(self, optimizer: Any, number: int) -> bool:
        """Return whether an optimizer shares parameters with the one whose steps are updates."""
        if number not in self._shared:
            own = {id(each) for group in self._groups() for each in group["params"]}
            others = getattr(optimizer, "param_groups", ())
            self._shared[number] = any(id(each) in own for one in others for each in one["params"])
        return self._shared[number]

    def _schedule_steps(self) -> int:
        """Count the steps of that optimizer's schedules, as far as their optimizer is known."""
        groups, schedules = self._groups(), list(self.schedules)
        own = [
            each
            for each in schedules
            if getattr(getattr(each, "optimizer", None), "param_groups", None) is groups
        ]
        return sum(getattr(each, "last_epoch", 0) for each in own or schedules)

    def _update(self, *, was_skipped: bool) -> None:
        self._recorder.num_updates += 1
        groups = self._groups()
        rate = groups[0].get("lr") if groups else None
        scheduled = self._schedule_steps()
        self._recorder.add(
            "update",
            clock(),
            was_skipped,
            self._scale(),
            _number(rate),
            _peak(self._device()),
            scheduled - self._scheduled,
            self.clips_scaled,
        )
        self._accumulates = self._backwards > 1
        self._backwards, self.clips_scaled, self._scheduled = 0, False, scheduled
        if self._compiled != (compiled := _compiled()):
            self._compiled = compiled
            self._recorder.add("compiled", compiled)
        self._recorder.after_update()
        for call in self.after_update:
            self._recorder.guarded(call)

    def _device(self) -> str:
        for group in self._groups():
            for each in group["params"]:
                return str(each.device.type)
        return "cpu"

    def _process(self) -> dict[str, Any]:
        rank, world_size = _ranks()
        device = self._device()
        return {
            "rank": rank,
            "world_size": world_size,
            "device": device,
            "fast_formats": _fast_formats(device),
            "framework": _framework(),
        }


@functools.cache
def updates_of(recorder: Recorder) -> Updates:
    """Return the updates of a process."""
    return Updates(recorder)


def watch_backward(module: Any, recorder: Recorder) -> None:
    """Hook `torch.autograd.backward`, which `Tensor.backward` calls."""
    updates, backward = updates_of(recorder), module.backward

    @functools.wraps(backward)
    def watched(*arguments: Any, **options: Any) -> Any:
        if not recorder.is_on:
            return backward(*arguments, **options)
        tensors = arguments[0] if arguments else options.get("tensors")
        recorder.guarded(updates.before_backward, tensors)
        try:
            return backward(*arguments, **options)
        finally:
            recorder.guarded(updates.after_backward)

    module.backward = watched


def watch_optimizers(module: Any, recorder: Recorder) -> None:
    """Hook the steps of torch's optimizers, with torch's own hooks."""
    updates = updates_of(recorder)

    def after(optimizer: Any, *_: Any) -> None:
        if recorder.is_on:
            recorder.guarded(updates.applied, optimizer)

    module.register_optimizer_step_post_hook(after)


def _number(value: Any) -> float | None:
    number = None if value is None else float(value)
    return number if number is not None and math.isfinite(number) else None


def _ranks() -> tuple[int, int]:
    """Return the rank and the number of ranks; without a process group, from the environment."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _peak(device: str) -> int:
    """Return the most bytes that were in use so far."""
    torch = sys.modules.get("torch")
    if device == "cuda" and torch is not None:
        return int(torch.cuda.max_memory_allocated())
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _fast_formats(device: str) -> list[str]:
    """Return the 16-bit formats in which the device multiplies faster than in fp32."""
    torch = sys.modules.get("torch")
    if device == "cuda" and torch is not None:
        major, _ = torch.cuda.get_device_capability()
        return ["bf16", "fp16"] if major >= 8 else ["fp16"] if major >= 7 else []
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 -- starts fast
            flags = next((line.split() for line in file if line.startswith("flags")), [])
    except OSError:
        return []
    found = {"amx_bf16": "bf16", "avx512_bf16": "bf16", "amx_fp16": "fp16"}
    return sorted({found[each] for each in flags if each in found})


_FRAMEWORKS = (
    ("trl.", "trl"),
    ("transformers.trainer", "transformers"),
    ("lightning.", "lightning"),
    ("pytorch_lightning.", "lightning"),
    ("keras.", "keras"),
    ("accelerate.", "accelerate"),
)


def _framework() -> str:
    """Return the framework whose loop this is, from the stack of the first update."""
    names: set[str] = set()
    frame: Any = sys._getframe()  # noqa: SLF001 -- there is no other way to the stack
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        names.update(framework for start, framework in _FRAMEWORKS if name.startswith(start))
        frame = frame.f_back
    if "transformers" in names and "trl.trainer.sft_trainer" in sys.modules:
        names.add("trl")
    return next((framework for _, framework in _FRAMEWORKS if framework in names), "torch")


def _compiled() -> int:
    """Return how many graphs were compiled so far."""
    module = sys.modules.get("torch._dynamo.utils")
    return int(module.counters["stats"].get("unique_graphs", 0)) if module is not None else 0
