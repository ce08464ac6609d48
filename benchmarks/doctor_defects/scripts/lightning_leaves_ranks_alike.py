"""`use_distributed_sampler=False` without a sampler of one's own: ranks see the same samples.

torchrun --nproc-per-node 2 lightning_leaves_ranks_alike.py
"""

import sys

import lightning
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

REPAIRED = "--repaired" in sys.argv


class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))

    def training_step(self, batch, _):
        x, y = batch
        return cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


lightning.seed_everything(0)
labels = torch.randint(4, (320,))
data = TensorDataset(torch.randn(320, 32) + 0.3 * labels[:, None], labels)
trainer = lightning.Trainer(
    accelerator="cpu",
    devices=2,
    strategy="ddp",
    use_distributed_sampler=REPAIRED,
    max_epochs=2,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
)
trainer.fit(Model(), DataLoader(data, batch_size=16, shuffle=True))
