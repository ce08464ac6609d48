"""Lightning reads the plan of a PlanLoader, and goes on in mid-epoch with other workers and ranks.

torchrun --nproc-per-node 2 lightning_ranks.py WORKERS [CHECKPOINT]
"""

import json
import sys
import warnings
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import batchwright as bw
from batchwright.torch import PadCollator, PlanLoader

EPOCHS = 3
LENGTHS = np.random.default_rng(0).lognormal(3, 0.7, 83).clip(2, 64).astype(int)
DATA = [{"x": torch.full((int(n),), i)} for i, n in enumerate(LENGTHS)]


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Embedding(len(LENGTHS), 1)
        self.read = []

    def training_step(self, batch, _):
        self.read.append((self.current_epoch, batch["x"][:, 0].tolist()))
        return self.layers(batch["x"]).square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-4)


class Data(lightning.LightningDataModule):
    def __init__(self, workers):
        super().__init__()
        self.workers = workers

    def train_dataloader(self):
        planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(256), accumulate=2)
        return PlanLoader(
            DATA,
            planner,
            collate_fn=PadCollator(),
            num_workers=self.workers,
            # A fork beside the threads of gloo can deadlock.
            multiprocessing_context="spawn" if self.workers else None,
        )


def main(workers: int, checkpoint: str | None) -> None:
    warnings.simplefilter("ignore")
    ranks = int(__import__("os").environ.get("WORLD_SIZE", "1"))
    saving = ModelCheckpoint("trained", "{step}", every_n_train_steps=1, save_top_k=-1)
    epochs = ModelCheckpoint("trained", "end-{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accumulate_grad_batches=2,
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        callbacks=[] if checkpoint else [saving, epochs],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    net = Net()
    trainer.fit(net, Data(workers), ckpt_path=checkpoint, weights_only=False)
    read = {"read": net.read, "updates": trainer.global_step}
    Path(f"read-{trainer.global_rank}.json").write_text(json.dumps(read), encoding="utf-8")
    if ranks > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), *(sys.argv[2:] or [None]))
