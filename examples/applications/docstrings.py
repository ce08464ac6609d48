"""A training job: fill in the bytes that are missing from documentation.

    batchwright compare examples/applications/docstrings.py            three seeds
    batchwright compare examples/applications/docstrings.py --quick    one

The docstrings of Python's standard library, from a word to pages, byte by byte. A seventh of the
bytes is hidden (Devlin et al., *BERT*, 2019). Nothing is downloaded.
"""

import ast
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import batchwright as bw
from batchwright.compare import Task
from batchwright.torch import PadCollator

PAD, HIDDEN = 0, 1
"""Bytes that no text has."""

LONGEST = 1_024
"""Longer docstrings are cut to this many bytes."""

SHARE = 0.15
"""Of the bytes that are hidden."""

Sample = dict[str, Tensor]
"""``"tokens"``, int64[length], and ``"labels"``, -100 where nothing is hidden."""

Batch = dict[str, Tensor]
"""The same, int64[rows, longest], padded."""

collate = PadCollator({"tokens": PAD})


class Filler(nn.Module):
    """A Transformer encoder (Vaswani et al., 2017)."""

    def __init__(self, width: int, layers: int):
        super().__init__()
        self.tokens = nn.Embedding(256, width)
        self.positions = nn.Embedding(LONGEST, width)
        layer = nn.TransformerEncoderLayer(
            width, width // 16, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        # What stands beside a hidden byte says most of it.
        self.near = nn.Linear(5 * width, width)
        self.head = nn.Linear(width, 256)
        nn.init.normal_(self.positions.weight, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64[rows, length] → scores, float[rows, length, 256]."""
        x = self.tokens(tokens)
        near = nn.functional.pad(x, (0, 0, 2, 2)).unfold(1, 5, 1).flatten(2)
        x = x + self.near(near) + self.positions.weight[: tokens.shape[1]]
        return self.head(self.encoder(x, src_key_padding_mask=tokens == PAD))


def texts(folder: Path) -> list[bytes]:
    """Collect the docstrings below a folder, each once, in the sequence of their files."""
    found: dict[bytes, None] = {}
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in sorted(folder.glob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):  # another encoding
            continue
        for node in ast.walk(tree):
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                found[text.encode()[:LONGEST]] = None
    return list(found)


def sample(text: bytes, rng: np.random.Generator) -> Sample:
    """Hide bytes of a text, one at least: the same ones whenever it is read."""
    tokens = np.frombuffer(text, np.uint8).astype(np.int64)
    is_hidden = rng.random(tokens.size) < SHARE
    is_hidden[rng.integers(tokens.size)] = True
    return {
        "tokens": torch.from_numpy(np.where(is_hidden, HIDDEN, tokens)),
        "labels": torch.from_numpy(np.where(is_hidden, tokens, -100)),
    }


def loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    """Return the *sum* of the loss over the hidden bytes."""
    scores = model(batch["tokens"]).float().flatten(0, 1)
    return cross_entropy(scores, batch["labels"].flatten(), reduction="sum")


def mean_loss(model: nn.Module, samples: Sequence[Sample]) -> float:
    """Return the mean loss of a hidden byte, nats."""
    plan = bw.plan([len(each["tokens"]) for each in samples], max_tokens=8_192)
    batches = (collate([samples[row] for row in rows]) for rows in plan)
    hidden = sum(int((each["labels"] >= 0).sum()) for each in samples)
    return sum(loss_sum(model, batch).item() for batch in batches) / hidden


def task(*, quick: bool = False) -> Task:
    """Describe the job for `batchwright compare`."""
    rng = np.random.default_rng(0)
    found = texts(Path(sysconfig.get_path("stdlib")))
    num_validation = 100 if quick else 300
    count = num_validation + (500 if quick else 2_500)
    every = [sample(found[index], rng) for index in rng.permutation(len(found))[:count]]
    validation, samples = every[:num_validation], every[num_validation:]
    return Task(
        samples=samples,
        lengths=[len(each["tokens"]) for each in samples],
        collate=collate,
        model=lambda: Filler(width=64, layers=1),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), 3e-3, fused=True),
        loss_sum=loss_sum,
        evaluate=lambda model: mean_loss(model, validation),
        max_tokens=4_096,
        step_tokens=8_192,
        metric="loss of a hidden byte",
        device="cpu",  # where validation data are
        strategies=["plain", "grouped", "planned", "planned+curriculum:length", "planned+bf16"],
    )
