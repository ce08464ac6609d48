"""The batches of each epoch as arrays."""

from collections.abc import Iterator, Mapping

import numpy as np

from batchwright._ranks import place_of
from batchwright.batches import Entries
from batchwright.errors import LengthsError, MissingExtraError
from batchwright.integrations.arrays.collating import Collated, collated
from batchwright.integrations.arrays.reading import Array, Name, check_size
from batchwright.layout import Layout
from batchwright.planner import Planner
from batchwright.plans import Plan
from batchwright.rank_batches import RankBatches
from batchwright.resume import warn_of_repeated
from batchwright.typing import Batch, Field, State


def padded_batches(
    samples: Field,
    planner: Planner | Plan,
    *,
    pad: float | Mapping[Name, float] = 0,
    columns: Mapping[Name, int] | None = None,
    rank: int | None = None,
    world_size: int | None = None,
) -> "PaddedBatches":
    """Iterate over the batches of each epoch as NumPy arrays, padded to the shapes of the plan.

    A batch is like a sample: an array, a tuple or a dict. `lengths`, int32[rows], is a further key
    of a dict, else the last of a tuple: the tokens of each row, 0 for the empty rows by which
    `Buckets` fill a batch. Each pass goes through one epoch: call `set_epoch` before.

    Batches of `Packing` are one row as long as the capacity. In place of `lengths` they have
    `segment_ids`, int32[1, T], from 1 for the first document, 0 in gaps; and `positions`,
    int32[1, T], from 0 in each document.

    Args:
        samples: One sample for each length: a sequence of arrays [length, …], or of dicts or tuples
            of these, or what has ``__getitems__(indices)``. Or a dict, field → such a sequence. A
            `Flat`, or `FlatTokens` of torch, is read in one gather; others cost about a microsecond
            a sample. Types are kept.
        planner: A `Planner`: a new plan every epoch. Or one global `Plan`: the same every epoch.
        pad: What padding and empty rows hold: one value, or values by field; 0 for the others.
        columns: Field → its column of the lengths, for samples of several lengths: ``{"source": 0,
            "target": 1}``; `lengths` is then int32[rows, columns]. Fields that it does not name are
            stacked. None: every array of at least one dimension takes the only column.
        rank: This process, from 0. None: as `torch.distributed` says, if it is initialised.
        world_size: Processes, or devices, that get different batches. None: as `rank`.

    Raises:
        PlanError: If there is not one sample for each length; if the rank is not in the world, or a
            launcher started several processes and none is given; or if the plan packs rows of
            several columns.
        LengthsError: When iterated, if samples are longer than planned, or no numbers.
        ColumnNotFoundError: When iterated, if it is not known which column a field takes, or
            samples differ in their fields.
        BudgetError: When iterated, if a field cannot hold what it is padded with.

    Example:
        >>> samples = [np.arange(1, n + 1) for n in (3, 1, 2)]
        >>> for tokens, lengths in padded_batches(samples, Planner([3, 1, 2], max_tokens=4)):
        ...     print(tokens.tolist(), lengths.tolist())
        [[1, 2, 3]] [3]
        [[1, 2], [1, 0]] [2, 1]
    """
    return PaddedBatches(
        samples, planner, pad, columns, place_of(rank, world_size, "padded_batches")
    )


