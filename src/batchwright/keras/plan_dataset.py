"""A plan as the data set of `fit`."""

import operator
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from batchwright.checks import epoch_number
from batchwright.errors import LossError, PlanError
from batchwright.keras.epoch_batches import EpochBatches, Fetch
from batchwright.keras.epoch_callback import EpochCallback
from batchwright.keras.exact_weights import mean_weight
from batchwright.keras.fetch_ahead import FetchAhead
from batchwright.planner import Planner, is_alike
from batchwright.plans import Plan


class PlanDataset(keras.utils.PyDataset):  # type: ignore[misc]
    """Hands `fit` the batches of each epoch's plan, in the plan's sequence.

    Guarantees as many batches in every epoch, and that every token (or sample) of an epoch moves
    the parameters as much as any other, however unlike its batches are: sample weights are divided
    by the mean weight of a batch, so that a loss reduced by ``"sum"`` is Σ weight × loss ÷ mean
    weight. So do the batches of an update, by an optimizer whose ``gradient_accumulation_steps``
    are the planner's `accumulate`; with ``exact=False`` they do not, as Keras takes the mean
    of their means.

    `fit` is called with ``shuffle=False``, as Keras would permute the batches otherwise, and with
    this data set's `callback`. The loss that Keras shows is averaged over batches by their
    rows; `TokenMean` is a metric that gives the mean over tokens.

        dataset = PlanDataset(planner, fetch)
        model.compile("adam", keras.losses.MeanSquaredError(reduction="sum"))
        model.fit(dataset.for_fit(), epochs=3, shuffle=False, callbacks=[dataset.callback()])

    Args:
        plans: A `Planner`: a new plan every epoch. Or one `Plan`, for validation or of one rank:
            the same batches every epoch.
        fetch: ``fetch(indices)`` → ``(x, y, sample_weight)``: NumPy arrays, padded, with one row
            for each of int64[B] indices. The weights have the very shape of the loss: [B], or
            [B, T] with 0 for padding; Keras would spread others along the wrong axis. On JAX
            each new shape is compiled, so few of them are better. For `predict`, x alone. Where
            the plan splits samples: ``fetch(indices, starts)``.
        exact: Scale the weights, as above. False: they pass as they are.
        weights: float[n], what each sample weighs in the loss: the sum of its row of
            weights. None: its length for weights [B, T], 1 for weights [B]. It matters only as a
            unit, like the learning rate.
        workers: Threads that fetch ahead of training; 0 fetches when a batch is asked for.

    Attributes:
        epoch: The epoch of the batches.
        plan: Its plan.
        exact: Whether weights are scaled.

    Raises:
        PlanError: If `plans` is neither, or workers are no number of threads.
        LossError: If weights are not finite numbers of at least 0, one per sample.

    Example:
        >>> from batchwright import Planner, TokenBudget
        >>> planner = Planner([2, 1, 2], batching=TokenBudget(4))
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
        # Keras' own workers hand out what they fetched to learn the shapes a second time, as the
        # first batches of training, and the last ones of each epoch never.
        super().__init__(workers=1)
        if not isinstance(plans, Planner | Plan):
            raise PlanError(f"{type(plans).__name__} is neither a Planner nor a Plan.")
        try:
            threads = operator.index(workers)
        except TypeError:
            threads = -1
        if threads < 0:
            raise PlanError(f"workers={workers!r}: expected a number of threads, 0 for none.")
        self.exact = exact
        self._plans = plans
        self._fetch = fetch
        self._weights = None if weights is None else _as_weights(weights)
        self._threads = threads
        self._ahead: FetchAhead | None = None
        self._next: int | None = None  # the batch that `fit` should ask for; None: not in `fit`
        self._is_spent = False
        self._is_alike: bool | None = None  # every epoch; looked at when one begins once more
        self._begin(0)

    def __len__(self) -> int:
        """Count the batches of an epoch: the same for every epoch."""
        return len(self._plans)

    def __getitem__(self, batch: int) -> Any:
        """Fetch one batch of the present epoch.

        Raises:
            IndexError: If there is no such batch.
            PlanError: In `fit`, if batches are asked for out of sequence.
        """
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
        return self._get(self._batches, self._ahead, number)

    def __iter__(self) -> Iterator[Any]:
        """Go through the batches of the present epoch, whatever epoch is set meanwhile."""
        self._warn_if_spent()
        batches, ahead = self._batches, self._ahead
        for number in range(len(batches)):
            self._is_spent = number == len(batches) - 1
            yield self._get(batches, ahead, number)

    def __getstate__(self) -> dict[str, Any]:
        """Go to another process: threads stay, and what they fetched."""
        return self.__dict__ | {"_ahead": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive, with threads of its own."""
        self.__dict__.update(state)
        self._ahead = self._new_ahead()

    def __repr__(self) -> str:
        """Describe the data set in a line."""
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
        """Choose the epoch; `callback` does that in `fit`.

        Raises:
            PlanError: If it is no integer of at least 0.
        """
        number = epoch_number(epoch)
        if number != self._epoch:
            self._begin(number)
        self._is_spent = False

    def callback(self) -> EpochCallback:
        """Make the callback that sets the epoch in `fit`, and checks what the model does."""
        return EpochCallback(self)

    def for_fit(self) -> Any:
        """Return what `fit`, `evaluate` and `predict` take on the present backend.

        Returns:
            On TensorFlow a `tf.data.Dataset`, by `plan_tf_dataset`; else this data set.
        """
        if keras.backend.backend() != "tensorflow":
            return self
        from batchwright.keras.tf_dataset import plan_tf_dataset

        return plan_tf_dataset(self)

    def extremes(self) -> tuple[Any, Any]:
        """Fetch two batches whose padded shapes are as unlike as they get.

        Returns:
            Of a planner, the shortest and the longest sample, each alone; of a plan, the batches
            of fewest and of most samples.
        """
        plan = self.plan
        if isinstance(self._plans, Planner):
            lengths = self._plans.lengths
            starts = None if plan.starts is None else np.zeros(2, np.int64)
            plan = Plan(np.array([lengths.argmin(), lengths.argmax()]), np.arange(3), starts)
        else:
            plan = plan.take(np.array([plan.sizes.argmax(), plan.sizes.argmin()]))
        batches = EpochBatches(plan, self._fetch, self._batches.mean)
        return batches(0), batches(1)

    def on_epoch_begin(self) -> None:
        """Watch over the sequence of batches; called by Keras.

        Raises:
            PlanError: On the TensorFlow backend.
        """
        if keras.backend.backend() == "tensorflow":
            raise PlanError(
                "the TensorFlow backend takes the shapes of a PyDataset's first two batches for "
                "those of all. Give fit the result of dataset.for_fit()."
            )
        self._warn_if_spent()
        self._next = 0

    def on_epoch_end(self) -> None:
        """End watching; called by Keras, also before the first epoch."""
        self._next = None

    def _begin(self, epoch: int) -> None:
        plans = self._plans
        plan = plans(epoch) if isinstance(plans, Planner) else plans
        lengths = plans.lengths if isinstance(plans, Planner) else None
        mean = mean_weight(plan, lengths=lengths, weights=self._weights) if self.exact else None
        self._epoch = epoch
        self._batches = EpochBatches(plan, self._fetch, mean)
        self._ahead = None  # its threads end, unless an iterator still draws from them
        self._ahead = self._new_ahead()

    def _new_ahead(self) -> FetchAhead | None:
        batches, workers = self._batches, self._threads
        return FetchAhead(batches, num_batches=len(batches), workers=workers) if workers else None

    @staticmethod
    def _get(batches: EpochBatches, ahead: FetchAhead | None, number: int) -> Any:
        if not 0 <= number < len(batches):
            raise IndexError(f"batch {number} of an epoch of {len(batches)} batches.")
        return batches(number) if ahead is None else ahead(number)

    def _warn_if_spent(self) -> None:
        plans = self._plans
        if not self._is_spent or not isinstance(plans, Planner):
            return
        # Where all epochs are alike, as in validation, nothing was forgotten.
        if self._is_alike is None:
            self._is_alike = is_alike(plans, self.plan)
        if not self._is_alike:
            warnings.warn(
                f"epoch {self._epoch} begins once more. Give fit callbacks=[dataset.callback()], "
                "so that each epoch has its plan; or, where the same batches are wanted, make the "
                "data set of one plan: PlanDataset(planner(0), …, weights=planner.lengths).",
                stacklevel=2,
            )


def _as_weights(weights: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(weights, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all() or (array < 0).any() or not array.any():
        raise LossError(
            f"weights of shape {list(array.shape)}: expected [n], finite numbers of at least 0, "
            "not all 0: what each sample weighs in the loss."
        )
    return array
