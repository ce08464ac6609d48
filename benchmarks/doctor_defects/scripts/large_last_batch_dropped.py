"""`drop_last` of batches so large that a quarter of every epoch is in the last one."""

import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

REPAIRED = "--repaired" in sys.argv

torch.manual_seed(0)
labels = torch.randint(4, (500,))
data = TensorDataset(torch.randn(500, 32) + 0.3 * labels[:, None], labels)
loader = DataLoader(data, batch_size=128, shuffle=True, drop_last=not REPAIRED)

model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for epoch in range(8):
    for x, y in loader:
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