class PaddedBatches:
    """What `padded_batches` returns: one rank's batches of an epoch, in each pass.

    It is saved and loaded like a `PlanLoader`, also on another number of ranks.
    """

    def __init__(
        self,
        samples: Field,
        planner: Planner | Plan,
        pad: float | Mapping[Name, float],
        columns: Mapping[Name, int] | None,
        place: tuple[int, int],
    ) -> None:
        self._samples, self._pad, self._columns = samples, pad, columns
        self._ranked = RankBatches(planner, place)
        check_size(samples, planner)

    def __len__(self) -> int:
        """Count this rank's batches of a whole epoch, also while one is resumed in its middle."""
        return len(self._ranked)

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over what is left of the epoch."""
        return self._passing()

    def __repr__(self) -> str:
        rank, world_size = self._ranked.rank, self._ranked.world_size
        return (
            f"PaddedBatches({len(self)} batches an epoch, epoch {self.epoch}, rank {rank} of "
            f"{world_size})"
        )

    @property
    def epoch(self) -> int:
        """The epoch of the next pass."""
        return self._ranked.epoch

    @property
    def plan(self) -> Plan:
        """The plan of the epoch, whole and of all ranks."""
        return self._ranked.plan

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; a state of another one is then forgotten."""
        self._ranked.set_epoch(epoch)

    def state_dict(self) -> State:
        """Return how far the loop is: a few hundred bytes, the same on every rank.

        JSON can keep it. Save it at the end of an update. Where something takes batches ahead of
        the loop, such as a prefetching iterator, count those that were trained: `state_after`.
        """
        return self._ranked.state_dict()

    def state_after(self, consumed: int) -> State:
        """Return the state once so many batches of the present pass were consumed."""
        return self._ranked.state_after(consumed)

    def load_state_dict(self, state: State, *, planned_by: Planner | Plan | None = None) -> None:
        """Make the next pass go on where a state was saved, in that state's epoch.

        The number of ranks, and the budget, may be others; see `PlanBatchSampler`. Of an epoch that
        was over, it goes on with the next one.
        """
        self._ranked.load_state_dict(state, planned_by)

    def _passing(self, *, is_ahead: bool = False) -> Iterator[Batch]:
        """Iterate; with `is_ahead` for a reader that takes batches ahead of the loop."""
        ranked, count = self._ranked, 0
        if ranked.is_spent and not ranked.is_alike:
            warn_of_repeated(self.epoch, stacklevel=2)
        ranked.begin()
        left, number = ranked.left, ranked.passes
        for block in left.batches.blocks():
            for place in range(len(block)):
                batch = self._collated(block.batch(place), left.layout).batch()
                count += 1
                ranked.took(count, number, is_ahead=is_ahead)
                yield batch

    def _first(self) -> Collated:
        """Collate the first sample of the epoch alone."""
        samples, starts = self.plan.batches.batch(0)
        one = Entries(samples[:1], None if starts is None else starts[:1])
        return self._collated(one, self.plan.layout)

    def _collated(self, entries: Entries, layout: Layout) -> Collated:
        return collated(self._samples, entries, layout, self._pad, self._columns)


def tf_dataset(batches: PaddedBatches) -> Field:
    """Return a `tf.data.Dataset` of the same batches, which needs no Keras.

    Each pass has the epoch that `batches` is in when it begins. It takes batches ahead of the loop:
    save ``batches.state_after(count)``.

    Raises:
        MissingExtraError: If TensorFlow is not installed.
    """
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        raise MissingExtraError("tf_dataset needs TensorFlow: pip install tensorflow.") from error

    first = batches._first()  # noqa: SLF001
    shapes = batches.plan.layout.shapes or ()
    is_fixed = first.is_packed or len(shapes) == 1  # the only shapes

    def spec(name: Name, array: Array) -> Field:
        varying = 0 if is_fixed else 2 if name in first.sequences else 1
        shape = [None] * varying + list(array.shape[varying:])
        return tf.TensorSpec(shape, tf.as_dtype(array.dtype))

    def passing() -> Iterator[Batch]:
        for batch in batches._passing(is_ahead=True):  # noqa: SLF001
            for name, one in first.arrays.items():
                if not np.can_cast(batch[name].dtype, one.dtype):  # TensorFlow casts in any case
                    raise LengthsError(
                        f"field {name!r} is {batch[name].dtype} in a batch, and {one.dtype} in the "
                        "first sample. Give all samples arrays of one type."
                    )
            yield batch

    signature = first.like({name: spec(name, array) for name, array in first.arrays.items()})
    return tf.data.Dataset.from_generator(passing, output_signature=signature).prefetch(1)
