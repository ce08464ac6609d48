"""A peer beside us on the same lengths: two workers that take turns."""

import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import machine
from benchmarks.peers.measures import counted
from benchmarks.peers.roster import OURS, Peer
from benchmarks.peers.session import PeerError, Session, batches_of
from benchmarks.timing import Ratio

PREPARE = 600.0
"""Seconds in which a worker has to import its planner and load the lengths."""

GROWTH = 1.3
"""By how much more than the number of samples a time is expected to grow, at the least."""


@dataclass(frozen=True)
class Contest:
    """What is planned, by both.

    Attributes:
        lengths: The file of them.
        set_name: What tables call them.
        budget: Tokens of a batch or a row.
    """

    lengths: Path
    set_name: str
    budget: int

    @property
    def samples(self) -> int:
        """How many lengths there are."""
        return int(np.load(self.lengths, mmap_mode="r").size)


def series(
    peer: Peer, python: Path, contests: list[Contest], *, limit: float, folder: Path
) -> Iterator[dict[str, object]]:
    """Let a peer plan ever more samples of one set, until it takes too long.

    Args:
        peer: Who.
        python: The interpreter of its environment.
        contests: What, by rising number of samples.
        limit: Seconds that one plan may take.
        folder: Where workers may write.

    Yields:
        A row for each: figures of both, or why it was not run.
    """
    if not contests:
        return
    seen: list[tuple[int, float]] = []
    failed = None
    with sessions(peer, python, folder) as pair:
        for contest in contests:
            samples = contest.samples
            row = {"peer": peer.name, "kind": peer.kind, "lengths": contest.set_name}
            row["samples"] = samples
            reason = failed or _reason_against(peer, contest, seen, limit)
            if reason is None:
                try:
                    row |= duel(peer, pair, contest, limit=limit, folder=folder)
                except PeerError as error:
                    reason = f"{error}"
                    failed = f"{samples:,} samples: {reason}"
            if reason is not None:
                yield {**row, "not_run": reason}
                continue
            seconds = row["cpu_seconds"]
            if seen:
                row["growth"] = {
                    "samples": samples / seen[-1][0],
                    "seconds": seconds / seen[-1][1],
                }
            seen.append((samples, seconds))
            yield row


@contextmanager
def sessions(peer: Peer, python: Path, folder: Path) -> Iterator[dict[str, Session]]:
    """Open a worker of the peer and one of ours."""
    source = machine.REPOSITORY / "src"
    with (
        Session(python, peer.file, folder / f"{peer.name}.log", variables=peer.variables) as theirs,
        Session(
            sys.executable,
            OURS,
            folder / "batchwright.log",
            path=source,
            variables=peer.variables,
        ) as ours,
    ):
        yield {"theirs": theirs, "ours": ours}


def duel(
    peer: Peer, pair: Mapping[str, Session], contest: Contest, *, limit: float, folder: Path
) -> dict[str, object]:
    """Time a peer and us in turns, and count what both made.

    Raises:
        PeerError: If the peer fails or takes too long.
    """
    given = {"kind": peer.kind, "budget": contest.budget}
    settings = {"theirs": {**given, **peer.setting}, "ours": {**given, **peer.ours}}
    kept = {name: folder / f"{peer.name}-{name}.npz" for name in pair}
    versions = {
        name: session.prepare(contest.lengths, settings[name], limit=PREPARE)
        for name, session in pair.items()
    }
    # The first round finds memory as no later one does: it is the one whose peak counts.
    first = {name: session.plan(0, limit=limit, keep=kept[name]) for name, session in pair.items()}
    rounds = [
        {name: session.plan(turn, limit=limit) for name, session in pair.items()}
        for turn in range(rounds_for(first["theirs"]["seconds"]))
    ] or [first]
    lengths = np.load(contest.lengths)
    figures = {
        name: counted(lengths, *batches_of(path), kind=peer.kind, budget=contest.budget)
        for name, path in kept.items()
    }
    for path in kept.values():
        path.unlink()
    return {**_times(rounds), **_rest(first, figures), "versions": versions["theirs"]}


def rounds_for(seconds: float) -> int:
    """Choose how many rounds to take after the first; none where one is long."""
    return 0 if seconds > 10 else min(21, max(3, int(3 / seconds)))


def _times(rounds: list[Mapping[str, dict]]) -> dict[str, object]:
    cpu = {name: [each[name]["cpu_seconds"] for each in rounds] for name in ("theirs", "ours")}
    wall = sum(each[name]["seconds"] for each in rounds for name in cpu)
    return {
        "rounds": len(rounds),
        "cpu_seconds": statistics.median(cpu["theirs"]),
        "ours_cpu_seconds": statistics.median(cpu["ours"]),
        "ratio": asdict(Ratio.of(cpu["theirs"], cpu["ours"])),
        "at_work": round(min(1.0, sum(map(sum, cpu.values())) / wall), 3),
    }


def _rest(first: Mapping[str, dict], figures: Mapping[str, dict]) -> dict[str, object]:
    return {
        "peak_bytes": first["theirs"]["peak_bytes"],
        "ours_peak_bytes": first["ours"]["peak_bytes"],
        "figures": figures["theirs"],
        "ours_figures": figures["ours"],
    }


def _reason_against(
    peer: Peer, contest: Contest, seen: list[tuple[int, float]], limit: float
) -> str | None:
    """Say why there is no use in trying."""
    if peer.most_tokens is not None:
        tokens = int(np.load(contest.lengths, mmap_mode="r").sum())
        if tokens > peer.most_tokens:
            return f"it would hold {tokens / 1e6:,.0f} million tokens in memory"
    if not seen:
        return None
    samples, seconds = seen[-1]
    more = contest.samples / samples
    growth = GROWTH
    if len(seen) > 1:
        growth = max(growth, seconds / seen[-2][1] / (samples / seen[-2][0]))
    expected = seconds * more * growth
    if expected > limit:
        return f"expected to take {expected:.0f} s, more than the limit of {limit:.0f} s"
    return None
