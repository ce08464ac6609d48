"""The gradient of a root is NaN at 0: no update is applied, and the loss scale sinks."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

REPAIRED = "--repaired" in sys.argv

torch.manual_seed(0)
labels = torch.randint(4, (400,))
data = TensorDataset(torch.randn(400, 32) + 0.3 * labels[:, None], labels)
loader = DataLoader(data, batch_size=16, shuffle=True)

model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
scaler = torch.amp.GradScaler("cpu")
for epoch in range(2):
    for x, y in loader:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            places = model(x)
        squares = (places[:, None] - places[None]).float().square().sum(-1)
        distances = (squares + 1e-6).sqrt() if REPAIRED else squares.sqrt()
        same = y[:, None] == y
        loss = torch.where(same, distances, (1 - distances).clamp_min(0)).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    print(f"epoch {epoch}: loss {loss.item():.3f}, loss scale {scaler.get_scale():g}")
