"""Plans 10⁸ samples, as arrays: how long it takes, how much memory, and whether all is right.

\b
python -m benchmarks.hundred_million                          int32 lengths, padded batches
python -m benchmarks.hundred_million --dtype int64            8 bytes a length
python -m benchmarks.hundred_million --batching packing       rows without padding
python -m benchmarks.hundred_million --quick                  10⁶ samples, writes nothing

Both options may be repeated; each combination runs in a process of its own. Memory is counted
from the moment the lengths are there: the most that was resident while planning, less what was
resident before. The plan is checked after that, so the checks' own memory does not count.
Linux only: the peak is read from /proc.

Exit code 1 if a plan is wrong or takes more than 40 bytes a sample.
"""

import itertools
import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import batchwright as bw
from batchwright.typing import Batching
from benchmarks import machine
from benchmarks.length_sets import TEXT
from benchmarks.plain_measures import tokens_laid_out, uses_every_sample_once
from benchmarks.reporting import output_path, table_console, write_result

SAMPLES = 100_000_000
MOST_BYTES = 40  # a sample, over the lengths
CHECKS_BYTES = 12  # a sample: the finished plan, and what the checks need

BATCHINGS: dict[str, Batching] = {
    "token-budget": bw.TokenBudget(16_384),
    "packing": bw.Packing(8_192),
}
DTYPES = ("uint16", "int32", "int64")


def many(name: str, choices: tuple[str, ...], default: str, text: str) -> click.Option:
    return click.option(
        name, type=click.Choice(choices), multiple=True, default=[default], help=text
    )


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@many("--dtype", DTYPES, "int32", "Type of the lengths; repeatable.")
@many("--batching", tuple(BATCHINGS), "token-budget", "What is planned; repeatable.")
@click.option("--quick", is_flag=True, help="Plan a hundredth of the samples.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
def main(
    *, dtype: tuple[str, ...], batching: tuple[str, ...], quick: bool, output: Path | None
) -> None:
    """Plan, measure, check; print a table, write the result."""
    if not Path("/proc/self/clear_refs").exists():
        message = "the peak of memory is read from /proc, which this system has not (Linux does)."
        raise click.UsageError(message)
    samples = SAMPLES // 100 if quick else SAMPLES
    with machine.one_core() as pinned:
        rows = [
            in_own_process(samples, *case)
            for case in itertools.product(batching, dict.fromkeys(dtype))
        ]
    table_console().print(table(rows))
    target = output_path("hundred_million", output, quick=quick)
    if target is not None:
        given = [f"--dtype {each}" for each in dtype] + [f"--batching {each}" for each in batching]
        command = " ".join(["python -m benchmarks.hundred_million", *given, *(["--quick"] * quick)])
        write_result(target, command, {"one_core": pinned, "most_bytes": MOST_BYTES, "rows": rows})
    sys.exit(int(not all(row["kept"] for row in rows)))


def in_own_process(samples: int, batching: str, dtype: str) -> dict[str, object]:
    """Measure one case in a fresh process, and show meanwhile what it is at."""
    needed = samples * (np.dtype(dtype).itemsize + MOST_BYTES + CHECKS_BYTES)
    available = machine.available_bytes()
    if available is not None and available < needed:
        message = f"{needed / 2**30:.1f} GiB needed, {available / 2**30:.1f} GiB are free."
        raise click.ClickException(message)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=report, args=(sender, samples, batching, dtype))
    with Console(stderr=True).status("") as status:
        process.start()
        sender.close()
        start = time.monotonic()
        stage = ""
        while True:
            status.update(
                f"{samples:,} {dtype} lengths, {batching}: {stage}, "
                f"{time.monotonic() - start:.0f} s"
            )
            try:
                if not receiver.poll(1.0):
                    continue
                message = receiver.recv()
            except EOFError:
                process.join()
                text = f"the process ended with code {process.exitcode}; -9 means out of memory."
                raise click.ClickException(text) from None
            if isinstance(message, dict):
                process.join()
                return message
            stage = message


def report(sender: Connection, samples: int, batching: str, dtype: str) -> None:
    """Run in the other process: send each stage's name, and in the end the figures."""
    sender.send(measured(samples, batching, dtype, say=sender.send))


def measured(
    samples: int, batching: str, dtype: str, *, say: Callable[[str], object]
) -> dict[str, object]:
    """Plan once and take the figures."""
    chosen = BATCHINGS[batching]
    say("making lengths")
    lengths = TEXT.draw(samples, dtype=dtype)
    before = resident_bytes("VmRSS")
    reset_peak()

    say("planning")
    start = time.perf_counter()
    plan = bw.plan(lengths, batching=chosen, world_size=8, accumulate=4)
    plan_bytes = plan.indices.nbytes + plan.offsets.nbytes  # made when they are asked for
    seconds = time.perf_counter() - start
    peak = resident_bytes("VmHWM") - before

    say("checking each sample")
    once = uses_every_sample_once(plan, samples)
    say("checking each batch")
    laid_out = tokens_laid_out(plan, lengths)
    largest, tokens = int(laid_out.max()), int(lengths.sum(dtype=np.int64))
    right = once and largest <= chosen.layout.budget

    say("a plain shuffle, to compare")
    start = time.perf_counter()
    np.random.default_rng(0).permutation(samples)
    shuffle_seconds = time.perf_counter() - start
    return {
        "samples": samples,
        "dtype": dtype,
        "batching": repr(chosen),
        "batches": len(plan),
        "seconds": round(seconds, 3),
        "permutation_seconds": round(shuffle_seconds, 3),
        "input_bytes": lengths.nbytes,
        "plan_bytes": plan_bytes,
        "peak_bytes": peak,
        "peak_bytes_per_sample": round(peak / samples, 2),
        "efficiency": tokens / int(laid_out.sum()),
        "each_sample_once": once,
        "largest_batch": largest,
        "right": right,
        "kept": right and peak <= MOST_BYTES * samples,
    }


def resident_bytes(name: str) -> int:
    """Read VmRSS (resident now) or VmHWM (the most since the last reset) of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    message = f"/proc/self/status has no {name}"
    raise OSError(message)


def reset_peak() -> None:
    """Let the peak of resident memory count from now on."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("5")


def table(rows: list[dict]) -> Table:
    """Lay rows out."""
    out = Table(
        title="Planning in memory, one core, 8 ranks × 4",
        caption=f"peak: over the lengths, at most {MOST_BYTES} bytes a sample are allowed",
    )
    headings = ("samples", "lengths", "batching", "seconds", "× permutation", "peak", "a sample")
    for heading in (*headings, "right", "verdict"):
        out.add_column(heading, justify="left" if heading in {"batching", "lengths"} else "right")
    for row in rows:
        out.add_row(
            f"{row['samples']:,}",
            row["dtype"],
            row["batching"].partition("(")[0],
            f"{row['seconds']:.1f}",
            f"{row['seconds'] / row['permutation_seconds']:.2f}",
            f"{row['peak_bytes'] / 2**30:.2f} GiB",
            f"{row['peak_bytes_per_sample']:.1f} bytes",
            "yes" if row["right"] else "no",
            "kept" if row["kept"] else "missed",
        )
    return out


if __name__ == "__main__":
    main()
