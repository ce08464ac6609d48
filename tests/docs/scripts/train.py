"""Trains a small model of tokens, on one rank or several; goes on from its state with --resume."""

import os
import sys
from pathlib import Path

import torch
from torch import distributed
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

EPOCHS, STATE = 2, "state.pt"
ACCUMULATE = 4  # batches of an update, by which the loss should be divided

torch.manual_seed(0)
torch.set_num_threads(1)
has_ranks = "RANK" in os.environ
if has_ranks:
    distributed.init_process_group("gloo")

texts = [torch.randint(1, 50, (2 + 7 * n % 29,)) for n in range(768)]


def collate(samples):
    return torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)


sampler = DistributedSampler(texts) if has_ranks else None
loader = DataLoader(
    texts, batch_size=8, shuffle=sampler is None, sampler=sampler, collate_fn=collate
)
model = torch.nn.Sequential(torch.nn.Embedding(50, 8, padding_idx=0), torch.nn.Linear(8, 50))
trained = torch.nn.parallel.DistributedDataParallel(model) if has_ranks else model
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
first = 0
if "--resume" in sys.argv and Path(STATE).exists():
    state = torch.load(STATE)
    model.load_state_dict(state["model"])
    first = state["epoch"]
for epoch in range(first, first + EPOCHS):
    if sampler is not None:
        sampler.set_epoch(epoch)
    for place, tokens in enumerate(loader):
        scores = trained(tokens[:, :-1]).flatten(0, 1)
        loss = cross_entropy(scores, tokens[:, 1:].flatten(), ignore_index=0)
        loss.backward()
        if (place + 1) % ACCUMULATE == 0:
            optimizer.step()
            optimizer.zero_grad()
    if not has_ranks or distributed.get_rank() == 0:
        torch.save({"model": model.state_dict(), "epoch": epoch + 1}, STATE)
if has_ranks:
    distributed.destroy_process_group()
