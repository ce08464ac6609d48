"""A clock that counts work: the same figures on any machine, however busy."""

import importlib
from types import SimpleNamespace

import pytest
import torch
from torch.utils._pytree import tree_leaves

SECONDS_A_TOKEN = 1e-3

_MODULES = (
    "batchwright.advise.task_evidence",
    "batchwright.advise.learning_trials",
    "batchwright.advise.trials",
)


class WorkClock:
    """Seconds that pass only where batches are trained on: a thousandth for each padded token.

    Attributes:
        now: Seconds so far.
    """

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, batch: object) -> None:
        sizes = [each.numel() for each in tree_leaves(batch) if isinstance(each, torch.Tensor)]
        self.now += SECONDS_A_TOKEN * max(sizes, default=1)


def install(monkeypatch: pytest.MonkeyPatch) -> WorkClock:
    """Let trials and arms take their time from work, in this process."""
    clock = WorkClock()
    arm = importlib.import_module("batchwright.compare.arm")
    moved = arm.moved

    def worked_on(batch: object, device: torch.device) -> object:
        clock.work(batch)
        return moved(batch, device)

    monkeypatch.setattr(arm, "moved", worked_on)
    monkeypatch.setattr(arm, "own_time", clock)
    for name in _MODULES:
        monkeypatch.setattr(f"{name}.time", SimpleNamespace(perf_counter=clock))
    return clock
