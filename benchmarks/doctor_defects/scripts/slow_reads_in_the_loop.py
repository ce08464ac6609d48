"""Every sample is read from a slow disk in each epoch, and the training loop itself reads it."""

import sys
import time

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

REPAIRED = "--repaired" in sys.argv


class Recordings(Dataset):
    """Reads a recording in four milliseconds."""

    def __init__(self, number):
        self.labels = torch.randint(4, (number,))
        self.sounds = torch.randn(number, 512) + 0.1 * self.labels[:, None]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        time.sleep(0.004)
        return self.sounds[index], self.labels[index]


torch.manual_seed(0)
data = Recordings(320)
if REPAIRED:
    data = [data[index] for index in range(len(data))]  # read once, before training
loader = DataLoader(data, batch_size=16, shuffle=True)

hidden = [nn.Sequential(nn.Linear(1024, 1024), nn.ReLU()) for _ in range(4)]
model = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), *hidden, nn.Linear(1024, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
for epoch in range(2):
    for x, y in loader:
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
