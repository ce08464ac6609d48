"""Plans data in shards that no file holds, as every rank of a cluster does, and checks each batch.

\b
python -m benchmarks.shards                                10⁸ samples in 1,000 shards, 64 ranks
python -m benchmarks.shards --shards 1_000 --shards 10_000    10⁹ too
python -m benchmarks.shards --quick                        10⁶ samples in 96 shards, writes nothing

Every shard has 100,000 samples, whose lengths are drawn again whenever the shard is opened; the
index has their histograms. A cluster has 8 ranks a node. Each step runs in a process of its own:
plan, and ask for all batches of one rank; then all batches of all ranks, each sample counted, and
the shards that a node has open together; then padding and the mix of lengths, for the cluster and
at 32 batches an update. Of more than 10⁸ samples the second step goes through one node in so many,
and the last is left out. Private memory is the most that a process had for itself. Linux only.

Exit code 1 if a plan is wrong.
"""

import functools
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.table import Table

import batchwright as bw
from batchwright.batching.cut import offsets_of
from batchwright.index import counted
from batchwright.shard_index import ShardIndex
from benchmarks import machine
from benchmarks.reporting import output_path, table_console, write_result
from benchmarks.scale import in_own_process, private_bytes

SIZE = 100_000
BUDGET = 16_384
RANKS, RANKS_PER_NODE = 64, 8
BATCHES_OF_AN_UPDATE = 32
OPEN = 8  # in a group: twice as many while one follows another
TOGETHER = 64
CHECKED_WHOLE = 100_000_000

Figures = dict[str, Any]
Say = Callable[[str], object]

TARGETS: dict[str, tuple[str, float, bool]] = {
    "planner_seconds": ("planner, s", 2, False),
    "rank_private_mb": ("a rank, private MB", 200, False),
    "open_shards": ("shards open on a node", 16, False),
    "efficiency": ("efficiency", 0.99, True),
    "dispersion": ("length mix, 32 batches an update", 0.5, False),
}
"""Figure → what tables call it, its target, and whether more is better."""


