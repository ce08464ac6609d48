"""How well the peak memory of a training step is predicted, beside what the allocator says.

\b
python -m benchmarks.memory_prediction               all networks, about two minutes
python -m benchmarks.memory_prediction --quick       half of the shapes, write no result

Each network is fitted once, and then really trained for a step at shapes that the fit has not
seen. Errors are of what a step adds to parameters, gradients and optimizer state; those are known
exactly, and would only make errors look smaller. Below zero is too little: out of memory.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.table import Table
from torch import nn
from torch.nn import functional

from batchwright.torch.memory import MemoryModel
from batchwright.torch.memory.steps import Task, real_steps
from benchmarks.reporting import output_path, progress_bar, table_console, write_result

VOCABULARY = 2_000
MEBIBYTE = 2**20


class Block(nn.Module):
    """A transformer layer whose attention keeps its scores, or does not."""

    def __init__(self, width: int, heads: int, *, keeps_scores: bool, dropout: float = 0.1):
        super().__init__()
        self.heads, self.keeps_scores = heads, keeps_scores
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x):
        parts = self.queries_keys_values(self.before_attention(x)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        if self.keeps_scores:
            length = x.shape[1]
            later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
            scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
            mixed = scores.masked_fill(later, float("-inf")).softmax(-1) @ value
        else:
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        return x + self.mlp(self.before_mlp(x))


class Transformer(nn.Module):
    """A small causal language model."""

    def __init__(self, width=64, layers=3, heads=4, *, keeps_scores=False):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(1_024, width)
        blocks = (Block(width, heads, keeps_scores=keeps_scores) for _ in range(layers))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens):
        positions = self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.norm(self.blocks(self.tokens(tokens) + positions)))


class ConvolutionalNetwork(nn.Module):
    """A small classifier of images; its kernels take workspace that tensors do not show."""

    def __init__(self, widths=(3, 32, 64, 128)):
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1, stride=2),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, images):
        return self.head(self.features(images).mean((2, 3)))


class SpeechEncoder(nn.Module):
    """Strided convolutions over frames, and attention that keeps its scores over what is left."""

    def __init__(self, width=64):
        super().__init__()
        self.shrink = nn.Sequential(
            nn.Conv1d(40, width, 3, padding=1, stride=2),
            nn.GELU(),
            nn.Conv1d(width, width, 3, padding=1, stride=2),
            nn.GELU(),
        )
        self.blocks = nn.Sequential(*(Block(width, 4, keeps_scores=True) for _ in range(2)))
        self.head = nn.Linear(width, 30)

    def forward(self, frames):
        return self.head(self.blocks(self.shrink(frames).transpose(1, 2)))


class Peeking(nn.Module):
    """A transformer that looks at a value on its way: fake tensors cannot run it."""

    def __init__(self):
        super().__init__()
        self.inner = Transformer(layers=2)

    def forward(self, tokens):
        logits = self.inner(tokens)
        return logits if logits.detach().abs().max().item() < 1e3 else logits.clamp(-1e3, 1e3)


def language_batch(rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(VOCABULARY, (rows, length + 1))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def language_loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    tokens, targets = batch
    logits = model(tokens).flatten(0, 1)
    return functional.cross_entropy(logits, targets.flatten(), reduction="sum")


def image_batch(rows: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, 3, side, side), torch.randint(10, (rows,))


def image_loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    images, classes = batch
    return functional.cross_entropy(model(images), classes, reduction="sum")


def frame_batch(rows: int, length: int) -> torch.Tensor:
    return torch.randn(rows, 40, length)


def frame_loss(model: nn.Module, frames: torch.Tensor) -> torch.Tensor:
    return -model(frames).log_softmax(-1).amax(-1).sum()


@dataclass(frozen=True)
class Case:
    """A network, in a precision, up to a limit."""

    name: str
    build: Callable[[], nn.Module]
    autocast: torch.dtype | None = None
    loss_sum: Callable[[Any, Any], torch.Tensor] = language_loss
    make_batch: Callable[[int, int], Any] = language_batch
    lengths: range = range(32, 769)
    mebibytes: int = 100
    accumulate: int | None = None

    def fitted(self) -> tuple[MemoryModel, Task]:
        """Fit the case, and return what real steps are run with."""
        torch.manual_seed(0)
        model = self.build()
        optimizer = torch.optim.AdamW(model.parameters())
        memory = MemoryModel.fit(
            model,
            optimizer,
            self.loss_sum,
            self.make_batch,
            lengths=self.lengths,
            limit=self.mebibytes * MEBIBYTE,
            autocast=self.autocast,
            accumulate=self.accumulate,
        )
        accumulates = self.accumulate != 1
        task = Task(model, (optimizer,), self.loss_sum, self.make_batch, self.autocast, accumulates)
        return memory, task


CASES = (
    Case("fused attention", Transformer),
    Case("fused attention, accumulate=1", Transformer, accumulate=1),
    Case("fused attention, bfloat16", Transformer, torch.bfloat16),
    Case("kept scores", lambda: Transformer(keeps_scores=True)),
    Case("kept scores, bfloat16", lambda: Transformer(keeps_scores=True), torch.bfloat16),
    Case(
        "kept scores, 4 layers of 8 heads",
        lambda: Transformer(layers=4, heads=8, keeps_scores=True),
        lengths=range(32, 513),
    ),
    Case(
        "convolutions, images",
        ConvolutionalNetwork,
        None,
        image_loss,
        image_batch,
        range(64, 257),
        40,
    ),
    Case(
        "convolutions, kept scores, speech",
        SpeechEncoder,
        None,
        frame_loss,
        frame_batch,
        range(100, 1_501),
    ),
    Case("looks at values", Peeking),
)


@dataclass(frozen=True)
class Held:
    """A shape that the fit has not seen: predicted, and measured."""

    rows: int
    length: int
    predicted: int
    measured: int

    @property
    def error(self) -> float:
        """Predicted over measured, less 1: below zero is too little."""
        return self.predicted / self.measured - 1


def held_out(case: Case, memory: MemoryModel, task: Task, *, shapes: int) -> Iterator[Held]:
    """Run real steps at shapes that were not probed, up to the limit."""
    random = np.random.default_rng(1)
    low, high = np.log(case.lengths[0]), np.log(case.lengths[-1])
    given = np.array(case.lengths)
    with real_steps(task, memory.shortest) as run:
        for share in np.linspace(1.0, 0.3, shapes):
            length = int(given[np.searchsorted(given, np.exp(random.uniform(low, high)))])
            rows = max(1, int(share * memory.max_batch(length)))
            if any((rows, length) == (each.rows, each.length) for each in memory.findings.probes):
                rows += 1
            predicted = memory.peak(rows, length) - memory.state_bytes
            yield Held(rows, length, predicted, run(rows, length))


def row(case: Case, *, shapes: int, advance: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Fit a case, hold real steps against it, and sum up."""
    begun = time.perf_counter()
    memory, task = case.fitted()
    seconds = time.perf_counter() - begun
    advance()
    steps = []
    for step in held_out(case, memory, task, shapes=shapes):
        steps.append(step)
        advance()
    rows, length = memory.max_batch(memory.longest), memory.longest
    errors = [step.error for step in steps]
    return {
        "case": case.name,
        "how": memory.how,
        "limit_bytes": memory.limit,
        "state_bytes": memory.state_bytes,
        "probes": len(memory.findings.probes),
        "seconds": round(seconds, 2),
        "ratio": round(memory.findings.ratio, 4),
        "margin": memory.margin,
        "max_tokens": memory.max_tokens(),
        "dominant": memory.explain(rows, length).dominant.name,
        "mean_error": round(float(np.mean(np.abs(errors))), 5),
        "most_under": round(min(0.0, *errors), 5),
        "most_over": round(max(0.0, *errors), 5),
        "held_out": [[step.rows, step.length, step.predicted, step.measured] for step in steps],
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """Lay rows out."""
    out = Table(
        title="Peak memory of a training step, predicted",
        caption="errors over real steps of shapes that were not probed; below zero is too little",
    )
    out.add_column("network")
    for heading in ("found by", "s", "ratio", "mean error", "most under", "most over"):
        out.add_column(heading, justify="right", no_wrap=True)
    out.add_column("most of it")
    for each in rows:
        out.add_row(
            each["case"],
            f"{each['probes']} {each['how']}",
            f"{each['seconds']:.1f}",
            f"{each['ratio']:.3f}",
            *(f"{each[name]:.2%}" for name in ("mean_error", "most_under", "most_over")),
            each["dominant"],
        )
    return out


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Half of the shapes, write no result.")
@click.option(
    "--output", "--json", type=click.Path(path_type=Path), help="Where to write the JSON."
)
def main(*, quick: bool, output: Path | None) -> None:
    """Fit all cases, hold them against real steps, print a table, write the result."""
    torch.set_num_threads(1)
    shapes = 5 if quick else 9
    CASES[0].fitted()  # loads what torch loads at a first step
    rows = []
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(CASES) * (shapes + 1))
        for case in CASES:
            progress.update(bar, description=case.name, refresh=True)
            advance = lambda: progress.update(bar, advance=1, refresh=True)  # noqa: E731
            rows.append(row(case, shapes=shapes, advance=advance))
    table_console().print(table(rows))
    target = output_path("memory_prediction", output, quick=quick)
    if target is not None:
        command = "python -m benchmarks.memory_prediction" + " --quick" * quick
        write_result(target, command, {"torch": torch.__version__, "threads": 1, "rows": rows})


if __name__ == "__main__":
    main()
