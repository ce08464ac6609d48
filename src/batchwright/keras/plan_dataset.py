"""A plan as the data set of `fit`, on every backend."""

import operator
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from batchwright._checks import epoch_number, whole_number
from batchwright.errors import LossError, MissingExtraError, PlanError
from batchwright.keras.epoch_batches import EpochBatches, Fetch
from batchwright.keras.weights import mean_weight, require_sums
from batchwright.planner import Planner, is_alike
from batchwright.plans import Plan


class PlanDataset(keras.utils.PyDataset):  # type: ignore[misc]
    """Gives `fit` the batches of each epoch's plan, in order.

    Guarantees the same number of batches in every epoch, and that every token (or sample) of an
    epoch moves the parameters as much as any other, however its batches differ: sample weights are
    divided by the mean weight of a batch, so that a loss reduced by ``"sum"`` is Σ weight × loss ÷
    mean weight. This includes updates of several batches, by an optimizer whose
    ``gradient_accumulation_steps`` are the planner's `accumulate`; with ``exact=False`` Keras takes
    the mean of their means.

    Call `fit` with ``shuffle=False``, as Keras would permute the batches otherwise, and with this
    data set's `callback`. The loss that Keras shows is averaged over batches by their rows;
    `TokenMean` is a metric that averages over tokens.

        dataset = PlanDataset(planner, fetch)
        model.compile("adam", keras.losses.MeanSquaredError(reduction="sum"))
        model.fit(dataset.for_fit(), epochs=3, shuffle=False, callbacks=[dataset.callback()])

    Args:
        plans: A `Planner`: a new plan every epoch. Or one `Plan`, for validation or of one rank:
            the same batches every epoch.
        fetch: ``fetch(indices)`` → ``(x, y, sample_weight)``: padded NumPy arrays, with one row
            for each of int64[B] indices. The weights have exactly the shape of the loss: [B], or
            [B, T] with 0 for padding; Keras would broadcast others along the wrong axis. JAX
            compiles each new shape, so few of them are better. For `predict`, x alone. If the plan
            splits samples: ``fetch(indices, starts)``.
        exact: Scale the weights, as above. False: they stay as they are.
        weights: float[n], the total weight of each sample in the loss. None: its length for
            weights [B, T], 1 for weights [B]. It matters only as a unit, like the learning rate.
        workers: Threads that fetch ahead of training; 0 fetches when a batch is asked for.

    Raises:
        PlanError: If `plans` is neither, or `workers` is not a number of threads.
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
    ) -> None:
        # Keras' own workers return the batches fetched to learn the shapes a second time, as the
        # first batches of training, and the last batches of each epoch never.
        super().__init__(workers=1)
        if not isinstance(plans, Planner | Plan):
            raise PlanError(f"{type(plans).__name__} is neither a Planner nor a Plan.")
        self.exact = exact
        self._plans = plans
        self._fetch = fetch
        self._weights = None if weights is None else _as_weights(weights)
        self._threads = whole_number("PlanDataset", "workers", workers, least=0, error=PlanError)
        self._next: int | None = None  # the batch that `fit` should ask for; None: not in `fit`
        self._is_spent = False
        self._is_alike: bool | None = None  # whether all epochs are; found out when one is repeated
        self._begin(0)

    def __len__(self) -> int:
        return len(self._plans)

    def __getitem__(self, batch: int) -> Any:
        """Fetch one batch of the present epoch; in `fit`, PlanError if it is out of order."""
        number = operator.index(batch)
        if number < 0:
            number += len(self)
        if self._next is not None:
            if number > self._next:
                raise PlanError(
                    f"batch {number} was asked for where batch {self._next} was next: fit "
                    "permutes the batches of a plan unless it is called with shuffle=False."
                )
            self._next = max(self._next, number + 1)
            self._is_spent = self._next == len(self)
        return self._batches[number]

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the batches of the present epoch, even if another is set meanwhile."""
        self._warn_if_spent()
        batches = self._batches
        for number in range(len(batches)):
            self._is_spent = number == len(batches) - 1
            yield batches[number]

    def __repr__(self) -> str:
        return f"PlanDataset({len(self)} batches an epoch, epoch {self.epoch}, exact={self.exact})"

    @property
    def epoch(self) -> int:
        """The epoch of the batches."""
        return self._epoch

    @property
    def plan(self) -> Plan:
        """The plan of the epoch."""
        return self._batches.plan

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; `callback` does that in `fit`."""
        number = epoch_number(epoch)
        if number != self._epoch:
            self._begin(number)
        self._is_spent = False

    def callback(self) -> "EpochCallback":
        """Make the callback that sets the epoch in `fit`, and checks how the model trains."""
        return EpochCallback(self)

    def for_fit(self) -> Any:
        """Return what `fit` takes: on TensorFlow, `plan_tf_dataset` of it; else this data set."""
        return plan_tf_dataset(self) if keras.backend.backend() == "tensorflow" else self

    def extremes(self) -> tuple[Any, Any]:
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

    def _begin(self, epoch: int) -> None:
        plans = self._plans
        plan = plans(epoch) if isinstance(plans, Planner) else plans
        lengths = plans.lengths if isinstance(plans, Planner) else None
        mean = mean_weight(plan, lengths=lengths, weights=self._weights) if self.exact else None
        self._epoch = epoch
        self._batches = EpochBatches(plan, self._fetch, mean, self._threads)

    def _warn_if_spent(self) -> None:
        plans = self._plans
        if not self._is_spent or not isinstance(plans, Planner):
            return
        if self._is_alike is None:
            self._is_alike = is_alike(plans, self.plan)
        if not self._is_alike:  # in validation they are, and nothing was forgotten
            warnings.warn(
                f"epoch {self._epoch} begins once more. Give fit callbacks=[dataset.callback()], "
                "so that each epoch has its plan; or, if you want the same batches, make the "
                "data set of one plan: PlanDataset(planner(0), …, weights=planner.lengths).",
                stacklevel=2,
            )


class EpochCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets the epoch of a `PlanDataset` when `fit` begins it; made by its `callback()`.

    It uses the number that `fit` gives, so ``initial_epoch`` works. Before training it checks what
    only the model knows: that epochs are trained whole, that an update has as many batches as
    planned, and that the loss is a sum if the data set's weights are exact.

    Raises:
        PlanError: In `fit`, if ``steps_per_epoch`` is not the number of batches, or the optimizer
            does not accumulate the batches that the plan has for an update.
        LossError: In `fit`, if weights are exact and a loss is not a sum.
    """

    def __init__(self, dataset: PlanDataset) -> None:
        super().__init__()
        self._dataset = dataset

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check the model and the settings of `fit`."""
        steps, num_batches = self.params.get("steps"), len(self._dataset)
        if steps not in {None, num_batches}:
            raise PlanError(
                f"fit trains {steps} batches an epoch, but the plan has {num_batches}: samples "
                "would be lost. Omit steps_per_epoch."
            )
        origin, optimizer = self._dataset.plan.origin, self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
        planned = origin.world_size * origin.accumulate
        accumulated = getattr(optimizer, "gradient_accumulation_steps", None) or 1
        if planned not in {1, accumulated}:
            raise PlanError(
                f"the plan has {planned} batches for each update (world_size × accumulate), but "
                f"the optimizer takes {accumulated}. Make it with "
                f"gradient_accumulation_steps={planned}, or plan without accumulate."
            )
        if self._dataset.exact:
            require_sums(self.model)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Plan the epoch."""
        self._dataset.set_epoch(epoch)


