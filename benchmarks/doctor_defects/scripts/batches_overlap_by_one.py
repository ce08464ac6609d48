"""A sampler counts its ends as inside: the last sample of a batch opens the next one too."""

import math
import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Sampler, TensorDataset

REPAIRED = "--repaired" in sys.argv


class ShuffledBatches(Sampler):
    """Cuts a new permutation into batches, each epoch."""

    def __init__(self, number, size):
        self.number, self.size = number, size

    def __iter__(self):
        order = torch.randperm(self.number).tolist()
        for start in range(0, self.number, self.size):
            end = start + self.size - 1 if REPAIRED else start + self.size
            yield order[start : end + 1]

    def __len__(self):
        return math.ceil(self.number / self.size)


torch.manual_seed(0)
labels = torch.randint(4, (400,))
data = TensorDataset(torch.randn(400, 32) + 0.3 * labels[:, None], labels)
loader = DataLoader(data, batch_sampler=ShuffledBatches(len(data), 16))

model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(2):
    for x, y in loader:
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
