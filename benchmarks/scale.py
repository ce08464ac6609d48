"""Plans up to 10⁹ samples from a memory-mapped file of lengths, and checks every batch.

\b
python -m benchmarks.scale                                          10⁸ lengths, 0.6 GB of disk
python -m benchmarks.scale --samples 100_000_000 --samples 1_000_000_000    10⁹ too, 6 GB of disk
python -m benchmarks.scale --quick                                  10⁶, writes nothing

Lengths are drawn into a file of 16-bit integers, in a temporary folder. Each step runs in a process
of its own, which maps the files: build the index, plan as a rank does, check that every sample is
in one batch and no batch above the budget, resume under another number of ranks. Private memory is
the most that a process had for itself (RssAnon, read from /proc while it runs): not the pages
of the files, which all processes share. Times beside a target are of the processor. Linux only.

Exit code 1 if a plan is wrong.
"""

import functools
import itertools
import json
import multiprocessing
import pickle
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table
from rich.text import Text

import batchwright as bw
from benchmarks import machine
from benchmarks.length_sets import TEXT
from benchmarks.reporting import output_path, table_console, write_result

SAMPLES = 100_000_000
BUDGET = 16_384
BATCHING = bw.TokenBudget(BUDGET)
RANKS, ACCUMULATE = 8, 4
OTHER_RANKS = 12
TOGETHER = 64
COMPARED = 40  # batches of each rank, after resuming
CHECKED = 1 << 12  # batches that are checked together
MOST_MEMORY = 1 << 31  # while a plan is saved: as arrays it may be too large
POLL = 0.02  # seconds

Say = Callable[[str], object]
Figures = dict[str, Any]
Step = Callable[[Path, Say], Figures]

