"""A plan as the data set of `fit`, on every backend."""

import operator
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeAlias

import keras
import numpy as np
import numpy.typing as npt

from batchwright._checks import epoch_number, whole_number
from batchwright.batches import TOGETHER, Arrays, Entries
from batchwright.errors import MissingExtraError, PlanError
from batchwright.keras.weights import MeanWeight, mean_weight, require_sums, scaled
from batchwright.planner import Planner, is_alike
from batchwright.plans import Plan
from batchwright.typing import Batch, Field, State

Fetch: TypeAlias = Callable[..., Batch]
"""int64[B] sample indices → ``(x, y, sample_weight)``, padded arrays with B rows. If the plan
splits samples, it is also given int64[B] starts: where in its sample each row begins."""


class EpochBatches:
    """Fetches the batches of a plan by number, and the next ones ahead of time.

    Others fetched ahead are dropped when a batch is asked for out of order. An error of `fetch` is
    raised where its batch is asked for. The threads, each with one batch in work and one in store,
    end with the object. Sample weights are divided by the mean, unless it is None.
    """

    def __init__(self, plan: Plan, fetch: Fetch, mean: MeanWeight | None, workers: int = 0) -> None:
        self.plan, self.mean = plan, mean
        self._fetch, self._workers = fetch, workers
        self._pending: dict[int, Future[Batch]] = {}
        self._block: tuple[int, Arrays] | None = None
        self._lock = Lock()
        self._threads = None
        if workers:
            self._threads = ThreadPoolExecutor(workers, thread_name_prefix="batchwright-fetch")

    def __reduce__(self) -> tuple[type, tuple[Plan, Fetch, MeanWeight | None, int]]:
        return type(self), (self.plan, self._fetch, self.mean, self._workers)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> Batch:
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of an epoch of {len(self)} batches.")
        if self._threads is None:
            return self._fetched(number)
        with self._lock:
            wanted = range(number, min(number + 1 + 2 * self._workers, len(self)))
            for stale in self._pending.keys() - set(wanted):
                self._pending.pop(stale).cancel()
            for each in wanted:
                if each not in self._pending:
                    self._pending[each] = self._threads.submit(self._fetched, each)
            future = self._pending.pop(number)
        return future.result()

    def _fetched(self, number: int) -> Batch:
        """Fetch a batch, and scale its weights."""
        plan = self.plan
        entries = self._entries(number)
        batch = self._fetch(*(each for each in entries if each is not None))
        if not isinstance(batch, tuple | list):
            return batch
        if len(batch) == 2 and self.mean is not None:
            raise PlanError(
                "fetch returned (x, y) without sample_weight, so padding cannot be recognized. "
                "Return (x, y, sample_weight), with 1 where the loss counts and 0 where not; or "
                "make the data set with exact=False."
            )
        if len(batch) != 3 or batch[2] is None:
            return batch
        x, y, sample_weight = batch
        most = plan.layout.max_length
        is_cut = isinstance(most, int) and entries.starts is None and np.ndim(sample_weight) == 2
        # Columns without a weight are padding, which fetch may add to have fewer shapes.
        if is_cut and np.asarray(sample_weight)[:, most:].any():
            raise PlanError(
                f"batch {number} has rows of {np.shape(sample_weight)[1]} tokens, but the plan "
                f'truncates samples to {most} (oversize="truncate"): it would exceed the budget. '
                "Truncate them in fetch, to plan.layout.max_length."
            )
        return batch if self.mean is None else (x, y, scaled(sample_weight, self.mean))

    def _entries(self, number: int) -> Entries:
        """Return a batch of the plan: batches are computed a block at a time, for all threads."""
        held = self._block
        if held is None or held[0] != number // TOGETHER:
            first = number - number % TOGETHER
            several = range(first, min(first + TOGETHER, len(self)))
            held = self._block = number // TOGETHER, self.plan.batches.select(several).arrays()
        return held[1].batch(number % TOGETHER)


class PlanDataset(keras.utils.PyDataset):  # type: ignore[misc]
    """Gives `fit` the batches of each epoch's plan, in order.

    Guarantees the same number of batches in every epoch, and that every token (or sample) of an
    epoch moves the parameters as much as any other: sample weights are divided by the mean weight
    of a batch, so that a loss reduced by ``"sum"`` is Σ weight × loss ÷ mean weight. This includes
    updates of several batches, by an optimizer whose ``gradient_accumulation_steps`` are the
    planner's `accumulate`.

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
            [B, T] with 0 for padding; Keras would broadcast others along the wrong axis. For
            `predict`, x alone. If the plan splits samples: ``fetch(indices, starts)``.
        exact: Scale the weights, as above. False: they stay as they are, and Keras takes the mean
            of the batches' means.
        weights: float[n], the total weight of each sample in the loss. None: its length for
            weights [B, T], 1 for weights [B]. It matters only as a unit, like the learning rate.
        workers: Threads that fetch ahead of training; 0 fetches when a batch is asked for.

    Raises:
        PlanError: If `plans` is neither, `fetch` is no function, or `workers` no number of threads.
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
        self._next: int | None = None  # the batch that `fit` should ask for; None: not in `fit`
        self._is_spent = False
        self._is_alike: bool | None = None  # whether all epochs are; found out when one is repeated
        self._begin(0)

    def __len__(self) -> int:
        return len(self._plans)

    def __getitem__(self, batch: int) -> Batch:
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

    def __iter__(self) -> Iterator[Batch]:
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

    def _begin(self, epoch: int) -> None:
        plans = self._plans
        planner, plan = (plans, plans(epoch)) if isinstance(plans, Planner) else (None, plans)
        mean = mean_weight(plan, planner, self._weights) if self.exact else None
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

    It uses the number that `fit` gives, so ``initial_epoch`` works.

    Raises:
        PlanError: In `fit`, if ``steps_per_epoch`` is not the number of batches, or the optimizer
            does not accumulate the batches that the plan has for an update.
        LossError: In `fit`, if weights are exact and a loss is not a sum.
    """

    def __init__(self, dataset: PlanDataset) -> None:
        super().__init__()
        self._dataset = dataset

    def on_train_begin(self, logs: State | None = None) -> None:
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

    def on_epoch_begin(self, epoch: int, logs: State | None = None) -> None:
        """Plan the epoch."""
        self._dataset.set_epoch(epoch)


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
    batches = tf.data.Dataset.from_generator(
        lambda: map(keras.tree.lists_to_tuples, dataset), output_signature=signature
    )
    known = tf.data.experimental.assert_cardinality(len(dataset))
    return batches.apply(known).prefetch(1)
