"""Five shards for two ranks: one has half as much again to do, and is left alone at the end.

torchrun --nproc-per-node 2 shards_dealt_unequally.py
"""

import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset

REPAIRED = "--repaired" in sys.argv


class Shards(IterableDataset):
    """Reads the shards of this rank, or this rank's samples of all shards."""

    def __init__(self, shards):
        self.shards = shards

    def __iter__(self):
        rank, world_size = dist.get_rank(), dist.get_world_size()
        if REPAIRED:
            samples = [sample for shard in self.shards for sample in shard]
            yield from samples[rank::world_size]
        else:
            for shard in self.shards[rank::world_size]:
                yield from shard


dist.init_process_group("gloo", timeout=timedelta(seconds=10))
torch.manual_seed(0)
labels = torch.randint(4, (5, 128))
inputs = torch.randn(5, 128, 32) + 0.3 * labels[..., None]
shards = [list(zip(*shard, strict=True)) for shard in zip(inputs, labels, strict=True)]
loader = DataLoader(Shards(shards), batch_size=16)

net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
model = DistributedDataParallel(net)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
for epoch in range(2):
    for x, y in loader:
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if dist.get_rank() == 0:
        print(f"epoch {epoch}: loss {loss.item():.3f}")
dist.destroy_process_group()
