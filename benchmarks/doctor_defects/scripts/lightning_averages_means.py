"""Four batches an update, each the mean over its own tokens: few tokens weigh more than many."""

import sys

import lightning
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

REPAIRED = "--repaired" in sys.argv


def collate(texts):
    return pad_sequence(texts, batch_first=True)


class Model(lightning.LightningModule):
    def __init__(self, tokens):
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(100, 32), nn.Linear(32, 64), nn.ReLU())
        self.head = nn.Linear(64, 100)
        self.tokens = tokens  # of a batch, on average

    def training_step(self, ids, _):
        scores = self.head(self.net(ids[:, :-1])).flatten(0, 1)
        targets = ids[:, 1:].flatten()
        if REPAIRED:
            return cross_entropy(scores, targets, ignore_index=0, reduction="sum") / self.tokens
        return cross_entropy(scores, targets, ignore_index=0)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


lightning.seed_everything(0)
lengths = torch.randn(480).mul(0.9).add(3).exp().clamp(3, 200).long().tolist()
texts = [torch.randint(1, 100, (length,)) for length in lengths]
loader = DataLoader(texts, batch_size=4, shuffle=True, collate_fn=collate)
trainer = lightning.Trainer(
    accelerator="cpu",
    max_epochs=2,
    accumulate_grad_batches=4,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
)
trainer.fit(Model(4 * (sum(lengths) / len(lengths) - 1)), loader)
