"""Compiled for fixed shapes, and every batch is padded to a shape of its own."""

import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy, pad
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

REPAIRED = "--repaired" in sys.argv
torch._dynamo.config.recompile_limit = 64


def collate(samples):
    ids = pad_sequence([ids for ids, _ in samples], batch_first=True)
    if REPAIRED:
        ids = pad(ids, (0, -ids.shape[1] % 64))
    return ids, torch.tensor([label for _, label in samples])


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(200, 32, padding_idx=0)
        self.head = nn.Linear(32, 3)

    def forward(self, ids):
        return self.head(self.embedding(ids).sum(1) / ids.ne(0).sum(1, keepdim=True))


torch.manual_seed(0)
lengths = torch.randint(2, 180, (320,)).tolist()
texts = [(torch.randint(1, 200, (length,)), length % 3) for length in lengths]
loader = DataLoader(texts, batch_size=8, shuffle=True, drop_last=True, collate_fn=collate)

model = Classifier()
compiled = torch.compile(model, backend="eager", dynamic=False)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(2):
    for ids, labels in loader:
        loss = cross_entropy(compiled(ids), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
