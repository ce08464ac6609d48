"""Train on two ranks until they are killed; run again, go on from the backup.

python killed_ranks.py FOLDER RANK KILLED_AFTER
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import keras
import numpy as np
from torch import distributed

import batchwright as bw
from batchwright.keras import PlanDataset

LENGTHS = np.random.default_rng(0).integers(1, 9, 60)
FEATURES = np.random.default_rng(1).normal(size=(60, 8, 3)).astype("float32")
TARGETS = np.random.default_rng(2).normal(size=(60, 8, 1)).astype("float32")


def fetch(indices):
    """Fetch sequences; the first feature of the first token is the sample's index."""
    weights = np.arange(8) < LENGTHS[indices][:, None]
    features = FEATURES[indices]
    features[:, 0, 0] = indices
    return features, TARGETS[indices], weights.astype("float32")


class Averaged(keras.optimizers.SGD):
    """Averages gradients over the ranks."""

    def apply(self, grads, trainable_variables=None):
        if distributed.is_initialized():
            for grad in grads:
                distributed.all_reduce(grad)
                grad.div_(distributed.get_world_size())
        return super().apply(grads, trainable_variables)


class Reader(keras.Sequential):
    """Notes the samples that it reads in training."""

    def train_step(self, data):
        read.append(data[0][:, 0, 0].int().tolist())
        return super().train_step(data)


class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if len(read) == killed_at:
            (folder / f"read{rank}.json").write_text(json.dumps(read))
            os.kill(os.getpid(), signal.SIGKILL)


def train(world_size, accumulate=1, backup_dir=None):
    """Train for two epochs, and return the weights."""
    planner = bw.Planner(LENGTHS, max_tokens=32, world_size=world_size, accumulate=accumulate)
    place = {} if world_size > 1 else {"rank": 0, "world_size": 1}  # that of torch.distributed
    dataset = PlanDataset(planner, fetch, **place)
    steps = None if accumulate == 1 else accumulate
    optimizer = Averaged(1e-3, momentum=0.9, gradient_accumulation_steps=steps)
    model = Reader([keras.Input((None, 3)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile(optimizer, keras.losses.MeanSquaredError(reduction="sum"))
    callbacks = [dataset.callback(backup_dir, save_freq=1), Kill()]
    model.fit(dataset, epochs=2, verbose=0, shuffle=False, callbacks=callbacks)
    return np.concatenate([each.ravel() for each in model.get_weights()]).tolist()


folder, (rank, killed_at) = Path(sys.argv[1]), map(int, sys.argv[2:])
backup, store = folder / "backup", f"file://{folder}/store{killed_at}"
read: list[list[int]] = []
if rank == 0 and not killed_at:  # for one rank to go on from
    shutil.copytree(backup, folder / "copy")
distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
result = {"weights": train(2, backup_dir=backup), "read": read}
distributed.destroy_process_group()
if rank == 0:
    read = result["whole"] = []
    result["expected"] = train(1, accumulate=2)
    read = result["alone"] = []
    train(1, backup_dir=folder / "copy")
(folder / f"result{rank}.json").write_text(json.dumps(result))
