"""`fit(shuffle=False)` on images that are stored class by class."""

import os
import sys

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np

REPAIRED = "--repaired" in sys.argv

keras.utils.set_random_seed(0)
labels = np.arange(640) // 160
images = np.random.default_rng(0).normal(labels[:, None] / 3, 1, (640, 32)).astype("float32")
model = keras.Sequential(
    [
        keras.Input((32,)),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(4),
    ]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(1e-3), loss)
model.fit(images, labels, batch_size=16, epochs=2, shuffle=REPAIRED, verbose=2)
