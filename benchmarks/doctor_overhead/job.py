"""A training loop over the docstrings of the standard library, which waits for its turns.

python benchmarks/doctor_overhead/job.py --turns PORT [--updates 50] [--workers 2] [--distributed]

Before each update it waits for a line at a port of this machine, and answers with the seconds that
the update took. At last it sends the seconds of the processor, its workers' included, and a digest
of its weights.
"""

import argparse
import ast
import hashlib
import os
import socket
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler

LONGEST = 128


def texts(number: int) -> list[torch.Tensor]:
    """Read docstrings as bytes."""
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and (
                text := ast.get_docstring(node)
            ):
                found[text] = None
    return [torch.tensor(list(each.encode()[:LONGEST])) for each in list(found)[:number]]


def collate(samples: list[torch.Tensor]) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence(samples, batch_first=True)


class Model(nn.Module):
    """Predicts the next byte."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 256)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.encoder(self.embed(tokens), mask=mask, is_causal=True))


class Turns:
    """Waits for a turn before each batch is fetched, on all ranks; says how long updates took."""

    def __init__(self, port: int, *, is_distributed: bool) -> None:
        self.is_distributed = is_distributed
        self.is_first = not is_distributed or torch.distributed.get_rank() == 0
        if self.is_first:
            connection = socket.create_connection(("127.0.0.1", port))
            self.lines = connection.makefile("rw", buffering=1)

    def of(self, loader: DataLoader, updates: int) -> Iterator[torch.Tensor]:
        """Yield batches, again from the beginning where they end."""
        batches = iter(loader)
        for _ in range(updates):
            if self.is_first:
                self.lines.readline()
            if self.is_distributed:
                torch.distributed.barrier()
            begun = time.monotonic()
            batch = next(batches, None)
            if batch is None:
                batches = iter(loader)
                batch = next(batches)
            yield batch
            self.say(time.monotonic() - begun)

    def say(self, *words: object) -> None:
        """Send a line."""
        if self.is_first:
            self.lines.write(" ".join(map(str, words)) + "\n")


def processor_seconds() -> float:
    """Return the seconds of the processor until now, of processes that ended too."""
    return sum(os.times()[:4])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, required=True)
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--distributed", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if args.distributed:
        torch.distributed.init_process_group("gloo")
    data = texts(16 * args.updates * (2 if args.distributed else 1))
    sampler = DistributedSampler(data, seed=0) if args.distributed else None
    loader = DataLoader(
        data,
        16,
        shuffle=sampler is None,
        sampler=sampler,
        collate_fn=collate,
        num_workers=args.workers,
    )
    model = Model()
    trained = nn.parallel.DistributedDataParallel(model) if args.distributed else model
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    turns, begun = Turns(args.turns, is_distributed=args.distributed), processor_seconds()
    for tokens in turns.of(loader, args.updates):
        scores = trained(tokens[:, :-1]).flatten(0, 1)
        loss = cross_entropy(scores, tokens[:, 1:].flatten(), ignore_index=0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    turns.say(processor_seconds() - begun, digest.hexdigest())
    if args.distributed:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
