"""The loss scale overflows every few updates, and the warm-up goes on as if it did not."""

import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

REPAIRED = "--repaired" in sys.argv

torch.manual_seed(0)
labels = torch.randint(4, (480,))
data = TensorDataset(3 * torch.randn(480, 32) + labels[:, None], labels)
loader = DataLoader(data, batch_size=16, shuffle=True)

model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=40)
scaler = torch.amp.GradScaler("cpu", growth_interval=3)
for epoch in range(2):
    for x, y in loader:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = cross_entropy(model(x), y, reduction="sum")
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scale = scaler.get_scale()
        scaler.update()
        was_skipped = scaler.get_scale() < scale
        if not (REPAIRED and was_skipped):
            schedule.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}, learning rate {schedule.get_last_lr()[0]:.5f}")
