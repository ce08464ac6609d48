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
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

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


def made(accumulate=1):
    steps = None if accumulate == 1 else accumulate
    optimizer = keras.optimizers.SGD if accumulate > 1 else Averaged
    model = Reader([keras.Input((None, 3)), keras.layers.Dense(1, kernel_initializer="ones")])
    loss = keras.losses.MeanSquaredError(reduction="sum")
    model.compile(optimizer(1e-3, momentum=0.9, gradient_accumulation_steps=steps), loss)
    return model


def weights_of(model):
    return np.concatenate([each.ravel() for each in model.get_weights()]).tolist()


def train(world_size, accumulate=1, backup_dir=None):
    """Train for two epochs by `fit`, and return the weights."""
    planner = bw.Planner(LENGTHS, max_tokens=32, world_size=world_size, accumulate=accumulate)
    place = {} if world_size > 1 else {"rank": 0, "world_size": 1}  # that of torch.distributed
    dataset, model = PlanDataset(planner, fetch, **place), made(accumulate)
    callbacks = [dataset.callback(backup_dir, save_freq=1), Kill()]
    model.fit(dataset, epochs=2, verbose=0, shuffle=False, callbacks=callbacks)
    return weights_of(model)


def train_in_a_loop():
    """Train for two epochs as the page on Keras says, and return the weights."""
    dataset = PlanDataset(bw.Planner(LENGTHS, max_tokens=32, world_size=2), fetch)
    model, optimizer = made(), keras.optimizers.SGD(1e-3, momentum=0.9)
    parallel = DistributedDataParallel(model)
    for epoch in range(2):
        dataset.set_epoch(epoch)
        for x, y, weight in dataset:
            model.zero_grad()
            model.loss(y, parallel(x), sample_weight=weight).backward()
            with torch.no_grad():
                variables = model.trainable_variables
                optimizer.apply([each.value.grad for each in variables], variables)
    return weights_of(model)


read: list[list[int]] = []

if __name__ == "__main__":
    folder, (rank, killed_at) = Path(sys.argv[1]), map(int, sys.argv[2:])
    backup, store = folder / "backup", f"file://{folder}/store{killed_at}"
    if rank == 0 and not killed_at:  # for one rank to go on from
        shutil.copytree(backup, folder / "copy")
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    result = {"weights": train(2, backup_dir=backup), "read": read, "loop": train_in_a_loop()}
    distributed.destroy_process_group()
    if rank == 0:
        read = result["whole"] = []
        result["expected"] = train(1, accumulate=2)
        read = result["alone"] = []
        train(1, backup_dir=folder / "copy")
    (folder / f"result{rank}.json").write_text(json.dumps(result))
