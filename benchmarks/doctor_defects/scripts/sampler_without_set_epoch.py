"""`DistributedSampler.set_epoch` is never called, so every epoch has the same order.

torchrun --nproc-per-node 2 sampler_without_set_epoch.py
"""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

REPAIRED = "--repaired" in sys.argv

dist.init_process_group("gloo")
torch.manual_seed(0)
labels = torch.randint(4, (600,))
data = TensorDataset(torch.randn(600, 32) + 0.3 * labels[:, None], labels)
sampler = DistributedSampler(data)
loader = DataLoader(data, batch_size=16, sampler=sampler)

net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
model = DistributedDataParallel(net)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(3):
    if REPAIRED:
        sampler.set_epoch(epoch)
    for x, y in loader:
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if dist.get_rank() == 0:
        print(f"epoch {epoch}: loss {loss.item():.3f}")
dist.destroy_process_group()
