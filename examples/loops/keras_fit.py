"""Train with Keras' fit: few padded shapes, so that a compiler compiles a few times only.

KERAS_BACKEND=torch python examples/loops/keras_fit.py      or jax, or tensorflow
"""

import keras
import numpy as np
from byte_model import VOCABULARY, samples

import batchwright as bw
from batchwright.keras import PlanDataset, TokenMean

EPOCHS = 2


def token_loss(labels, scores):
    """Return the loss of each token."""
    return keras.losses.sparse_categorical_crossentropy(labels, scores, from_logits=True)


def main() -> None:
    """Train, and print the mean loss of each epoch."""
    keras.utils.set_random_seed(0)
    data, lengths = samples()
    planner = bw.Planner(lengths, batching=bw.Buckets(4, max_tokens=4_096))
    shapes = planner(0).layout.shapes

    def fetch(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the padded batch of these samples: inputs, labels, and 1 for each real token."""
        rows, length = next(each for each in shapes if each[1] >= lengths[indices].max())
        inputs, labels = np.zeros((2, rows, length), dtype="int32")
        weights = np.zeros((rows, length), dtype="float32")
        for row, index in enumerate(indices):
            real = slice(None, lengths[index])
            inputs[row, real], labels[row, real] = data[index]["input_ids"], data[index]["labels"]
            weights[row, real] = 1
        return inputs, labels, weights

    dataset = PlanDataset(planner, fetch)
    model = keras.Sequential(
        [
            keras.layers.Embedding(VOCABULARY, 64),
            keras.layers.Conv1D(64, 5, padding="causal", activation="relu"),
            keras.layers.Conv1D(64, 5, padding="causal", activation="relu"),
            keras.layers.Dense(VOCABULARY),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    metric = TokenMean(token_loss)
    model.compile(keras.optimizers.AdamW(3e-3), loss, weighted_metrics=[metric])
    history = model.fit(
        dataset.for_fit(), epochs=EPOCHS, shuffle=False, callbacks=[dataset.callback()], verbose=0
    )
    for epoch, value in enumerate(history.history[metric.name]):
        print(f"epoch {epoch}: loss {value:.3f}")


if __name__ == "__main__":
    main()
