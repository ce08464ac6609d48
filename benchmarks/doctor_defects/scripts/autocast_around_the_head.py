"""Autocast covers the last layer; the encoder, nearly all of the work, runs in fp32."""

import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

REPAIRED = "--repaired" in sys.argv


def block(width):
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))


torch.manual_seed(0)
labels = torch.randint(4, (480,))
data = TensorDataset(torch.randn(480, 128) + 0.3 * labels[:, None], labels)
loader = DataLoader(data, batch_size=16, shuffle=True)

encoder = nn.Sequential(*(block(128) for _ in range(4)))
head = nn.Linear(128, 4)
optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-3)
for epoch in range(2):
    for x, y in loader:
        with torch.autocast("cpu", torch.bfloat16, enabled=REPAIRED):
            features = encoder(x)
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(head(features), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
