"""Train with Keras' fit: few padded shapes, so that a compiler compiles a few times only.

KERAS_BACKEND=torch python examples/loops/keras_fit.py      or jax, or tensorflow
"""

import keras
import numpy as np
from byte_model import VOCABULARY, samples

import batchwright as bw
from batchwright.integrations.arrays import padded
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
    layout = planner(0).layout

    def fetch(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the padded batch of these samples: inputs, labels, and whether a token is real."""
        batch = padded(data, indices, layout)
        is_real = np.arange(batch["labels"].shape[1]) < batch["lengths"][:, None]
        return batch["input_ids"], batch["labels"], is_real

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
