"""A plan as a `tf.data.Dataset`, for the TensorFlow backend."""

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

if TYPE_CHECKING:
    from batchwright.keras.plan_dataset import PlanDataset


def plan_tf_dataset(
    dataset: "PlanDataset", *, output_signature: Any = None, prefetch: int = 1
) -> Any:
    """Turn a data set into a `tf.data.Dataset` of the same batches.

    From a `PyDataset` Keras takes the shapes of the first two batches for those of all, and fails
    later at the first batch that differs. Here axes may differ from batch to batch, and the number
    of batches is known. Each pass has the batches of the epoch that the data set is in when the
    pass begins: its `callback` sets that in `fit`.

    Args:
        dataset: The data set.
        output_signature: A structure of `tf.TensorSpec`. None: every axis is free, but the last of
            three or more where the shortest and the longest sample agree: layers want to know
            the number of features.
        prefetch: Batches that TensorFlow keeps ready.

    Returns:
        A `tf.data.Dataset`. Two batches are fetched to learn types and shapes.

    Raises:
        MissingExtraError: If TensorFlow is not installed.
    """
    tf = _tensorflow()

    def spec(short: Any, long: Any) -> Any:
        shape: list[int | None] = [None] * np.ndim(short)
        if len(shape) >= 3 and np.shape(short)[-1] == np.shape(long)[-1]:
            shape[-1] = np.shape(short)[-1]
        return tf.TensorSpec(shape, tf.as_dtype(np.asarray(short).dtype))

    if output_signature is None:
        short, long = map(keras.tree.lists_to_tuples, dataset.extremes())
        output_signature = keras.tree.map_structure(spec, short, long)
    return (
        # tf.data stacks lists, where Keras means several arrays.
        tf.data.Dataset.from_generator(
            lambda: map(keras.tree.lists_to_tuples, dataset), output_signature=output_signature
        )
        .apply(tf.data.experimental.assert_cardinality(len(dataset)))
        .prefetch(prefetch)
    )


def _tensorflow() -> Any:
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        from batchwright.errors import MissingExtraError

        raise MissingExtraError(
            "plan_tf_dataset needs TensorFlow: pip install tensorflow. The other backends of "
            "Keras take a PlanDataset as it is."
        ) from error
    return tf
