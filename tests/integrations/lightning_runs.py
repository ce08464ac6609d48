"""Runs of Lightning on a plan, and what their model read: in this process, or on ranks.

torchrun --nproc-per-node 2 lightning_runs.py RUNS
"""

import json
import os
import sys
import warnings
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import batchwright as bw
from batchwright.integrations.lightning import PlanDataModule
from batchwright.torch import PadCollator

EPOCHS = 3
LENGTHS = np.random.default_rng(0).lognormal(3, 0.7, 83).clip(2, 64).astype(int)


class Data:
    """Samples whose tokens are their index; only some of them have labels."""

    def __len__(self):
        return len(LENGTHS)

    def __getitem__(self, index):
        labels = torch.full((int(LENGTHS[index]),), index)
        labels[: index % 3] = -100
        return {"input_ids": torch.full((int(LENGTHS[index]),), index), "labels": labels}


class Net(lightning.LightningModule):
    """Learns to name the sample; remembers what it read, and when it has stepped."""

    def __init__(self, *, schedules=False):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Embedding(len(LENGTHS), len(LENGTHS))
        self.schedules, self.read, self.steps = schedules, [], []

    def training_step(self, batch, _):
        self.read.append([self.current_epoch, batch["input_ids"][:, 0].tolist()])
        scores = self.layers(batch["input_ids"]).transpose(1, 2)
        loss_sum = torch.nn.functional.cross_entropy(scores, batch["labels"], reduction="sum")
        return self.trainer.datamodule.mean(loss_sum)

    def on_before_optimizer_step(self, _):
        self.steps.append(len(self.read))

    def validation_step(self, batch, _):
        self.log("seen", float(len(batch["labels"])), batch_size=len(batch["labels"]))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        if not self.schedules:
            return optimizer
        total = self.trainer.estimated_stepping_batches  # makes the loader early
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1.0, total)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def made(accumulate, *, max_tokens=256, **options):
    planner = bw.Planner(LENGTHS, max_tokens=max_tokens, accumulate=accumulate)
    return PlanDataModule(Data(), planner, collate_fn=PadCollator(), **options)


def fitted(folder, data, *, resumes=None, saves=False, ranks=1, schedules=False, **options):
    """Fit, and return what was read, in how many updates, and the weights."""
    callbacks = []
    if saves:
        every = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
        ends = ModelCheckpoint(folder, "end-{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        callbacks = [every, ends]
    settings = {
        "max_epochs": EPOCHS,
        "accelerator": "cpu",
        "devices": ranks,
        "strategy": "ddp" if ranks > 1 else "auto",
        "callbacks": callbacks,
        "logger": False,
        "enable_checkpointing": saves,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    settings |= options
    settings["callbacks"] = [*callbacks, *options.get("callbacks", [])]
    trainer = lightning.Trainer(**settings)
    net = Net(schedules=schedules)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(net, datamodule=data, ckpt_path=resumes)
    return {
        "read": net.read,
        "steps": net.steps,
        "updates": trainer.global_step,
        "weights": net.layers.weight.detach().tolist(),
    }


def main(runs):
    """Make some runs one after the other, and write what each rank read."""
    ranks = int(os.environ["WORLD_SIZE"])
    for name, run in json.loads(runs).items():
        data = made(**run.pop("data"))
        found = fitted(**run, data=data, ranks=ranks)
        rank = torch.distributed.get_rank()
        Path(f"{name}-{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
