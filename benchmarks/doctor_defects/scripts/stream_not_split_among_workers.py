"""Two workers read the same stream: every sample comes twice."""

import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

REPAIRED = "--repaired" in sys.argv


class Records(IterableDataset):
    """Reads records one after another."""

    def __init__(self, records, labels):
        self.records, self.labels = records, labels

    def __iter__(self):
        first, step = 0, 1
        if REPAIRED:
            worker = get_worker_info()
            first, step = worker.id, worker.num_workers
        for number in range(first, len(self.labels), step):
            yield self.records[number], self.labels[number]


def main():
    torch.manual_seed(0)
    labels = torch.randint(4, (320,))
    data = Records(torch.randn(320, 32) + 0.3 * labels[:, None], labels)
    loader = DataLoader(data, batch_size=16, num_workers=2)

    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for epoch in range(2):
        for x, y in loader:
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