@dataclass(frozen=True)
class DrawnRows:
    """The rows of shards whose lengths are drawn when they are asked for."""

    size: int

    def lengths(self, shard: int) -> npt.NDArray[np.uint16]:
        """Draw the lengths of a shard: of texts in some, and of longer ones in others."""
        rng = np.random.default_rng([shard, 3])
        drawn = rng.lognormal(5.5 + rng.normal(0, 0.2), 0.9, self.size)
        return drawn.clip(1, 2_048).astype(np.uint16)

    def __call__(self, shard: int) -> npt.NDArray[np.uint32]:
        """Return the rows of a shard, from long to short."""
        keys = np.uint16(2_048) - self.lengths(shard)
        return np.argsort(keys, kind="stable").astype(np.uint32)


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--shards", type=int, multiple=True, default=[1_000], help="How many; repeatable.")
@click.option("--quick", is_flag=True, help="96 shards of 10,000 samples.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
def main(*, shards: tuple[int, ...], quick: bool, output: Path | None) -> None:
    """Run all steps for each number of shards, print a table, write the result."""
    if not Path("/proc/self/status").exists():
        message = "private memory is read from /proc, which this system has not (Linux does)."
        raise click.UsageError(message)
    with machine.one_core() as pinned:
        cases = [(96, SIZE // 10)] if quick else [(number, SIZE) for number in shards]
        rows = [measured(*case) for case in cases]
    table_console().print(table(rows))
    target = output_path("shards", output, quick=quick)
    if target is not None:
        options = ["--quick"] if quick else [f"--shards {number:_}" for number in shards]
        command = " ".join(["python -m benchmarks.shards", *options])
        write_result(target, command, {"one_core": pinned, "rows": rows})
    sys.exit(int(not all(row["each_sample_once"] for row in rows)))


def measured(shards: int, size: int) -> Figures:
    """Run all steps, each in a process of its own."""
    figures: Figures = {"samples": shards * size, "shards": shards}
    for step in (plan, check, mix):
        run = functools.partial(in_turn, step, shards, size)
        found, private = in_own_process(run, shards * size, Path())
        if step is plan:
            found["rank_private_mb"] = private / 1e6
        for key, figure in found.items():
            click.echo(f"  {key}: {figure}", err=True)
        figures |= found
    return figures


def in_turn(
    step: Callable[[ShardIndex, Say], Figures], shards: int, size: int, _: Path, say: Say
) -> Figures:
    """Draw the index, and run a step with it."""
    say("drawing histograms")
    return step(drawn_index(shards, size), say)


def drawn_index(shards: int, size: int) -> ShardIndex:
    """Count the lengths of all shards, as footers of their index files say."""
    rows = DrawnRows(size)
    found = [counted(rows.lengths(shard)) for shard in range(shards)]
    return ShardIndex(
        tuple(f"shard-{shard:06d}" for shard in range(shards)),
        np.full(shards, size),
        offsets_of([values.size for values, _ in found]),
        np.concatenate([values for values, _ in found]).astype(np.uint32),
        np.concatenate([counts for _, counts in found]).astype(np.uint32),
        rows,
        f"drawn {shards} {size}",
    )


def planner_of(index: ShardIndex, world_size: int) -> bw.Planner:
    """Plan as every rank of a cluster does."""
    order = bw.Blocks(open_blocks=OPEN, ranks_per_node=RANKS_PER_NODE)
    return bw.Planner(index, max_tokens=BUDGET, order=order, world_size=world_size)


def plan(index: ShardIndex, say: Say) -> Figures:
    """Plan, and go through the epoch of one rank."""
    base = private_bytes(os.getpid())
    say("making a planner")
    start = time.perf_counter()
    planner = planner_of(index, RANKS)
    planner_seconds = time.perf_counter() - start
    start = time.perf_counter()
    own = planner(1).shard(RANKS // 2, RANKS)
    epoch_ms = 1e3 * (time.perf_counter() - start)
    say("asking for the batches of a rank")
    start = time.perf_counter()
    for low in range(0, len(own), TOGETHER):
        own[low : low + TOGETHER].batches.arrays()
    return {
        "planner_seconds": planner_seconds,
        "epoch_ms": epoch_ms,
        "batches": len(planner),
        "tokens": float(index.values @ index.counts.astype(np.float64)),
        "base_mb": (base - index.values.nbytes - index.counts.nbytes) / 1e6,
        "index_mb": (index.values.nbytes + index.counts.nbytes) / 1e6,
        "block_us": 1e6 * (time.perf_counter() - start) / len(own),
        "rank_seconds": time.perf_counter() - start,
    }


def check(index: ShardIndex, say: Say) -> Figures:
    """Count each sample over all ranks, and the shards that a node has open together."""
    whole = planner_of(index, RANKS)(1)
    nodes = RANKS // RANKS_PER_NODE
    every = max(1, -(-index.num_samples // CHECKED_WHOLE))
    seen = np.zeros(index.num_samples, dtype=np.uint8)
    most = 0
    for node in range(0, nodes, every):
        say(f"checking all batches of node {node + 1} of {nodes}")
        own = [whole.shard(rank, RANKS) for rank in range(node * 8, node * 8 + RANKS_PER_NODE)]
        for low in range(0, len(own[0]), TOGETHER):
            found = [each[low : low + TOGETHER].batches.arrays() for each in own]
            samples = np.concatenate([each.indices for each in found])
            np.add.at(seen, samples, 1)
            most = max(most, np.unique(index.locate(samples)[:, 0]).size)
    once = bool((seen == 1).all()) if every == 1 else bool((seen <= 1).all())
    return {"each_sample_once": once, "open_shards": most, "nodes_checked": -(-nodes // every)}


def mix(index: ShardIndex, say: Say) -> Figures:
    """Measure padding, and how even updates are: of the cluster, and of 32 batches."""
    if index.num_samples > CHECKED_WHOLE:
        return {}
    found: Figures = {}
    for world_size in (RANKS, BATCHES_OF_AN_UPDATE):
        say(f"measuring updates of {world_size} batches")
        stats = planner_of(index, world_size)(1).stats(index)
        facts = {
            "efficiency": stats.efficiency,
            "largest_batch": stats.max_batch_tokens,
            "dispersion": stats.dispersion,
        }
        found |= facts if world_size == BATCHES_OF_AN_UPDATE else {"cluster": facts}
    return found


def table(rows: list[Figures]) -> Table:
    """Show figures beside their targets."""
    made = Table()
    made.add_column("", justify="left")
    for row in rows:
        made.add_column(f"{row['samples']:,} samples, {row['shards']:,} shards", justify="right")
    made.add_column("target", justify="right")
    for key, (name, target, is_least) in TARGETS.items():
        cells = [f"{row[key]:.3g}" if key in row else "–" for row in rows]
        made.add_row(name, *cells, f"{'≥' if is_least else '≤'} {target:g}")
    once = ["yes" if row["each_sample_once"] else "NO" for row in rows]
    made.add_row("each sample once over all ranks", *once, "yes")
    return made


if __name__ == "__main__":
    main()
