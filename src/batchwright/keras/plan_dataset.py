"""A plan as the data set of `fit`, on every backend."""

import operator
import warnings
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from batchwright._checks import whole_number
from batchwright._ranks import place_of
from batchwright.errors import MissingExtraError, PlanError
from batchwright.keras.backup import Backup
from batchwright.keras.epoch_batches import EpochBatches, Fetch
from batchwright.keras.epoch_callback import EpochCallback
from batchwright.keras.weights import mean_weight
from batchwright.planner import Planner
from batchwright.plans import Plan
from batchwright.rank_batches import RankBatches
from batchwright.typing import Batch, Field, State


class PlanDataset(keras.utils.PyDataset):  # type: ignore[misc]
    """Gives `fit` the batches of each epoch's plan, in order.

    Guarantees the same number of batches in every epoch, and that every token (or sample) of an
    epoch moves the parameters as much as any other: sample weights are divided by the mean weight
    of a batch, so that a loss reduced by ``"sum"`` is Σ weight × loss ÷ mean weight. This includes
    updates of several batches, by an optimizer whose ``gradient_accumulation_steps`` are the
    planner's `accumulate`, and of several ranks whose gradients are averaged.

    Its position is saved and loaded like that of a `PlanLoader`, also under another number of ranks
    or with another budget: `callback` does that in `fit`; in a loop of your own, ``for batch in
    dataset``, call `set_epoch`, `state_dict` and `load_state_dict`.

    Call `fit` with ``shuffle=False``, as Keras would permute the batches otherwise, and with this
    data set's `callback`. The loss that Keras shows is averaged over batches by their rows;
    `TokenMean` is a metric that averages over tokens.

        dataset = PlanDataset(planner, fetch)
        model.compile("adam", keras.losses.MeanSquaredError(reduction="sum"))
        model.fit(dataset.for_fit(), epochs=3, shuffle=False, callbacks=[dataset.callback()])

    Args:
        plans: A `Planner`: a new plan every epoch. Or one global `Plan`, as for validation: the
            same batches every epoch.
        fetch: ``fetch(indices)`` → ``(x, y, sample_weight)``: padded NumPy arrays, with one row
            for each of int64[B] indices. The weights have exactly the shape of the loss: [B], or
            [B, T] with 0 for padding; Keras would broadcast others along the wrong axis. For
            `predict`, x alone. If the plan splits samples: ``fetch(indices, starts)``.
        exact: Scale the weights, as above. False: they stay as they are, and Keras takes the mean
            of the batches' means.
        weights: float[n], the total weight of each sample in the loss. None: its length for
            weights [B, T], 1 for weights [B]. It matters only as a unit, like the learning rate.
        workers: Threads that fetch ahead of training; 0 fetches when a batch is asked for.
        rank: This process, from 0. None: as `torch.distributed` says, if it is initialised.
        world_size: Processes that get different batches. None: as `rank`.

    Raises:
        PlanError: If `plans` is neither, `fetch` is no function, or `workers` no number of threads;
            if the rank is not in the world, or a launcher started several processes and none is
            given.
        LossError: If weights are not finite numbers of at least 0, one per sample.

    Example:
        >>> from batchwright import Planner
        >>> planner = Planner([2, 1, 2], max_tokens=4)
        >>> def fetch(indices):
        ...     return indices, indices, np.ones(indices.size)
        >>> dataset = PlanDataset(planner, fetch)
        >>> len(dataset), [dataset[batch][2].tolist() for batch in range(2)]
        (2, [[0.666..., 0.666...], [0.666...]])
    """

    def __init__(
        self,
        plans: Planner | Plan,
        fetch: Fetch,
        *,
        exact: bool = True,
        weights: npt.ArrayLike | None = None,
        workers: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        # Keras' own workers return the batches fetched to learn the shapes a second time, as the
        # first batches of training, and the last batches of each epoch never.
        super().__init__(workers=1)
        if not isinstance(plans, Planner | Plan):
            raise PlanError(f"{type(plans).__name__} is neither a Planner nor a Plan.")
        if not callable(fetch):
            raise PlanError(
                f"fetch is a {type(fetch).__name__}, expected a function of sample indices that "
                "returns (x, y, sample_weight)."
            )
        self.exact = exact
        self._plans = plans
        self._fetch = fetch
        self._weights = weights
        self._threads = whole_number("PlanDataset", "workers", workers, least=0, error=PlanError)
        self._ranked = RankBatches(plans, place_of(rank, world_size, "PlanDataset"))
        self._next: int | None = None  # the batch that `fit` should ask for; None: not in `fit`
        self._present: tuple[int, EpochBatches] | None = None  # of a pass
        self._batches  # noqa: B018 (raises where weights or plans cannot be)

    def __len__(self) -> int:
        """Count this rank's batches of a whole epoch, also while one is resumed in its middle."""
        return len(self._ranked)

    @property
    def num_batches(self) -> int:
        """The batches that `fit` takes: of the rest of an epoch, where it is resumed."""
        return len(self._batches) if self._ranked.is_counted else len(self)

    def __getitem__(self, batch: int) -> Batch:
        """Fetch a batch of what is left of the epoch; in `fit`, PlanError if it is out of order."""
        number, count = operator.index(batch), len(self._batches)
        if number < 0:
            number += count
        if self._next is not None:
            if number > self._next:
                raise PlanError(
                    f"batch {number} was asked for where batch {self._next} was next: fit "
                    "permutes the batches of a plan unless it is called with shuffle=False."
                )
            if count <= number < len(self):
                raise PlanError(
                    f"{count} batches are left of epoch {self.epoch}, and fit asks for more. Give "
                    "it callbacks=[dataset.callback()]."
                )
            self._next = max(self._next, number + 1)
            self._ranked.took(self._next, self._ranked.passes, is_ahead=True)
        return self._batches[number]

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over what is left of the epoch, even if another is set meanwhile."""
        return self._passing()

    def _passing(self, *, is_ahead: bool = False) -> Iterator[Batch]:
        """Iterate; with `is_ahead` for a reader that takes batches ahead of the training loop."""
        self._warn_if_spent()
        ranked = self._ranked
        if not ranked.is_counted:
            ranked.begin()
        batches, number = self._batches, ranked.passes
        for place in range(len(batches)):
            batch = batches[place]
            ranked.took(place + 1, number, is_ahead=is_ahead)
            yield batch

    def __repr__(self) -> str:
        of = f", rank {self.rank} of {self.world_size}" if self.world_size > 1 else ""
        return (
            f"PlanDataset({len(self)} batches an epoch, epoch {self.epoch}, exact={self.exact}{of})"
        )

    @property
    def epoch(self) -> int:
        """The epoch of the batches."""
        return self._ranked.epoch

    @property
    def plan(self) -> Plan:
        """The plan of the epoch, whole and of all ranks."""
        return self._ranked.plan

    @property
    def rank(self) -> int:
        """This process, from 0."""
        return self._ranked.rank

    @property
    def world_size(self) -> int:
        """Processes that share the epoch."""
        return self._ranked.world_size

    @property
    def accumulate(self) -> int:
        """Batches of one update on this rank."""
        origin = self.plan.origin
        return origin.world_size * origin.accumulate // self.world_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; `callback` does that in `fit`."""
        self._ranked.set_epoch(epoch)

    def state_dict(self) -> State:
        """Return how far training is: a few hundred bytes, the same on every rank.

        JSON can keep it. In `fit` it counts the batches that were trained, where a callback asks.
        Save it at the end of an update, with the weights.
        """
        return self._ranked.state_dict()

    def state_after(self, consumed: int) -> State:
        """Return the state once so many batches of the present pass were trained."""
        return self._ranked.state_after(consumed)

    def load_state_dict(self, state: State, *, planned_by: Planner | Plan | None = None) -> None:
        """Make the next pass go on where a state was saved, in that state's epoch.

        The number of ranks, and the budget, may be others; see `PlanBatchSampler`. Of an epoch that
        was over, it goes on with the next one.
        """
        self._ranked.load_state_dict(state, planned_by)

    def callback(
        self, backup_dir: str | Path | None = None, save_freq: int | str = "epoch"
    ) -> EpochCallback:
        """Make the callback that sets the epoch in `fit`, and checks how the model trains.

        Args:
            backup_dir: Where rank 0 saves weights, position and the states of random layers. They
                are restored when the same `fit` is run again, on any number of ranks, and removed
                when it ends. Keras' `BackupAndRestore` begins the epoch again, with the weights of
                its middle; and with PyTorch, a `Dropout` without a seed has no state of its own.
            save_freq: Batches between backups, which are made at the end of an update. Or
                ``"epoch"``.
        """
        backup = None if backup_dir is None else Backup(backup_dir, save_freq)
        return EpochCallback(self, self._ranked, backup)

    def for_fit(self) -> Field:
        """Return what `fit` takes: on TensorFlow, `plan_tf_dataset` of it; else this data set."""
        return plan_tf_dataset(self) if keras.backend.backend() == "tensorflow" else self

    def extremes(self) -> tuple[Batch, Batch]:
        """Fetch the shortest and the longest sample; of a plan, its smallest and largest batch."""
        plan = self.plan
        if isinstance(self._plans, Planner):
            lengths = self._plans.lengths
            starts = None if plan.starts is None else np.zeros(2, np.int64)
            plan = Plan(np.array([lengths.argmin(), lengths.argmax()]), np.arange(3), starts)
        else:
            plan = plan.take(np.array([plan.sizes.argmax(), plan.sizes.argmin()]))
        batches = EpochBatches(plan, self._fetch, self._batches.mean)
        return batches[0], batches[1]

    def on_epoch_begin(self) -> None:
        """Start checking the order of batches; called by Keras."""
        if keras.backend.backend() == "tensorflow":
            raise PlanError(
                "the TensorFlow backend takes the shapes of a PyDataset's first two batches for "
                "those of all. Give fit the result of dataset.for_fit()."
            )
        self._warn_if_spent()
        self._next = 0

    def on_epoch_end(self) -> None:
        """Stop checking; called by Keras, also before the first epoch."""
        self._next = None

    @property
    def _batches(self) -> EpochBatches:
        """This rank's batches of the present pass, or of the next if none began."""
        number = self._ranked.passes
        if self._present is None or self._present[0] != number:
            self._present = None  # frees the last plan before the next is made
            planner = self._plans if isinstance(self._plans, Planner) else None
            mean = mean_weight(self.plan, planner, self._weights) if self.exact else None
            made = EpochBatches(self._ranked.left, self._fetch, mean, self._threads)
            self._present = number, made
        return self._present[1]

    def _warn_if_spent(self) -> None:
        if self._ranked.is_spent and not self._ranked.is_alike:  # else nothing was forgotten
            warnings.warn(
                f"epoch {self.epoch} begins once more. Give fit callbacks=[dataset.callback()], "
                "so that each epoch has its plan; or, if you want the same batches, make the "
                "data set of one plan: PlanDataset(planner(0), …, weights=planner.lengths).",
                stacklevel=2,
            )


def plan_tf_dataset(dataset: PlanDataset) -> Field:
    """Convert a data set to a `tf.data.Dataset` of the same batches.

    From a `PyDataset` Keras takes the shapes of the first two batches for those of all, and fails
    at the first batch that differs. Here axes may differ from batch to batch, but the last of three
    or more where the shortest and the longest sample agree: layers need the number of features.
    Each pass has the batches of the epoch that the data set is in when the pass begins.

    Raises:
        MissingExtraError: If TensorFlow is not installed.
    """
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "plan_tf_dataset needs TensorFlow: pip install tensorflow. The other backends of "
            "Keras take a PlanDataset as it is."
        ) from error

    def spec(short: Field, long: Field) -> Field:
        shape: list[int | None] = [None] * np.ndim(short)
        if len(shape) >= 3 and np.shape(short)[-1] == np.shape(long)[-1]:
            shape[-1] = np.shape(short)[-1]
        return tf.TensorSpec(shape, tf.as_dtype(np.asarray(short).dtype))

    signature = keras.tree.map_structure(spec, *map(keras.tree.lists_to_tuples, dataset.extremes()))

    # Keras means several arrays by a list, which tf.data would stack.
    def passing() -> Iterator[Batch]:
        for batch in dataset._passing(is_ahead=True):  # noqa: SLF001
            for value, one in zip(*map(keras.tree.flatten, (batch, signature)), strict=False):
                found, expected = np.asarray(value).dtype, one.dtype.as_numpy_dtype
                if not np.can_cast(found, expected):  # TensorFlow casts in any case
                    raise PlanError(
                        f"fetch returned {found} in a batch, and {np.dtype(expected)} before. "
                        "Return arrays of the same types each time."
                    )
            yield keras.tree.lists_to_tuples(batch)

    batches = tf.data.Dataset.from_generator(passing, output_signature=signature).prefetch(1)
    # Read by fit. An assertion, as tf.data has it, would fail in an epoch that is resumed.
    batches.cardinality = lambda: tf.constant(len(dataset), tf.int64)
    return batches
