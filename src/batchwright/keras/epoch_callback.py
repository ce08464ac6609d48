"""What keeps a data set and `fit` together: epochs, positions, backups, and checks."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import keras

from batchwright.errors import PlanError
from batchwright.keras.backup import Backup
from batchwright.keras.weights import require_sums
from batchwright.rank_batches import RankBatches
from batchwright.typing import State

if TYPE_CHECKING:
    from batchwright.keras.plan_dataset import PlanDataset


class EpochCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets the epoch of a `PlanDataset` when `fit` begins it, and counts; made by its `callback()`.

    It uses the number that `fit` gives, so ``initial_epoch`` works. After a data set loaded a
    state, or from a backup, `fit` begins with what was left of that epoch.

    Raises:
        PlanError: In `fit`, if ``steps_per_epoch`` is not the number of batches, the optimizer
            does not accumulate the batches that the plan has for an update, nothing averages
            gradients over the ranks, the plan is one rank's part of a plan, or the epochs are
            others than the data set's.
        LossError: In `fit`, if weights are exact and a loss is not a sum.
    """

    def __init__(
        self, dataset: PlanDataset, ranked: RankBatches, backup: Backup | None = None
    ) -> None:
        super().__init__()
        self._dataset, self._ranked, self._backup = dataset, ranked, backup
        self._accumulate = 1  # batches of an update
        self._together = 1  # batches between two calls of this callback
        self._done = 0  # batches of this epoch
        self._saved = 0  # those when the backup was made; below 0: in an epoch before
        self._is_first = True  # the epoch is the first of `fit`
        self._quiet: warnings.catch_warnings[None] | None = None

    def on_train_begin(self, logs: State | None = None) -> None:
        """Check the model and the settings of `fit`; go on from the backup if there is one."""
        model, dataset = self.model, self._dataset
        steps, num_batches = self.params.get("steps"), len(dataset)
        if steps not in {None, num_batches}:
            raise PlanError(
                f"fit trains {steps} batches an epoch, but the plan has {num_batches}: samples "
                "would be lost. Omit steps_per_epoch."
            )
        optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # if it scales
        planned = self._accumulate = dataset.accumulate
        accumulated = getattr(optimizer, "gradient_accumulation_steps", None) or 1
        if planned not in {1, accumulated}:
            raise PlanError(
                f"the plan has {planned} batches for each update (accumulate), but "
                f"the optimizer takes {accumulated}. Make it with "
                f"gradient_accumulation_steps={planned}, or plan without accumulate."
            )
        short = num_batches % planned
        if short:
            raise PlanError(
                f"the last update of an epoch has {short} batches, and the others {planned} "
                "(accumulate): Keras would go on with it in the next epoch. There are too few "
                "samples for that many batches: plan with a smaller accumulate."
            )
        if dataset.world_size > 1:
            _require_average(model, optimizer, dataset.world_size)
        if dataset.exact:
            require_sums(model)
            if dataset.plan.origin.is_shard:
                raise PlanError(
                    "the plan is one rank's part of a plan, whose mean weight differs from that of "
                    "the others. Give the whole plan, with rank= and world_size=."
                )
        self._together = int(model.steps_per_execution or 1)
        self._is_first, self._done, self._saved = True, 0, 0
        if self._backup is not None and (state := self._backup.state()) is not None:
            if not model.built:
                model(dataset.extremes()[0][0])
            self._backup.restore(model, is_saver=self._ranked.rank == 0)
            dataset.load_state_dict(state)
        if self._ranked.is_loaded:
            model._initial_epoch = dataset.epoch  # noqa: SLF001 (as Keras' BackupAndRestore does)

    def on_epoch_begin(self, epoch: int, logs: State | None = None) -> None:
        """Plan the epoch, or what is left of it."""
        ranked = self._ranked
        if self._is_first and ranked.is_loaded and epoch != ranked.epoch:
            raise PlanError(
                f"fit begins with epoch {epoch}, but the data set goes on in epoch "
                f"{ranked.epoch}. Give fit initial_epoch=dataset.epoch."
            )
        if self._is_first:
            self.model._initial_epoch = None  # noqa: SLF001 (else it holds for the next fit, too)
        self._is_first = False
        self._saved, self._done = self._saved - self._done, 0
        ranked.set_epoch(epoch)
        ranked.begin()
        left, whole = len(ranked.course), len(ranked)
        if left > whole:
            raise PlanError(
                f"the rest of epoch {epoch} has {left} batches for each rank in this world and "
                f"budget, and fit, which takes {whole} an epoch, would leave out the last "
                f"{left - whole}. Resume with the ranks and the budget that it was saved with."
            )
        if left < whole and left % self._together:
            raise PlanError(
                f"{left} batches are left of epoch {epoch}, no multiple of steps_per_execution="
                f"{self._together}. Compile the model with steps_per_execution=1."
            )
        ranked.is_counted = True
        if left < whole:
            self._quiet = warnings.catch_warnings()
            self._quiet.__enter__()
            warnings.filterwarnings("ignore", "Your input ran out of data", UserWarning)

    def on_train_batch_begin(self, batch: int, logs: State | None = None) -> None:
        """Count the batches that are about to be trained: states are saved after these."""
        self._ranked.consumed = min(batch + self._together, len(self._ranked.course))

    def on_train_batch_end(self, batch: int, logs: State | None = None) -> None:
        """Make a backup, if it is time and an update is complete."""
        done = self._done = batch + 1
        if self._backup is None or self._backup.save_freq is None:
            return
        is_whole = done % self._accumulate == 0
        if is_whole and done - self._saved >= self._backup.save_freq:
            self._saved = done
            self._save()

    def on_epoch_end(self, epoch: int, logs: State | None = None) -> None:
        """Make a backup, if one is made for each epoch."""
        self._ranked.is_counted = False
        if self._quiet is not None:
            self._quiet.__exit__(None, None, None)
            self._quiet = None
        if self._backup is not None and self._backup.save_freq is None:
            self._save()

    def on_train_end(self, logs: State | None = None) -> None:
        """Remove the backup: nothing is left to resume."""
        if self._backup is not None and self._ranked.rank == 0:
            self._backup.remove()

    def _save(self) -> None:
        if self._backup is not None and self._ranked.rank == 0:
            self._backup.save(self.model, self._dataset.state_dict())


def _require_average(model: keras.Model, optimizer: object, world_size: int) -> None:
    """Raise `PlanError` where `fit` cannot average gradients over ranks."""
    strategy = getattr(model, "distribute_strategy", None)  # of tf.distribute
    sharing = getattr(strategy, "num_replicas_in_sync", 1) > 1
    if sharing or keras.distribution.distribution() is not None:
        raise PlanError(
            f"the plan is shared among {world_size} ranks, and Keras' distribution would share "
            "each batch again. Make the data set with rank=0, world_size=1: devices of one process "
            "take the rows of the same batch."
        )
    functions = (type(model).train_step, type(optimizer).apply)  # type: ignore[attr-defined]
    if all(str(each.__module__).startswith("keras.") for each in functions):
        raise PlanError(
            f"fit does not average gradients over {world_size} ranks: each would train a model of "
            "its own. Average them in the apply of an optimizer of your own, or in train_step; or "
            "train in a loop."
        )
