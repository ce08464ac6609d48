"""What a few fixed shapes save a compiler: torch.compile, and JAX through Keras.

\b
python -m benchmarks.static_shapes            some minutes; writes results/static_shapes.json
python -m benchmarks.static_shapes --quick    a third of the samples, writes nothing

A compiler that knows shapes prepares itself for each of them. How many there are a plan tells
before anything is trained: `plan.stats(lengths).shapes`. Here it is held against compilations
that are counted: a small model trains one epoch, in batches of any shape and of a few fixed ones,
each case in a process of its own and with nothing kept of what was compiled before. Exit code 1
if a count is not the one that was told.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

import batchwright as bw
from benchmarks import machine
from benchmarks.length_sets import TEXT
from benchmarks.reporting import output_path, progress_bar, table_console, write_result

SAMPLES = {"torch.compile": 160, "jax": 480}
"""Of the epoch that is trained: C++ is compiled more slowly than XLA."""

MAX_TOKENS, LONGEST = 512, 64
VOCABULARY, WIDTH = 256, 32
SHAPES = (None, 8, 3)
"""How many there may be; None: any."""

TOLD_SAMPLES, TOLD_MAX_TOKENS = 100_000, 16_384
TOLD_SHAPES = (None, 32, 16, 8, 3)
"""Of the plans that nothing is trained with."""

INTERRUPTED = 130

Row = dict[str, Any]


def lengths_of(size: int) -> np.ndarray:
    drawn = np.random.default_rng(0).lognormal(3.2, 0.6, size)
    return np.clip(drawn, 4, LONGEST).astype(np.int64)


def batching_of(num_shapes: int | None, max_tokens: int) -> bw.Buckets | bw.TokenBudget:
    if num_shapes is None:
        return bw.TokenBudget(max_tokens)
    return bw.Buckets(num_shapes, max_tokens=max_tokens)


def batches_of(plan: bw.Plan, lengths: np.ndarray) -> list[np.ndarray]:
    """Make the token batches of an epoch, int64[rows, length], 0 where there is nothing."""
    rng = np.random.default_rng(1)
    rows_of = {length: rows for rows, length in plan.layout.shapes or ()}
    batches = []
    for indices in plan:
        longest = int(lengths[indices].max())
        length = min((each for each in rows_of if each >= longest), default=longest)
        batch = np.zeros((rows_of.get(length, len(indices)), length), dtype=np.int64)
        for row, index in enumerate(indices):
            batch[row, : lengths[index]] = rng.integers(1, VOCABULARY, lengths[index])
        batches.append(batch)
    return batches


def with_torch(batches: list[np.ndarray], backend: str = "inductor") -> tuple[int, list[float]]:
    """Train an epoch under torch.compile; return compilations, and seconds of each update."""
    import torch
    from torch._dynamo.testing import CompileCounterWithBackend

    # The default gives up after eight shapes, and goes on without having compiled.
    torch._dynamo.config.recompile_limit = 10_000
    torch.manual_seed(0)
    torch.set_num_threads(1)
    embed = torch.nn.Embedding(VOCABULARY, WIDTH)
    attend, head = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, VOCABULARY)
    counter = CompileCounterWithBackend(backend)

    @torch.compile(dynamic=False, backend=counter)
    def loss_sum(tokens):
        hidden = embed(tokens)
        parts = (each.unsqueeze(1) for each in attend(hidden).chunk(3, dim=-1))
        attended = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
        return torch.nn.functional.cross_entropy(
            head(hidden + attended.squeeze(1)).flatten(0, 1),
            tokens.flatten(),
            ignore_index=0,
            reduction="sum",
        )

    modules = torch.nn.ModuleList([embed, attend, head])
    optimizer = torch.optim.AdamW(modules.parameters())
    seconds = []
    for batch in batches:
        began = time.perf_counter()
        tokens = torch.from_numpy(batch)
        (loss_sum(tokens) / (tokens != 0).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    return counter.frame_count, seconds


def with_jax(batches: list[np.ndarray]) -> tuple[int, list[float]]:
    """Train an epoch in Keras on JAX; return compilations of the update, and seconds of each."""
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    import keras

    compiled: list[str] = []

    def listen(event: str, _: float, **about: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(str(about["fun_name"]))

    jax.monitoring.register_event_duration_secs_listener(listen)
    keras.utils.set_random_seed(0)
    tokens = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(VOCABULARY, WIDTH)(tokens)
    hidden += keras.layers.MultiHeadAttention(1, WIDTH)(hidden, hidden, use_causal_mask=True)
    model = keras.Model(tokens, keras.layers.Dense(VOCABULARY)(hidden))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    seconds = []
    for batch in batches:
        began = time.perf_counter()
        real = (batch != 0).astype(np.float32)
        model.train_on_batch(batch, batch, sample_weight=real)
        seconds.append(time.perf_counter() - began)
    # Beside the update there are a few small helpers, compiled once.
    return sum("train_step" in name for name in compiled), seconds


def case(backend: str, num_shapes: int | None, samples: int) -> Row:
    """Run one case in this process."""
    lengths = lengths_of(samples)
    plan = bw.plan(lengths, batching=batching_of(num_shapes, MAX_TOKENS))
    batches = batches_of(plan, lengths)
    train = with_torch if backend == "torch.compile" else with_jax
    compilations, seconds = train(batches)
    met: set[tuple[int, ...]] = set()
    again = []
    for batch, taken in zip(batches, seconds, strict=True):
        if batch.shape in met:
            again.append(taken)
        met.add(batch.shape)
    cells = sum(batch.size for batch in batches)
    return {
        **_about(backend, num_shapes, samples),
        "batches": len(batches),
        "told": plan.stats(lengths).shapes,
        "compilations": compilations,
        "padding": 1 - int(lengths.sum()) / cells,
        "seconds": sum(seconds),
        # None: each shape came once, and each update had to wait for the compiler.
        "seconds_without_compiling": float(np.median(again)) if again else None,
    }


def told_of(samples: int) -> list[Row]:
    """Plan a larger set, of which compilations are only told."""
    lengths = TEXT.draw(samples)
    rows = []
    for num_shapes in TOLD_SHAPES:
        plan = bw.plan(lengths, batching=batching_of(num_shapes, TOLD_MAX_TOKENS))
        stats = plan.stats(lengths)
        rows.append(
            {
                **_about("", num_shapes, samples),
                "batches": len(plan),
                "told": stats.shapes,
                "padding": 1 - stats.efficiency,
            }
        )
    return rows


def in_a_process(backend: str, num_shapes: int | None, samples: int, limit: float) -> Row:
    """Run one case where nothing is compiled yet, and no longer than the limit."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.static_shapes"),
                *("--case", json.dumps([backend, num_shapes, samples])),
            ],
            cwd=machine.REPOSITORY,
            env={
                **os.environ,
                "TORCHINDUCTOR_CACHE_DIR": folder,
                "TORCHINDUCTOR_COMPILE_THREADS": "1",
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,  # frameworks talk a lot on standard error
            text=True,
            check=False,
            timeout=limit,
        )
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise click.ClickException(f"{backend}, {num_shapes} shapes, ended with an error.")
    return json.loads(done.stdout.splitlines()[-1])


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="A third of the samples.")
@click.option("--limit", default=300.0, show_default=True, help="Seconds that a case may take.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
@click.option("--case", "one", hidden=True, help="Run one case and print it.")
def main(*, quick: bool, limit: float, output: Path | None, one: str | None) -> None:
    """Run all cases, print tables, write the result."""
    if one is not None:
        click.echo(json.dumps(case(*json.loads(one))))
        return
    try:
        rows = run(quick=quick, limit=limit)
    except KeyboardInterrupt:
        click.echo("Interrupted: nothing was written.", err=True)
        sys.exit(INTERRUPTED)
    told = told_of(TOLD_SAMPLES // 100 if quick else TOLD_SAMPLES)
    as_told = all(row["compilations"] in {None, row["told"]} for row in rows)
    console = table_console()
    console.print(trained_table(rows), told_table(told), sep="\n\n")
    if not as_told:
        console.print("Compilations are NOT as many as the plan's shapes.")
    target = output_path("static_shapes", output, quick=quick)
    if target is not None:
        command = f"python -m benchmarks.static_shapes{' --quick' * quick}"
        result = {"limit": limit, "as_told": as_told, "rows": rows, "told": told}
        write_result(target, command, result)
    sys.exit(int(not as_told))


def run(*, quick: bool, limit: float) -> list[Row]:
    """Run the cases one after the other, with a bar meanwhile."""
    cases = [(backend, shapes) for backend in SAMPLES for shapes in SHAPES]
    rows = []
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(cases))
        for backend, shapes in cases:
            samples = SAMPLES[backend] // (3 if quick else 1)
            about = _about(backend, shapes, samples)
            progress.update(bar, description=f"{backend}, {about['batching']}", refresh=True)
            try:
                rows.append(in_a_process(backend, shapes, samples, limit))
            except subprocess.TimeoutExpired:
                rows.append({**about, "told": None, "compilations": None, "seconds": None})
            progress.update(bar, advance=1, refresh=True)
    return rows


def trained_table(rows: list[Row]) -> Table:
    shown = Table(
        title=f"One epoch, compiled, {LONGEST} tokens at most",
        caption="told: plan.stats(lengths).shapes; padding: empty rows too; again: an update whose "
        "shape is known",
        caption_justify="left",
        box=None,
    )
    shown.add_column("")
    headings = ("samples", "batches", "told", "compilations", "padding", "epoch", "again")
    for heading in headings:
        shown.add_column(heading, justify="right")
    for row in rows:
        name = f"{row['backend']}, {row['batching']}"
        if row["compilations"] is None:
            shown.add_row(name, str(row["samples"]), "", "", "took too long")
            continue
        again = row["seconds_without_compiling"]
        shown.add_row(
            name,
            str(row["samples"]),
            str(row["batches"]),
            str(row["told"]),
            str(row["compilations"]),
            f"{row['padding']:.1%}",
            f"{row['seconds']:.1f} s",
            "" if again is None else f"{1e3 * again:.1f} ms",
        )
    return shown


def told_table(rows: list[Row]) -> Table:
    shown = Table(
        title=f"What plans of {rows[0]['samples']:,} texts tell, {TOLD_MAX_TOKENS:,} tokens each",
        box=None,
    )
    shown.add_column("")
    for heading in ("batches", "compilations", "padding"):
        shown.add_column(heading, justify="right")
    for row in rows:
        cells = (f"{row['batches']:,}", f"{row['told']:,}", f"{row['padding']:.1%}")
        shown.add_row(row["batching"], *cells)
    return shown


def _about(backend: str, num_shapes: int | None, samples: int) -> Row:
    batching = "any shape" if num_shapes is None else f"Buckets({num_shapes})"
    return {"backend": backend, "batching": batching, "samples": samples}


if __name__ == "__main__":
    main()