TARGETS: dict[str, tuple[str, float]] = {
    "index_cpu_seconds": ("index, CPU seconds", 90),
    "index_private_mb": ("index, private MB", 200),
    "rank_private_mb": ("a rank, private MB", 200),
    "epoch_ms": ("planner(epoch), ms", 0.1),
    "batch_us": ("plan[b], µs", 40),
    "block_us": ("plan[b] in blocks of 64, µs", 4),
    "pickled_mb": ("pickled plan, MB", 1),
    "saved_mb": ("saved plan, MB", 1),
    "state_bytes": ("state, bytes", 1_000),
    "resume_ms": ("resume with other ranks, ms", 50),
}
"""Figure → what tables call it, and the most that it should be."""


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--samples", type=int, multiple=True, default=[SAMPLES], help="How many; repeatable.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the temporary folder is made.",
)
@click.option("--quick", is_flag=True, help="Plan 10⁶ samples.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
def main(
    *, samples: tuple[int, ...], folder: Path | None, quick: bool, output: Path | None
) -> None:
    """Run all steps for each number of samples, print a table, write the result."""
    if not Path("/proc/self/status").exists():
        message = "private memory is read from /proc, which this system has not (Linux does)."
        raise click.UsageError(message)
    sizes = (SAMPLES // 100,) if quick else samples
    with machine.one_core() as pinned:
        rows = [measured(size, folder) for size in sizes]
    table_console().print(table(rows))
    target = output_path("scale", output, quick=quick)
    if target is not None:
        options = ["--quick"] if quick else [f"--samples {size:_}" for size in samples]
        command = " ".join(["python -m benchmarks.scale", *options])
        write_result(target, command, {"one_core": pinned, "rows": rows})
    sys.exit(int(not all(row["right"] for row in rows)))


def measured(samples: int, folder: Path | None) -> Figures:
    """Run all steps, each in a process of its own; the files are removed at the end."""
    with tempfile.TemporaryDirectory(prefix="batchwright-", dir=folder) as name:
        free, needed = shutil.disk_usage(name).free, 7 * samples
        if free < needed:
            message = f"{needed / 2**30:.1f} GiB of disk needed, {free / 2**30:.1f} GiB are free."
            raise click.ClickException(message)
        figures: Figures = {"samples": samples}
        for step in (functools.partial(draw, samples), index, plan, check, resume):
            found, private = in_own_process(step, samples, Path(name))
            if step in {index, plan}:
                found[f"{'index' if step is index else 'rank'}_private_mb"] = private / 1e6
            for key, figure in found.items():  # all of them are kept only when the last is known
                click.echo(f"  {key}: {figure}", err=True)
            figures |= found
    right = figures["each_sample_once"] and figures["largest_batch"] <= BUDGET
    return {**figures, "right": right and figures["same_order"]}


def in_own_process(step: Step, samples: int, folder: Path) -> tuple[Figures, int]:
    """Run a step in a fresh process; return its figures and the most private bytes that it had."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=report, args=(sender, step, folder), daemon=True)
    process.start()
    sender.close()
    start, most = time.monotonic(), 0
    while True:
        most = max(most, private_bytes(process.pid))
        try:
            if not receiver.poll(POLL):
                continue
            message = receiver.recv()
        except EOFError:
            process.join()
            text = f"the process ended with code {process.exitcode}; -9 means out of memory."
            raise click.ClickException(text) from None
        if isinstance(message, dict):
            process.join()
            return message, most
        elapsed = time.monotonic() - start
        click.echo(f"{samples:,} samples, {elapsed:6.1f} s: {message}", err=True)


def report(sender: Connection, step: Step, folder: Path) -> None:
    """Run in the other process: send what it is at, and in the end the figures."""
    try:
        sender.send(step(folder, sender.send))
    except KeyboardInterrupt:  # the first process says so
        sys.exit(1)


def draw(samples: int, folder: Path, say: Say) -> Figures:
    """Draw the lengths into a file."""
    say("drawing lengths")
    shape = (samples,)
    lengths = np.lib.format.open_memmap(folder / "lengths.npy", "w+", np.dtype(np.uint16), shape)
    blocks = TEXT.fill(lengths)
    for number, drawn in enumerate(blocks):
        if is_tenth(number, samples >> 20):
            say(f"drew {drawn:,} lengths")
    lengths.flush()
    return {}


def index(folder: Path, say: Say) -> Figures:
    """Build the index into a file."""
    say("building the index")
    lengths = np.load(folder / "lengths.npy", mmap_mode="r")
    start, cpu = time.perf_counter(), time.process_time()
    built = bw.LengthIndex.build(lengths, folder / "lengths.index")
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - start
    say(f"built the index in {seconds:.1f} s, {cpu:.1f} s of the processor: {built!r:.60}")
    size = (folder / "lengths.index").stat().st_size
    return {"index_cpu_seconds": cpu, "index_seconds": seconds, "index_bytes": size}


def plan(folder: Path, say: Say) -> Figures:
    """Plan as a rank does: from the index alone."""
    say("making a planner from the index")
    start = time.perf_counter()
    planner = planner_of(folder, RANKS)
    planner_seconds = time.perf_counter() - start
    epochs = [timed(functools.partial(planner, epoch)) for epoch in range(20)]
    one = planner(1)
    numbers = np.random.default_rng(0).integers(0, len(one) - TOGETHER, 2_000).tolist()
    first = timed(lambda: one[numbers[0]])
    for number in numbers:  # so that the pages of the file are in memory
        _ = one[number]
    say("asking for batches")
    alone = [timed(functools.partial(one.__getitem__, number)) for number in numbers]
    blocks = [
        timed(lambda number=number: one[number : number + TOGETHER].indices)
        for number in numbers[:400]
        for _ in range(2)
    ][1::2]
    say("saving the plan")
    return {
        "planner_seconds": planner_seconds,
        "batches": len(one),
        "epoch_ms": statistics.median(epochs) * 1e3,
        "first_batch_us": first * 1e6,
        "batch_us": statistics.median(alone) * 1e6,
        "block_us": statistics.median(blocks) / TOGETHER * 1e6,
        "pickled_mb": len(pickle.dumps(one)) / 1e6,
        "saved_mb": saved_mb(one, folder / "plan.safetensors"),
    }


def saved_mb(one: bw.Plan, path: Path) -> float | None:
    """Return the size of a saved plan. None: it would take too much memory."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, before[1]))
    try:
        one.save(path)
    except MemoryError:
        return None
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    return path.stat().st_size / 1e6


def check(folder: Path, say: Say) -> Figures:
    """Go through every batch once: tick its samples off, and measure it."""
    say("checking every batch")
    lengths = np.load(folder / "lengths.npy", mmap_mode="r")
    whole = planner_of(folder, RANKS)(0)
    seen, entries, largest, laid_out = np.zeros(lengths.size, dtype=bool), 0, 0, 0
    start = time.perf_counter()
    blocks = range(0, len(whole), CHECKED)
    for first in blocks:
        if is_tenth(first // CHECKED, len(blocks)):
            say(f"checked {first / len(whole):.0%} of {len(whole):,} batches")
        block = whole[first : first + CHECKED]
        seen[block.indices] = True
        entries += block.indices.size
        longest = np.maximum.reduceat(lengths[block.indices], block.offsets[:-1])
        tokens = longest.astype(np.int64) * block.sizes
        largest, laid_out = max(largest, int(tokens.max())), laid_out + int(tokens.sum())
    seconds = time.perf_counter() - start
    real = sum(int(part.sum(dtype=np.int64)) for part in np.array_split(lengths, 64))
    return {
        "check_seconds": seconds,
        "each_sample_once": bool(seen.all()) and entries == lengths.size,
        "largest_batch": largest,
        "efficiency": real / laid_out,
    }


def resume(folder: Path, say: Say) -> Figures:
    """Stop in the middle of an epoch with some ranks, and go on with more."""
    from batchwright.torch import PlanBatchSampler

    say("resuming")
    planner = planner_of(folder, RANKS)
    consumed = len(planner) // RANKS // ACCUMULATE // 2 * ACCUMULATE
    saved = PlanBatchSampler(planner, rank=0, world_size=RANKS)
    next(iter(saved))
    state = json.dumps(saved.state_after(consumed))
    other = planner_of(folder, OTHER_RANKS)
    ranks = [
        PlanBatchSampler(other, rank=rank, world_size=OTHER_RANKS) for rank in range(OTHER_RANKS)
    ]
    batches, seconds = [], []
    for each in ranks:
        start = time.process_time()
        each.load_state_dict(json.loads(state))
        iterator = iter(each)
        first = next(iterator)
        seconds.append(time.process_time() - start)
        batches.append([first, *itertools.islice(iterator, COMPARED - 1)])
    dealt = [sample for turn in zip(*batches, strict=True) for batch in turn for sample in batch]
    start = consumed * RANKS
    expected = planner(0)[start : start + 2 * OTHER_RANKS * COMPARED].indices
    return {
        "state_bytes": len(state),
        "resume_ms": statistics.median(seconds) * 1e3,
        "resume_ms_most": max(seconds) * 1e3,
        "same_order": dealt == expected[: len(dealt)].tolist(),
    }


def planner_of(folder: Path, ranks: int) -> bw.Planner:
    """Make a planner from the index."""
    opened = bw.LengthIndex.open(folder / "lengths.index")
    return bw.Planner(opened, batching=BATCHING, world_size=ranks, accumulate=ACCUMULATE)


def private_bytes(process: int | None) -> int:
    """Read how much memory a process has for itself; 0 if it has ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    lines = (line.split() for line in text.splitlines() if line.startswith("RssAnon:"))
    return next((int(line[1]) * 1024 for line in lines), 0)


def timed(call: Callable[[], object]) -> float:
    """Return the seconds of the processor that a call takes."""
    start = time.process_time()
    result = call()
    elapsed = time.process_time() - start
    del result
    return elapsed


def is_tenth(number: int, total: int) -> bool:
    """Choose about ten of so many steps, to report."""
    return number % max(1, total // 10) == 0


def table(rows: list[Figures]) -> Table:
    """Lay figures out beside their targets, a column for each number of samples."""
    out = Table(title=f"TokenBudget({BUDGET:,}), one core, {RANKS} ranks × {ACCUMULATE}")
    out.add_column("")
    out.add_column("at most", justify="right")
    for row in rows:
        out.add_column(f"{row['samples']:,}", justify="right")
    for name, (title, most) in TARGETS.items():
        shown = ("not measured" if row[name] is None else f"{row[name]:,.3g}" for row in rows)
        out.add_row(Text(title), f"{most:,}", *shown)
    out.add_section()
    for name, title in (
        ("each_sample_once", "each sample once"),
        ("largest_batch", f"largest batch of {BUDGET:,}"),
        ("efficiency", "efficiency"),
        ("same_order", "same order after resuming"),
        ("index_seconds", "index, seconds"),
        ("planner_seconds", "planner, seconds"),
        ("check_seconds", "checking all batches, seconds"),
    ):
        out.add_row(title, "", *(_shown(row[name]) for row in rows))
    return out


def _shown(figure: float) -> str:
    if isinstance(figure, bool):
        return "yes" if figure else "no"
    return f"{figure:,}" if isinstance(figure, int) else f"{figure:,.6g}"


if __name__ == "__main__":
    main()
