"""Four backward passes an update, and no division by four."""

import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

REPAIRED = "--repaired" in sys.argv
ACCUMULATE = 4

torch.manual_seed(0)
labels = torch.randint(4, (640,))
data = TensorDataset(torch.randn(640, 32) + 0.3 * labels[:, None], labels)
loader = DataLoader(data, batch_size=8, shuffle=True)

model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
for epoch in range(2):
    for step, (x, y) in enumerate(loader, start=1):
        loss = cross_entropy(model(x), y)
        if REPAIRED:
            loss = loss / ACCUMULATE
        loss.backward()
        if step % ACCUMULATE == 0:
            optimizer.step()
            optimizer.zero_grad()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
