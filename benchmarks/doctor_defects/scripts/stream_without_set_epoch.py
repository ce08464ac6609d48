"""`set_epoch` of a shuffled stream is never called, so every epoch has the same order."""

import sys

import datasets
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

REPAIRED = "--repaired" in sys.argv

torch.manual_seed(0)
labels = torch.randint(4, (400,))
features = torch.randn(400, 16) + 0.3 * labels[:, None]
table = datasets.Dataset.from_dict({"features": features.tolist(), "label": labels.tolist()})
stream = table.to_iterable_dataset(num_shards=8).with_format("torch")
stream = stream.shuffle(seed=0, buffer_size=100)
loader = DataLoader(stream, batch_size=16)

model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(3):
    if REPAIRED:
        stream.set_epoch(epoch)
    for batch in loader:
        loss = cross_entropy(model(batch["features"]), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
