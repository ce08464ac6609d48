"""Planned batches in Lightning: exact updates, exact resume on any devices."""

import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor

from batchwright.errors import LossError, PlanError
from batchwright.plan_source import as_source
from batchwright.planner import Planner
from batchwright.resume import chart, read_position
from batchwright.torch.data.plan_loader import PlanLoader, Shared
from batchwright.torch.windows import checked_weight, counter_of
from batchwright.typing import Batch, State


class PlanDataModule(LightningDataModule):  # type: ignore[misc]
    """Trains on the batches of a planner, on any number of devices.

    - Each device trains on its part of each epoch's plan. `accumulate_grad_batches` is set to what
      was planned, or has to be that.
    - The position is in Lightning's checkpoints. A run resumed with ``ckpt_path=`` goes on at the
      sample where the checkpoint was written, with any number of workers and devices. Where an
      update's batches can be shared among these, it keeps them: accumulation is set for that.
    - `mean` makes the loss of a batch such that the update is the one of the mean over
      everything that the loss counts in it, on all devices.

    Args:
        dataset: One sample for each length.
        planner: A `Planner` of it.
        val_dataloaders: What Lightning validates with, as ``trainer.fit`` would take it. None: what
            the model's `val_dataloader` returns, if it has one.
        weigh: What the loss of a batch sums over. None: its labels; see `windows`.
        **options: Further arguments of `PlanLoader`, such as `collate_fn` and `num_workers`.

    Raises:
        PlanError: If the trainer accumulates another number of batches than is planned, or a
            checkpoint cannot be continued exactly.

    Example:
        >>> import batchwright as bw
        >>> from batchwright.torch import PadCollator
        >>> dataset = [torch.ones(n) for n in (5, 3, 8, 2)]
        >>> planner = bw.Planner([5, 3, 8, 2], max_tokens=10, accumulate=2)
        >>> data = PlanDataModule(dataset, planner, collate_fn=PadCollator())
    """

    def __init__(
        self,
        dataset: Any,
        planner: Planner,
        *,
        val_dataloaders: Any = None,
        weigh: Callable[[Batch], float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.dataset, self.planner = dataset, planner
        self._validation, self._weigh, self._options = val_dataloaders, weigh, options
        self._loader: UpdateLoader | None = None
        self._state: State | None = None  # of a checkpoint, until the epoch goes on from there

    def setup(self, stage: str) -> None:
        """Make the trainer accumulate what is planned."""
        if stage != "fit":
            return
        trainer, (_, ranks) = self._trainer(), self._place()
        if trainer.overfit_batches:
            raise PlanError(
                f"overfit_batches={trainer.overfit_batches}: Lightning makes a loader of its own "
                "for it, without the plan. Give PlanDataModule a few samples and their planner."
            )
        planned, given = as_source(self.planner).accumulate(ranks), trainer.accumulate_grad_batches
        if given not in {1, planned}:
            raise PlanError(
                f"accumulate_grad_batches={given}, and the planner plans {planned} batches of an "
                f"update for each of {ranks} devices. Leave it out, or give Planner another "
                "accumulate=."
            )
        trainer.accumulate_grad_batches = planned

    def train_dataloader(self) -> PlanLoader:
        """Return the loader of this device."""
        rank, ranks = self._place()
        place = {"rank": rank, "world_size": ranks}
        self._loader = UpdateLoader(self, self.dataset, self.planner, **place, **self._options)
        return self._loader

    def val_dataloader(self) -> Any:
        """Return what was given to validate with, else what the model has."""
        model: Any = self._trainer().lightning_module
        if (
            self._validation is None
            and type(model).val_dataloader != LightningModule.val_dataloader
        ):
            return model.val_dataloader()
        return [] if self._validation is None else self._validation

    def mean(self, loss_sum: Tensor) -> Tensor:
        """Turn the sum of a batch's loss into what `training_step` is to return.

        Lightning averages it over the batches and devices of an update, which gives the mean over
        everything that the loss counts in the update. The first call of an update adds up the
        weights of all devices, so each device has to call it for each batch.
        """
        loader, trainer = self._loader, self._trainer()
        if loader is None or not loader.window or not trainer.training:
            raise LossError("mean is of batches that are trained on: call it in training_step.")
        if loader.weight is None:
            counter = counter_of(loader)
            counter.look(loader.window)
            own = sum(checked_weight((self._weigh or counter)(each)) for each in loader.window)
            total = torch.tensor(own, dtype=torch.float32, device=loss_sum.device)
            total = trainer.strategy.reduce(total, reduce_op="sum")
            # Devices that share a model have the same batches.
            loader.weight = total * (self._place()[1] / trainer.world_size)
        automatic = trainer.lightning_module.automatic_optimization
        averaged = self._place()[1] * (trainer.accumulate_grad_batches if automatic else 1)
        weight = loader.weight
        share = torch.where(weight > 0, averaged / weight, 0.0)  # 0 where nothing counts
        return loss_sum * share

    def state_dict(self) -> State:
        """Return where the run is, for Lightning's checkpoints."""
        if self._loader is None:
            return {}
        current = self._trainer().fit_loop.epoch_loop.batch_progress.current
        unfinished = current.ready - current.processed  # a step that was interrupted
        return {
            "world_size": self._place()[1],
            "accumulate": self._loader.accumulate,
            "sampler": self._loader.state_without(unfinished),
        }

    def load_state_dict(self, state_dict: State) -> None:
        """Remember where a run was, and keep the batches of its updates on other devices."""
        self._state = state_dict
        ranks, accumulate = state_dict["world_size"], state_dict["accumulate"]
        (_, now), trainer = self._place(), self._trainer()
        planned = as_source(self.planner).accumulate(now)
        if now == ranks or ranks * accumulate % now or ranks * accumulate == now * planned:
            return
        kept = ranks * accumulate // now
        warnings.warn(
            f"the checkpoint was trained by {ranks} devices × {accumulate} batches an update. On "
            f"{now}, accumulate_grad_batches is {kept}, so that updates stay.",
            stacklevel=2,
        )
        self.planner = self.planner.resized(now, kept)
        trainer.accumulate_grad_batches = kept

    @property
    def has_state(self) -> bool:
        """Whether a checkpoint has said where to go on, and the run has not yet."""
        return self._state is not None

    def begin(self, loader: "UpdateLoader") -> None:
        """Go on where a checkpoint was written: Lightning begins an epoch."""
        trainer, (_, ranks) = self._trainer(), self._place()
        # The epoch that Lightning sets is one too many after some resumes with max_steps.
        loader.due = trainer.current_epoch
        whole, accumulate, limit = len(loader), loader.accumulate, trainer.num_training_batches
        if trainer.accumulate_grad_batches != accumulate:
            raise PlanError(
                f"accumulate_grad_batches={trainer.accumulate_grad_batches} now, and {accumulate} "
                "batches of an update are planned for this loader. Leave its scheduler out."
            )
        if limit != whole and limit % accumulate and not trainer.fast_dev_run:
            raise PlanError(
                f"limit_train_batches leaves {limit} of {whole} batches, which are no whole "
                f"updates of {accumulate}. Leave a multiple of {accumulate}."
            )
        state, self._state = self._state, None
        progress = trainer.fit_loop.epoch_loop.batch_progress
        counts, total = progress.current, progress.total
        # Lightning counts a batch as completed only after the hook that writes checkpoints.
        pending = int(total.processed == total.started == total.ready == total.completed + 1)
        done = counts.completed + pending if trainer.fit_loop.restarting else 0
        if not done:
            return
        if state is None and loader.is_loaded:  # by Lightning, of a PlanLoader without this module
            return
        if state is None:
            raise PlanError(
                "the checkpoint was written without PlanDataModule: which samples the run has seen "
                "is unknown. Begin a new run from its weights: load_from_checkpoint(…), and fit "
                "without ckpt_path."
            )
        source = as_source(self.planner)
        position = read_position(state["sampler"], source)
        if trainer.fit_loop.restarted_on_epoch_start:
            progress.reset_on_run()  # Lightning would go on with the counts of the epoch before
            return
        left = len(chart(source, position, ranks)) if position.legs else whole
        last = position.legs[-1] if position.legs else None
        inside = 0 if last is None else last.consumed // last.world_size % last.accumulate
        if inside and left:
            raise PlanError(
                f"the checkpoint was written after {inside} of {state['accumulate']} batches of an "
                "update, and does not hold their gradient. Resume from one that was written at the "
                "end of an update: every_n_train_steps, or a val_check_interval that is a "
                f"multiple of {state['accumulate']}."
            )
        done = whole - left
        if done < 0 or (left and done % accumulate):  # the last update may be short
            raise PlanError(
                f"{left} batches of the epoch are left for each of {ranks} devices, and an epoch "
                f"has {whole}: Lightning would count wrongly. Resume with the budget and the "
                "accumulation that the run began with."
            )
        if done >= limit and not progress.is_last_batch:
            raise PlanError(
                f"limit_train_batches leaves {limit} batches of an epoch, and {done} are trained "
                "already: Lightning would begin the epoch again. Resume with the limit that the "
                "checkpoint was written with."
            )
        # As if these devices had trained from the beginning of the epoch.
        counts.ready = counts.started = counts.processed = done
        counts.completed = done - pending
        if done < limit:
            loader.go_on(state["sampler"])

    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise PlanError("PlanDataModule has no trainer: give it to fit(model, datamodule=…).")
        return self.trainer

    def _place(self) -> tuple[int, int]:
        """Return rank and number of the devices that get different batches."""
        place = self._trainer().distributed_sampler_kwargs
        return (0, 1) if place is None else (place["rank"], place["num_replicas"])


class UpdateLoader(PlanLoader):
    """A loader that takes the batches of an update together, for a `PlanDataModule`.

    Attributes:
        window: The batches of the present update, as they were loaded.
        weight: What they weigh over all devices, once that is asked for.
        seconds: How long the loop has waited for batches.
        is_loaded: Whether Lightning has loaded a state.
        due: The epoch of the next iterator. None: as it was set.
    """

    def __init__(
        self, module: PlanDataModule, dataset: Any, planner: Planner, **options: Any
    ) -> None:
        super().__init__(dataset, planner, **options)
        self._module = module
        self.__dict__["sampler"] = _Epochs(self)
        self.window: tuple[Batch, ...] = ()
        self.weight: Tensor | None = None
        self.seconds, self.is_loaded = 0.0, False
        self._is_checked = False  # whether the first update has ended
        self.due: int | None = None

    @property
    def accumulate(self) -> int:
        """Batches of an update on this device."""
        return self._planned.accumulate

    def begin(self) -> None:
        """Begin an epoch."""
        self._module.begin(self)

    def go_on(self, state: State) -> None:
        """Go on where a state was saved."""
        super().load_state_dict(state)

    def state_without(self, batches: int) -> State:
        """Return the state as if some of the last batches had not been taken."""
        taken, self._taken = self._taken, max(self._taken - batches, 0)
        try:
            return self.state_dict()
        finally:
            self._taken = taken

    def load_state_dict(self, state: State, *, planned_by: Any = None) -> None:
        """Leave it to the data module, which has a state of its own."""
        self.is_loaded = True
        if not self._module.has_state:
            super().load_state_dict(state, planned_by=planned_by)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Go through the batches of this device."""
        if self.due not in {None, self.epoch}:
            self.set_epoch(self.due)
        batches = super().__iter__()
        while True:
            asked = time.perf_counter()
            self.window = tuple(itertools.islice(batches, self.accumulate))
            self.weight = None
            self.seconds += time.perf_counter() - asked
            if not self.window:
                return
            taken = self._taken - len(self.window)
            for number, batch in enumerate(self.window, start=1):
                self._taken = taken + number
                yield batch
            if self.weight is None and not self._is_checked:
                self._warn_of_other_means()
            self._is_checked = True

    def _warn_of_other_means(self) -> None:
        batches = self.accumulate * self._planned.world_size
        if batches > 1:
            warnings.warn(
                f"an update of {batches} batches ended, and PlanDataModule.mean was not called: if "
                "training_step returns the mean loss of a batch, the update is a mean of means, in "
                "which the tokens of small batches count more. Return "
                "self.trainer.datamodule.mean(loss_sum).",
                stacklevel=2,
            )


class _Epochs(Shared):
    """Passes on that Lightning begins an epoch."""

    def __init__(self, loader: UpdateLoader) -> None:
        super().__init__(loader.batch_sampler)  # type: ignore[arg-type]
        self._loader = loader

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self._loader.begin()
