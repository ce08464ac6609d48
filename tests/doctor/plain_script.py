"""A training loop as many write it; prints a digest of the weights at the end."""

import argparse
import hashlib

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset


class Texts(Dataset):
    """203 samples of 3 to 40 tokens, none of them 0."""

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        lengths = torch.randint(3, 41, (203,), generator=generator).tolist()
        self.texts = [torch.randint(1, 50, (n,), generator=generator) for n in lengths]

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        noise = torch.rand(())  # of the random stream of the process
        return self.texts[index], int(noise >= 0)


def collate(samples):
    texts, labels = zip(*samples, strict=True)
    return nn.utils.rnn.pad_sequence(texts, batch_first=True), torch.tensor(labels)


class Model(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.embed = nn.Embedding(50, 16, padding_idx=0)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(16, 50)

    def forward(self, tokens):
        return self.out(self.drop(self.embed(tokens)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--distributed", action="store_true")
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)
    rank = 0
    if args.distributed:
        torch.distributed.init_process_group("gloo")
        rank = torch.distributed.get_rank()

    data = Texts()
    sampler = None
    if args.distributed:
        sampler = torch.utils.data.distributed.DistributedSampler(data, seed=0)
    loader = DataLoader(
        data,
        batch_size=8,
        shuffle=sampler is None,
        sampler=sampler,
        collate_fn=collate,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
    )
    model = Model(args.dropout)
    trained = nn.parallel.DistributedDataParallel(model) if args.distributed else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for epoch in range(args.epochs):
        if sampler is not None:
            sampler.set_epoch(epoch)
        for place, (tokens, _) in enumerate(loader):
            scores = trained(tokens[:, :-1]).flatten(0, 1)
            loss = cross_entropy(scores, tokens[:, 1:].flatten(), ignore_index=0)
            (loss / args.accumulate).backward()
            if (place + 1) % args.accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
        with torch.no_grad():
            for tokens, _ in DataLoader(data, batch_size=64, collate_fn=collate):
                model(tokens)

    if rank == 0:
        digest = hashlib.sha256()
        for parameter in model.parameters():
            digest.update(parameter.detach().numpy().tobytes())
        print(digest.hexdigest(), torch.rand(()).item())  # noqa: T201 -- it is a script
    if args.distributed:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
