"""Lightning, with a DataLoader or with planned batches.

python lightning_fit.py FOLDER [--resume] [--plan]
"""

import warnings

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from samples import EPOCHS, LENGTHS, SAMPLES, Model, collate, loss_of, options
from torch.utils.data import DataLoader

import batchwright as bw
from batchwright.integrations.lightning import PlanDataModule


class Net(lightning.LightningModule):
    """The model, and how it is trained."""

    def __init__(self):
        super().__init__()
        self.model = Model()

    def training_step(self, batch, _):
        if self.trainer.datamodule is None:
            return loss_of(self.model, batch)
        return self.trainer.datamodule.mean(loss_of(self.model, batch, "sum"))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def rows(batch):
    """Count the samples of a batch: what its loss sums over."""
    return len(batch[1])


def main():
    """Train, from the last checkpoint if that is asked for."""
    given = options("--plan")
    saving = ModelCheckpoint(given.folder, every_n_train_steps=given.every, save_top_k=-1)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[saving],
        default_root_dir=given.folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    saved = sorted(given.folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    last = saved[-1] if given.resume else None
    if given.plan:
        planner = bw.Planner(LENGTHS, max_tokens=128)
        data = PlanDataModule(
            SAMPLES, planner, collate_fn=collate, weigh=lambda batch: len(batch[1])
        )
        trainer.fit(Net(), datamodule=data, ckpt_path=last)
    else:
        loader = DataLoader(SAMPLES, batch_size=8, shuffle=True, collate_fn=collate)
        trainer.fit(Net(), loader, ckpt_path=last)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
