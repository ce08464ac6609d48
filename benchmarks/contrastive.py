"""What samples of one key in a batch cost a contrastive loss: retrieval with and without them.

\b
python -m benchmarks.contrastive            some minutes; writes results/contrastive.json
python -m benchmarks.contrastive --quick    one seed, few updates, writes nothing

Two encoders learn to find the code of a function by the first paragraph of its docstring, on the
functions of installed packages. Many are copies of one another: where two of one docstring share
a batch, each counts as a wrong answer to the other. Every arm trains on the same samples, in as
many updates of one batch: random ones of a fixed size, and planned ones of as many tokens at most;
as they come, with answers of the same docstring masked in the loss, and without two of them in a
batch (`unique=`).
"""

import ast
import importlib.util
import itertools
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import click
import numpy as np
import torch
from rich.table import Table

import batchwright as bw
from benchmarks.length_sets import TEXT
from benchmarks.reporting import output_path, progress_bar, table_console, write_result

PACKAGES = {"scipy": "*.py", "sklearn": "*.py", "transformers": "models/**/modeling_*.py"}
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+|[^\sA-Za-z0-9_]")
LONGEST = {"query": 48, "code": 160}
VOCABULARY, WIDTH = 8_192, 128
HELD_OUT = 1_000
ROWS = 256
"""Samples of a batch: of planned ones, on average."""

MOST_COPIES = 8
"""Functions of one docstring that are kept. With 200 of one, batches without two would be small."""

UPDATES, RATE, TEMPERATURE = 300, 2e-3, 0.05

PLANNED, BUDGET = 100_000, 16_384
"""Lengths that are planned under each constraint."""

ARMS = {
    f"{batches}{kind}": (batches, kind)
    for batches in ("random", "planned")
    for kind in ("", ", masked", ", unique")
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Pairs:
    """Queries and code, as numbers of words; the docstring of each is its key."""

    queries: list[np.ndarray]
    codes: list[np.ndarray]
    keys: np.ndarray  # int64[n]

    def take(self, which: np.ndarray) -> "Pairs":
        queries, codes = ([each[i] for i in which] for each in (self.queries, self.codes))
        return Pairs(queries, codes, self.keys[which])

    @property
    def lengths(self) -> np.ndarray:
        both = zip(self.queries, self.codes, strict=True)
        return np.array([query.size + code.size for query, code in both])


def functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef]:
    """Find functions and methods, but not those inside of others."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from functions(node.body)
        elif isinstance(node, ast.FunctionDef):
            yield node


def read_pairs(packages: dict[str, str] = PACKAGES) -> list[tuple[str, str]]:
    """Read the docstring's first paragraph, and the code without it, of every function."""
    found = []
    for package, files in packages.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise click.ClickException(f"{package} is not installed. Run `make setup`.")
        root = Path(spec.origin).parent
        for path in sorted(root.rglob(files) if "/" not in files else root.glob(files)):
            if "tests" in path.parts:
                continue
            source = path.read_text(encoding="utf-8")
            lines = source.splitlines()
            for node in functions(ast.parse(source).body):
                text = ast.get_docstring(node)
                if text and len(node.body) > 1:
                    code = lines[node.lineno - 1 : node.body[0].lineno - 1]
                    code += lines[node.body[1].lineno - 1 : node.end_lineno]
                    found.append((" ".join(text.split("\n\n")[0].split()), "\n".join(code)))
    return found


def numbered(pairs: list[tuple[str, str]]) -> Pairs:
    """Turn words into numbers from 1; those beyond the vocabulary are 0."""
    words = [
        [WORD.findall(each)[: LONGEST[side]] for each in texts]
        for side, texts in zip(LONGEST, zip(*pairs, strict=True), strict=True)
    ]
    names, counts = np.unique(
        [w.lower() for side in words for ws in side for w in ws], return_counts=True
    )
    most = names[np.argsort(-counts, kind="stable")][: VOCABULARY - 1]
    number = {name: i + 1 for i, name in enumerate(most.tolist())}
    queries, codes = (
        [np.array([number.get(w.lower(), 0) for w in ws] or [0]) for ws in side] for side in words
    )
    _, keys = np.unique([query for query, _ in pairs], return_inverse=True)
    return Pairs(queries, codes, keys)


