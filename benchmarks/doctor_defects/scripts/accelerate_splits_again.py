"""`prepare` splits what `DistributedSampler` has split already: half of the samples are lost.

torchrun --nproc-per-node 2 accelerate_splits_again.py
"""

import sys

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

REPAIRED = "--repaired" in sys.argv

accelerator = Accelerator(cpu=True)
torch.manual_seed(0)
labels = torch.randint(4, (640,))
data = TensorDataset(torch.randn(640, 32) + 0.3 * labels[:, None], labels)
sampler = DistributedSampler(data, accelerator.num_processes, accelerator.process_index)
if REPAIRED:
    loader = DataLoader(data, batch_size=8, shuffle=True)
else:
    loader = DataLoader(data, batch_size=8, sampler=sampler)

model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for epoch in range(3):
    sampler.set_epoch(epoch)
    for x, y in loader:
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
    accelerator.print(f"epoch {epoch}: loss {loss.item():.3f}")
accelerator.end_training()