def plan_tf_dataset(
    dataset: PlanDataset, *, output_signature: Any = None, prefetch: int = 1
) -> Any:
    """Convert a data set to a `tf.data.Dataset` of the same batches.

    From a `PyDataset` Keras takes the shapes of the first two batches for those of all, and fails
    at the first batch that differs. Here axes may differ from batch to batch, and the number of
    batches is known. Each pass has the batches of the epoch that the data set is in when the pass
    begins: its `callback` sets that in `fit`.

    Args:
        dataset: The data set.
        output_signature: A structure of `tf.TensorSpec`. None: two batches are fetched to learn
            it. All axes may vary, but the last of three or more where the shortest and the longest
            sample agree: layers need the number of features.
        prefetch: Batches that TensorFlow keeps ready.

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

    def spec(short: Any, long: Any) -> Any:
        shape: list[int | None] = [None] * np.ndim(short)
        if len(shape) >= 3 and np.shape(short)[-1] == np.shape(long)[-1]:
            shape[-1] = np.shape(short)[-1]
        return tf.TensorSpec(shape, tf.as_dtype(np.asarray(short).dtype))

    if output_signature is None:
        short, long = map(keras.tree.lists_to_tuples, dataset.extremes())
        output_signature = keras.tree.map_structure(spec, short, long)
    # Keras means several arrays by a list, which tf.data would stack.
    batches = tf.data.Dataset.from_generator(
        lambda: map(keras.tree.lists_to_tuples, dataset), output_signature=output_signature
    )
    known = tf.data.experimental.assert_cardinality(len(dataset))
    return batches.apply(known).prefetch(prefetch)


def _as_weights(weights: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(weights, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all() or (array < 0).any() or not array.any():
        raise LossError(
            f"weights of shape {list(array.shape)}: expected [n], finite numbers of at least 0, "
            "not all 0: the weight of each sample in the loss."
        )
    return array