def parted(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """Return what is trained on, and docstrings that come once and are held out."""
    mixed = np.random.default_rng(0).permutation(pairs.keys.size)
    by_key = mixed[np.argsort(pairs.keys[mixed], kind="stable")]
    counts = np.bincount(pairs.keys)
    copy = np.arange(by_key.size) - np.repeat(np.cumsum(counts) - counts, counts)
    held = mixed[counts[pairs.keys[mixed]] == 1][:HELD_OUT]
    return pairs.take(np.setdiff1d(by_key[copy < MOST_COPIES], held)), pairs.take(held)


class Encoder(torch.nn.Module):
    """The mean of words, and a layer for each side."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.EmbeddingBag(VOCABULARY, WIDTH, mode="mean")
        self.sides = torch.nn.ModuleDict(
            {
                side: torch.nn.Sequential(
                    torch.nn.Linear(WIDTH, 2 * WIDTH),
                    torch.nn.GELU(),
                    torch.nn.Linear(2 * WIDTH, WIDTH),
                )
                for side in LONGEST
            }
        )

    def forward(self, side: str, texts: list[np.ndarray]) -> torch.Tensor:
        sizes = np.array([text.size for text in texts])
        mean = self.words(
            torch.from_numpy(np.concatenate(texts)), torch.from_numpy(np.cumsum(sizes) - sizes)
        )
        return torch.nn.functional.normalize(mean + self.sides[side](mean), dim=-1)


def loss_of(model: Encoder, pairs: Pairs, *, masked: bool) -> torch.Tensor:
    """Contrast each query with the code of all others, and each code with their queries."""
    scores = model("query", pairs.queries) @ model("code", pairs.codes).T / TEMPERATURE
    if masked:
        keys = torch.from_numpy(pairs.keys)
        same = (keys[:, None] == keys) & ~torch.eye(len(keys), dtype=torch.bool)
        scores = scores.masked_fill(same, -torch.inf)
    right = torch.arange(len(scores))
    both = (torch.nn.functional.cross_entropy(each, right) for each in (scores, scores.T))
    return sum(both, torch.zeros(())) / 2


def planner_of(pairs: Pairs, arm: str, seed: int) -> bw.Planner:
    batches, kind = ARMS[arm]
    unique = pairs.keys if kind == ", unique" else None
    if batches == "random":
        return bw.Planner(pairs.lengths, batching=bw.FixedSize(ROWS), seed=seed, unique=unique)
    budget = round(ROWS * pairs.lengths.mean())
    return bw.Planner(pairs.lengths, max_tokens=budget, seed=seed, unique=unique)


def batches_of(planner: bw.Planner, updates: int) -> Iterator[np.ndarray]:
    """Go through so many batches, epoch after epoch."""
    every = (batch for epoch in itertools.count() for batch in planner(epoch))
    return itertools.islice(every, updates)


def trained(pairs: Pairs, held: Pairs, arm: str, seed: int, updates: int) -> Row:
    """Train a model, and measure retrieval among what was held out."""
    torch.manual_seed(seed)
    model = Encoder()
    planner = planner_of(pairs, arm, seed)
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda update: (1 + math.cos(math.pi * update / updates)) / 2
    )
    seen = mates = tokens = 0
    for batch in batches_of(planner, updates):
        own = pairs.take(batch)
        seen, tokens = seen + batch.size, tokens + int(own.lengths.sum())
        mates += int((np.bincount(own.keys)[own.keys] > 1).sum())
        loss = loss_of(model, own, masked=ARMS[arm][1] == ", masked")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    stats = planner(0).stats(pairs.lengths)
    with torch.no_grad():
        loss = loss_of(model, held, masked=False).item()
        scores = model("query", held.queries) @ model("code", held.codes).T
        ranks = (scores > scores.diagonal()[:, None]).sum(dim=1) + 1
    return {
        "arm": arm,
        "seed": seed,
        "batches": len(planner),
        "padding": 1 - stats.efficiency,
        "tokens": tokens / updates,
        "mates": mates / seen,
        "loss": loss,
        "recall": float((ranks == 1).float().mean()),
        "mrr": float((1 / ranks).mean()),
    }


def summary(rows: list[Row]) -> list[Row]:
    """Summarise the seeds of each arm, and the gain over its batches as they come."""
    found = []
    for arm, (batches, _) in ARMS.items():
        own = [row for row in rows if row["arm"] == arm]
        plain = [row for row in rows if row["arm"] == batches]
        entry = {
            "arm": arm,
            **{
                name: fmean(row[name] for row in own)
                for name in own[0]
                if name not in {"arm", "seed"}
            },
        }
        for name in ("loss", "recall", "mrr"):
            gains = [a[name] - b[name] for a, b in zip(own, plain, strict=True)]
            entry[f"{name}_spread"] = stdev(row[name] for row in own) if len(own) > 1 else 0.0
            entry[f"{name}_gains"] = [] if arm == batches else gains
        found.append(entry)
    return found


def plans(size: int) -> list[Row]:
    """Plan texts under each constraint, and the same texts without."""
    rng = np.random.default_rng(0)
    lengths = TEXT.draw(size)
    groups = np.repeat(np.arange(size), rng.integers(1, 6, size))[:size]
    copies = lengths[groups]  # of one to five
    alike = np.maximum(1, np.rint(copies * rng.uniform(0.8, 1.0, size))).astype(np.int64)
    cases: list[tuple[str, np.ndarray, dict[str, np.ndarray]]] = [
        ("ten sources", lengths, {"within": rng.integers(0, 10, size)}),
        ("one to five copies of each", copies, {"unique": groups}),
        ("groups of one to five, of like lengths", alike, {"together": groups}),
        ("groups of one to five, of any lengths", lengths, {"together": groups}),
    ]
    found = []
    for name, given, constraint in cases:
        planner = bw.Planner(given, max_tokens=BUDGET, accumulate=8, **constraint)
        plain = bw.Planner(given, max_tokens=BUDGET, accumulate=8)
        # A group that stays together is padded to its longest sample, whatever the plan.
        starts = np.flatnonzero(np.diff(groups, prepend=-1))
        longest = np.maximum.reduceat(given, starts) * np.diff(starts, append=size)
        own = 1 - float(given.sum() / longest.sum()) if "together" in constraint else 0.0
        found.append(
            {
                "data": name,
                "constraint": next(iter(constraint)),
                "samples": size,
                "batches": [len(plain), len(planner)],
                "padding": [1 - each(0).stats(given).efficiency for each in (plain, planner)],
                "own_padding": own,
                "dispersion": [each(0).stats(given).dispersion for each in (plain, planner)],
            }
        )
    return found


@click.command(help=__doc__)
@click.option("--seeds", default=3, show_default=True, help="Seeds of every arm.")
@click.option("--quick", is_flag=True, help="One seed and few updates.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path))
def main(seeds: int, quick: bool, output: Path | None) -> None:
    began = time.perf_counter()
    seeds, updates = (1, 20) if quick else (seeds, UPDATES)
    torch.set_num_threads(1)  # the models are small
    pairs, held = parted(numbered(read_pairs()))
    rows = []
    with progress_bar() as bar:
        task = bar.add_task("training", total=seeds * len(ARMS))
        for seed in range(seeds):
            for arm in ARMS:
                rows.append(trained(pairs, held, arm, seed, updates))
                bar.advance(task)
                bar.refresh()
    arms = summary(rows)
    table = Table("arm", "batches", "padding", "with a mate", "loss", "recall@1", "MRR", "gain")
    for row in arms:
        gains = " ".join(f"{100 * gain:+.1f}" for gain in row["mrr_gains"])
        table.add_row(
            row["arm"],
            f"{row['batches']:.0f}",
            f"{row['padding']:.1%}",
            f"{row['mates']:.1%}",
            f"{row['loss']:.3f} ± {row['loss_spread']:.3f}",
            f"{row['recall']:.1%} ± {row['recall_spread']:.1%}",
            f"{row['mrr']:.3f} ± {row['mrr_spread']:.3f}",
            gains,
        )
    table_console().print(table)
    path = output_path("contrastive", output, quick=quick)
    if path is None:
        return
    counts = np.bincount(pairs.keys)
    facts = {
        "seeds": seeds,
        "updates": updates,
        "samples": int(pairs.keys.size),
        "keys": int(np.count_nonzero(counts)),
        "copies": float(counts[counts > 1].sum() / pairs.keys.size),
        "most_copies": MOST_COPIES,
        "held_out": HELD_OUT,
        "versions": {package: version(_name(package)) for package in (*PACKAGES, "torch")},
        "seconds": round(time.perf_counter() - began),
        "plans": plans(PLANNED),
        "arms": arms,
        "rows": rows,
    }
    write_result(path, f"python -m benchmarks.contrastive --seeds {seeds}", facts)


def _name(package: str) -> str:
    return {"sklearn": "scikit-learn"}.get(package, package)


if __name__ == "__main__":
    main()
