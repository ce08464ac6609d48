"""Lightning sees what the plan says, also when it goes on in the middle of an epoch."""

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

import batchwright as bw
from batchwright.torch import PadCollator, PlanBatchSampler

EPOCHS = 2
LENGTHS = np.random.default_rng(0).lognormal(3, 0.7, 80).clip(2, 64).astype(int)
PLANNER = bw.Planner(LENGTHS, batching=bw.TokenBudget(256), accumulate=2)
SEEN = []


class Tokens(Dataset):
    def __len__(self):
        return len(LENGTHS)

    def __getitem__(self, index):
        SEEN.append(index)
        return {"tokens": torch.arange(LENGTHS[index]) % 30 + 1}


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Embedding(32, 1)

    def training_step(self, batch, _):
        return self.layers(batch["tokens"]).square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-4)


def fit(checkpoint: str | None = None) -> int:
    loader = StatefulDataLoader(
        Tokens(), batch_sampler=PlanBatchSampler(PLANNER), collate_fn=PadCollator()
    )
    saving = ModelCheckpoint("trained", "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accumulate_grad_batches=2,
        use_distributed_sampler=False,
        accelerator="cpu",
        callbacks=[saving],
        logger=False,
        enable_progress_bar=False,
    )
    trainer.fit(Net(), loader, ckpt_path=checkpoint, weights_only=False)
    return trainer.global_step


def main() -> None:
    updates = fit()
    batches = [batch for epoch in range(EPOCHS) for batch in PLANNER(epoch)]
    assert np.concatenate(batches).tolist() == SEEN, "another order than the plan's"
    assert updates == len(batches) // 2

    middle = updates // EPOCHS + 1  # one update into the second epoch
    assert updates > middle + 1
    SEEN.clear()
    fit(f"trained/step={middle}.ckpt")
    rest = np.concatenate(batches[2 * middle :]).tolist()
    assert rest == SEEN, "not what had not been seen"


if __name__ == "__main__":
    main()
