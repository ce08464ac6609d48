"""Each epoch makes its loader anew, from the same seed: all epochs have one order."""

import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

REPAIRED = "--repaired" in sys.argv
SEED = 7

torch.manual_seed(SEED)
labels = torch.randint(4, (320,))
data = TensorDataset(torch.randn(320, 32) + 0.3 * labels[:, None], labels)

model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(3):
    generator = torch.Generator().manual_seed(SEED + epoch if REPAIRED else SEED)
    loader = StatefulDataLoader(data, batch_size=16, shuffle=True, generator=generator)
    for x, y in loader:
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
