"""A few texts are empty, their mean is 0 / 0, and the optimizer takes the NaN."""

import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

REPAIRED = "--repaired" in sys.argv


def collate(samples):
    ids = pad_sequence([ids for ids, _ in samples], batch_first=True)
    return ids, torch.tensor([label for _, label in samples])


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(200, 32)
        self.head = nn.Linear(32, 3)

    def forward(self, ids):
        mask = ids.ne(0).unsqueeze(-1)
        return self.head((self.embedding(ids) * mask).sum(1) / mask.sum(1))


torch.manual_seed(0)
lengths = torch.randint(2, 40, (400,))
lengths[torch.tensor([130, 256, 391])] = 0
texts = [(torch.randint(1, 200, (int(length),)), int(length) % 3) for length in lengths]
if REPAIRED:
    texts = [(ids, label) for ids, label in texts if len(ids)]

loader = DataLoader(texts, batch_size=16, shuffle=True, collate_fn=collate)
model = Classifier()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(2):
    for ids, labels in loader:
        loss = cross_entropy(model(ids), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
