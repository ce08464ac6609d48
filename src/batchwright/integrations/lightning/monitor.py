"""Figures of planned training in Lightning's logs."""

import time
import warnings
from typing import Any

from lightning.pytorch import Callback, Trainer

from batchwright.integrations.lightning.data_module import UpdateLoader
from batchwright.stats.running import Figures, RunningFigures
from batchwright.torch.data.batch_sampler import PlanBatchSampler
from batchwright.torch.data.wrappers import unwrapped


class EfficiencyMonitor(Callback):  # type: ignore[misc]
    """Logs padding, tokens a second and length mix of planned training, by Lightning's loggers.

    Logged with each of the trainer's own lines, over the updates since the last one, and of all
    devices together. What the names mean says `metrics.of`; `tokens` is the mean of an
    update. Times include everything but validation. The loss scale is there under
    ``precision="16-mixed"``. The figures come from the plan: tensors are not read, and nothing is
    communicated.

    Args:
        prefix: Put before the names.
    """

    def __init__(self, prefix: str = "efficiency/") -> None:
        self.prefix = prefix
        self._sampler: PlanBatchSampler | None = None
        self._course: Any = None
        self._running: RunningFigures | None = None
        self._figures: list[Figures] = []
        self._taken = self._measured = self._step = 0
        self._since = self._waited = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Look for the plan."""
        self._sampler, _ = unwrapped(trainer.train_dataloader, PlanBatchSampler)
        if self._sampler is None:
            warnings.warn(
                "EfficiencyMonitor logs nothing: the training data has no plan. Give fit a "
                "PlanDataModule, or a PlanLoader.",
                stacklevel=2,
            )
        self._step, self._figures, self._course = trainer.global_step, [], None
        self._since, self._waited = time.perf_counter(), self._waiting(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Stop the clock."""
        self._since -= time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Start it again."""
        self._since += time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure an update that has ended, and log where the trainer does."""
        if self._sampler is None or not trainer.is_global_zero:
            return
        course = self._sampler.course
        if course is not self._course:  # another pass
            self._course = course
            self._running = None if course is None else course.running()
            self._taken = self._measured = 0
        self._taken += 1
        if self._running is None or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        self._figures.append(self._running.of(self._measured, self._taken))
        self._measured = self._taken
        every = trainer.log_every_n_steps
        if every and self._step % every == 0:
            # Lightning numbers steps from 0 here.
            found = self._logged(trainer)
            for logger in trainer.loggers:
                logger.log_metrics(found, step=self._step - 1)

    def _logged(self, trainer: Trainer) -> dict[str, float]:
        now, waited = time.perf_counter(), self._waiting(trainer)
        seconds = now - self._since
        tokens = sum(each.tokens for each in self._figures)
        found = {
            "padding": 1 - tokens / sum(each.padded_tokens for each in self._figures),
            "tokens": tokens / len(self._figures),
            "tokens_per_second": tokens / seconds,
            "dispersion": sum(each.dispersion for each in self._figures) / len(self._figures),
        }
        if isinstance(trainer.train_dataloader, UpdateLoader):
            found["data_wait"] = (waited - self._waited) / seconds
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            found["loss_scale"] = float(scaler.get_scale())
        self._figures, self._since, self._waited = [], now, waited
        return {f"{self.prefix}{name}": value for name, value in found.items()}

    @staticmethod
    def _waiting(trainer: Trainer) -> float:
        return float(getattr(trainer.train_dataloader, "seconds", 0.0))
