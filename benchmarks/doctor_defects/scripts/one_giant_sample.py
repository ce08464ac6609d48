"""One text is a hundred times as long as the others, and its batch is padded to it."""

import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

REPAIRED = "--repaired" in sys.argv
LONGEST = 64


def collate(texts):
    return pad_sequence(texts, batch_first=True)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(400, 32)
        self.mix = nn.Conv1d(32, 32, 3)
        self.head = nn.Linear(32, 400)

    def forward(self, ids):
        embedded = nn.functional.pad(self.embedding(ids).transpose(1, 2), (2, 0))
        return self.head(self.mix(embedded).relu().transpose(1, 2))


torch.manual_seed(0)
lengths = torch.randint(24, 48, (400,))
lengths[222] = 3600
texts = [torch.randint(1, 400, (int(length),)) for length in lengths]
if REPAIRED:
    texts = [text[:LONGEST] for text in texts]

loader = DataLoader(texts, batch_size=8, shuffle=True, collate_fn=collate)
model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(2):
    for ids in loader:
        scores = model(ids[:, :-1])
        loss = cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
