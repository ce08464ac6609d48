"""Buckets by length, of which only whole batches are taken: what is left of each is lost."""

import random
import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Sampler

REPAIRED = "--repaired" in sys.argv


class Buckets(Sampler):
    """Makes batches of samples of similar length."""

    def __init__(self, lengths, size, width=5):
        self.size = size
        self.buckets = {}
        for index, length in enumerate(lengths):
            self.buckets.setdefault(length // width, []).append(index)

    def __iter__(self):
        batches = []
        for bucket in self.buckets.values():
            random.shuffle(bucket)
            whole = len(bucket) // self.size * self.size
            end = len(bucket) if REPAIRED else whole
            batches += [bucket[at : at + self.size] for at in range(0, end, self.size)]
        random.shuffle(batches)
        return iter(batches)


def collate(samples):
    ids = pad_sequence([ids for ids, _ in samples], batch_first=True)
    return ids, torch.tensor([label for _, label in samples])


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(200, 32, padding_idx=0)
        self.head = nn.Linear(32, 3)

    def forward(self, ids):
        return self.head(self.embedding(ids).sum(1) / ids.ne(0).sum(1, keepdim=True))


random.seed(0)
torch.manual_seed(0)
lengths = torch.randint(4, 44, (400,)).tolist()
texts = [(torch.randint(1, 200, (length,)), index % 3) for index, length in enumerate(lengths)]
loader = DataLoader(texts, batch_sampler=Buckets(lengths, 16), collate_fn=collate)

model = Classifier()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(2):
    for ids, labels in loader:
        loss = cross_entropy(model(ids), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
