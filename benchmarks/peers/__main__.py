"""Other libraries' planners beside ours, on the same lengths: time, memory, and what comes out.

\b
python -m benchmarks.peers                    all; a quarter of an hour
python -m benchmarks.peers --quick            10⁴ lengths each
python -m benchmarks.peers --only trl         one of them; repeat the option for more

Each runs at a pinned version in an environment of its own, which is made under build/peers when it
is first needed. One core; a peer and ours take turns, each in a worker process of the same kind.
Times are of the processor. What a plan loses, repeats or overruns is counted from its batches.
"""

import itertools
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

import batchwright as bw
from benchmarks import machine
from benchmarks.peers.contest import Contest, series
from benchmarks.peers.environments import NotInstalledError, python_of
from benchmarks.peers.length_files import LENGTHS, LengthSet
from benchmarks.peers.page import TITLES, cells
from benchmarks.peers.roster import NOT_RUN, PEERS, Peer
from benchmarks.reporting import (
    output_path,
    progress_bar,
    warn_if_disturbed,
    write_result,
)

QUICK = 10_000

LIMIT = 60.0
"""Seconds that a plan may take, unless another limit is asked for."""

WIDTH = 160
"""Characters of a table that goes into a file."""


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Plan 10⁴ lengths of one set, write no result.")
@click.option("--largest", type=int, help="Plan at most so many lengths; writes no result.")
@click.option(
    "--only",
    type=click.Choice([peer.name for peer in PEERS]),
    multiple=True,
    help="These peers; writes no result.",
)
@click.option("--limit", default=LIMIT, show_default=True, help="Seconds that a plan may take.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
def main(
    *,
    quick: bool,
    largest: int | None,
    only: tuple[str, ...],
    limit: float,
    output: Path | None,
) -> None:
    """Run all peers, print a table of each kind, write the result."""
    peers = [peer for peer in PEERS if not only or peer.name in only]
    pythons, absent = environments(peers)
    present = [peer for peer in peers if peer.environment in pythons]
    with machine.one_core() as pinned, tempfile.TemporaryDirectory() as folder:
        sets = LENGTHS[:1] if quick else LENGTHS
        most = largest or (QUICK if quick else math.inf)
        rows = list(contested(present, pythons, sets, Path(folder), most=most, limit=limit))
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for kind, title in TITLES.items():
        ran = [row for row in rows if row["kind"] == kind and "not_run" not in row]
        if ran:
            console.print(table(title, ran))
    for row in rows:
        if "not_run" in row:
            sample = f"{row['peer']}, {row['lengths']}, {row['samples']:,} samples"
            console.print(f"{sample}: not run, {row['not_run']}", highlight=False)
    for title, reason in absent.items():
        console.print(f"{title}: {reason}")
    warn_if_disturbed(row["at_work"] for row in rows if "at_work" in row)
    target = output_path("peers", output, quick=quick or bool(only or largest))
    if target is not None:
        options = [
            *(["--quick"] * quick),
            *([f"--largest {largest}"] if largest else []),
            *(f"--only {name}" for name in only),
            *([f"--limit {limit:g}"] if limit != LIMIT else []),
        ]
        result = {
            "one_core": pinned,
            "limit_seconds": limit,
            "batchwright": bw.__version__,
            "budgets": {
                each.name: {"padded": each.max_tokens, "packed": each.capacity} for each in LENGTHS
            },
            "rows": rows,
            "not_run": absent,
        }
        write_result(target, " ".join(["python -m benchmarks.peers", *options]), result)


def environments(peers: list[Peer]) -> tuple[dict[str, Path], dict[str, str]]:
    """Make what environments the peers need; return their interpreters, and who has none."""
    pythons: dict[str, Path] = {}
    absent = dict(NOT_RUN)
    for name in dict.fromkeys(peer.environment for peer in peers):
        click.echo(f"environment {name} …", err=True)
        try:
            pythons[name] = python_of(name)
        except NotInstalledError as error:
            titles = [peer.title for peer in peers if peer.environment == name]
            absent |= dict.fromkeys(titles, f"not installed: {error}")
    return pythons, absent


def contested(
    peers: list[Peer],
    pythons: dict[str, Path],
    sets: tuple[LengthSet, ...],
    folder: Path,
    *,
    most: float,
    limit: float,
) -> Iterator[dict[str, object]]:
    """Let each peer plan each set; a row for each size of it."""
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(peers) * len(sets))
        for peer in peers:
            for lengths in sets:
                progress.update(bar, description=f"{peer.title}, {lengths.name}", refresh=True)
                contests = [
                    Contest(lengths.file(size, folder), lengths.name, lengths.budget(peer.kind))
                    for size in sizes_for(peer, lengths, most)
                ]
                python = pythons[peer.environment]
                yield from series(peer, python, contests, limit=limit, folder=folder)
                progress.update(bar, advance=1, refresh=True)


def sizes_for(peer: Peer, lengths: LengthSet, most: float) -> list[int | None]:
    """Choose how many samples to plan; None is all of a real set."""
    if peer.sizes is None and lengths.draw is None:
        return [None]
    if peer.sizes is None:
        return [size for size in lengths.sizes if size <= most]
    # One set is enough where the number of samples is chosen for the peer.
    return [size for size in peer.sizes if size <= most] if lengths is LENGTHS[0] else []


def table(title: str, rows: list[dict]) -> Table:
    """Lay out what was run of one kind."""
    out = Table(title=title, caption="two figures: peer / ours; ×: their time over ours")
    titles = {peer.name: peer.title for peer in PEERS}
    for number, heading in enumerate(("", *cells(rows[0]))):
        out.add_column(heading, justify="right" if number else "left", no_wrap=number > 0)
    for name, group in itertools.groupby(rows, key=lambda row: row["peer"]):
        out.add_section()
        out.add_row(titles[name], style="bold")
        for row in group:
            out.add_row(f"  {row['lengths']}", *cells(row).values())
    return out


if __name__ == "__main__":
    main()
