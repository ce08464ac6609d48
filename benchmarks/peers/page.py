"""Write ``docs/peers.md`` from the result file, so that it says nothing that was not measured.

python -m benchmarks.peers.page            write it
python -m benchmarks.peers.page --check    say whether it is that of the file; exit code 1 if not
"""

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks import machine
from benchmarks.peers.roster import PEERS, Peer
from benchmarks.reporting import RESULTS

PAGE = machine.REPOSITORY / "docs" / "peers.md"

TITLES = {
    "padded": "Padded batches",
    "packed": "Packed rows",
    "balance": "Balance among ranks",
}

SAME = 0.0005
"""Efficiencies that differ by less are called the same."""

Facts = Mapping[str, Any]


def cells(row: Facts) -> dict[str, str]:
    """Return heading → text of a row of a table; two figures are the peer's and ours."""
    theirs, ours = row["figures"], row["ours_figures"]
    out = {
        "samples": f"{row['samples']:,}",
        "time": f"{_seconds(row['cpu_seconds'])} / {_seconds(row['ours_cpu_seconds'])}",
        "×": f"{row['ratio']['median']:,.1f}",
    }
    if row["kind"] == "balance":
        out["max ÷ mean"] = f"{theirs['imbalance']:.5f} / {ours['imbalance']:.5f}"
    else:
        out["efficiency"] = f"{theirs['efficiency']:.5f} / {ours['efficiency']:.5f}"
        out["max ÷ budget"] = f"{theirs['overrun']:.3f}"
        out["batches"] = f"{theirs['batches']:,} / {ours['batches']:,}"
    out["lost, twice"] = f"{theirs['lost']:,}, {theirs['twice']:,}"
    if row["kind"] == "padded":
        mixes = [figures.get("dispersion") for figures in (theirs, ours)]
        out["mix"] = "" if None in mixes else " / ".join(f"{mix:,.2f}" for mix in mixes)
    out["MB"] = f"{row['peak_bytes'] / 1e6:,.0f} / {row['ours_peak_bytes'] / 1e6:,.0f}"
    return out


def page(facts: Facts) -> str:
    """Return the page as Markdown."""
    rows = facts["rows"]
    parts = [_HEAD.format(**_sources(facts)).strip()]
    for kind, title in TITLES.items():
        peers = [peer for peer in PEERS if peer.kind == kind]
        of_kind = [row for row in rows if row["kind"] == kind]
        if not of_kind:
            continue
        parts.append(f"## {title}\n\n{_EXPLAINED[kind]}")
        parts += [
            _table_of(lengths, [row for row in of_kind if row["lengths"] == lengths])
            for lengths in dict.fromkeys(row["lengths"] for row in of_kind)
        ]
        parts += [
            about(peer, [row for row in of_kind if row["peer"] == peer.name]) for peer in peers
        ]
    absent = "\n".join(f"- {title}: {reason}." for title, reason in facts["not_run"].items())
    if absent:
        parts.append(f"## Not compared\n\n{absent}")
    return "\n\n".join(part for part in parts if part) + "\n"


def about(peer: Peer, rows: list[Facts]) -> str:
    """Say of one peer what was run, what was seen, and what it does not do."""
    ran = [row for row in rows if "not_run" not in row]
    versions = dict.fromkeys(row["versions"]["version"] for row in ran)
    heading = f"### {peer.title}" + (f" ({', '.join(versions)})" if versions else "")
    seen = [f"- {sentence}" for sentence in said(ran)]
    not_run = [
        f"- {row['lengths']}, {row['samples']:,} samples: not run, {row['not_run']}."
        for row in rows
        if "not_run" in row
    ]
    told = "\n".join([*seen, *not_run]) or "- Not run."
    return f"{heading}\n\n{peer.ran}\n\n{told}\n\n{peer.lacks}"


def said(rows: list[Facts]) -> list[str]:
    """Put the figures of one peer into sentences; what it does as well or better comes first."""
    if not rows:
        return []
    sentences = []
    for name, row in _largest_of_each_set(rows).items():
        figures, ours = row["figures"], row["ours_figures"]
        where = f"{name}, {row['samples']:,} samples"
        if "imbalance" in figures:
            quality = f"max ÷ mean {figures['imbalance']:.5f}, ours {ours['imbalance']:.5f}"
        else:
            quality = _compared(figures, ours)
        sentences.append(f"{where}: {quality}; {_speed(row)}.")
    broken = [sentence for row in rows for sentence in _broken(row)]
    sentences += broken or [_KEPT[rows[0]["kind"]]]
    grown = [row for row in rows if "growth" in row]
    if grown:
        last = grown[-1]["growth"]
        sentences.append(
            f"The last step to {last['samples']:.3g} times the samples took "
            f"{last['seconds']:.3g} times the time."
        )
    return sentences


def main(arguments: list[str]) -> int:
    facts = json.loads((RESULTS / "peers.json").read_text(encoding="utf-8"))
    after = page(facts)
    if "--check" in arguments:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != after)
    PAGE.write_text(after, encoding="utf-8")
    return 0


def _compared(figures: Facts, ours: Facts) -> str:
    gap = figures["efficiency"] - ours["efficiency"]
    if abs(gap) < SAME:
        verdict = "the same efficiency as ours"
    else:
        verdict = "a better efficiency than ours" if gap > 0 else "less efficiency than ours"
    return f"{verdict} ({figures['efficiency']:.4f}, ours {ours['efficiency']:.4f})"


def _speed(row: Facts) -> str:
    ratio = row["ratio"]["median"]
    if ratio < 1:
        return f"faster than ours, {1 / ratio:.2f} times"
    return f"ours is {ratio:,.1f} times as fast"


def _broken(row: Facts) -> list[str]:
    figures = row["figures"]
    where = f"{row['lengths']}, {row['samples']:,} samples"
    counts = {
        "in no batch": figures["lost"],
        "planned again": figures["twice"],
        "not among those given": figures["unknown"],
    }
    found = [f"{where}: {count:,} {what}." for what, count in counts.items() if count]
    if figures.get("over"):
        found.append(
            f"{where}: {figures['over']:,} of {figures['batches']:,} batches exceed the budget; "
            f"the largest holds {figures['overrun']:.3f} times as much."
        )
    return found


def _table_of(lengths: str, rows: list[Facts]) -> str:
    """Lay out the largest number of samples that each peer planned of one set."""
    ran = [row for row in rows if "not_run" not in row]
    largest = {row["peer"]: row for row in sorted(ran, key=lambda row: row["samples"])}
    named = [(peer.title, cells(largest[peer.name])) for peer in PEERS if peer.name in largest]
    if not named:
        return ""
    return _table((lengths, *named[0][1]), [(title, *each.values()) for title, each in named])


def _largest_of_each_set(rows: list[Facts]) -> dict[str, Facts]:
    return {row["lengths"]: row for row in sorted(rows, key=lambda row: row["samples"])}


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    lines.insert(1, "|---|" + "--:|" * (lines[0].count("|") - 2))
    return "\n".join(lines)


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms" if seconds < 1 else f"{seconds:,.1f} s"


def _sources(facts: Facts) -> dict[str, object]:
    computer = facts["machine"]
    return {
        "command": facts["command"],
        "date": facts["date"],
        "cpu": computer["cpu"],
        "version": facts["batchwright"],
        "limit": facts["limit_seconds"],
    }


_HEAD = """\
# Beside other libraries

What others plan, and what we plan, from the same lengths. Only planning is compared, from lengths
to batches or rows: no data are read and no model is trained. This page is written by
`python -m benchmarks.peers.page` from `benchmarks/results/peers.json`, which is what
`{command}` found on {date}, on one core of {cpu}, with Batchwright {version}.

Each library runs at a pinned version in an environment of its own. One of theirs and one of ours
take turns; times are of the processor, and “×” is theirs over ours in the same round. Where a cell
has two figures, they are theirs / ours. What a plan loses, repeats or overruns is counted from its
batches. *text2k* and *text8k* are log-normal lengths of at most 2,048 and 8,192 tokens, *code2k*
are the functions of Python's own library. Memory is what a worker's peak rose by in its first plan.
Each table shows the most samples that a planner did within {limit:.0f} seconds.

These libraries are more than their planners, and most do what ours does not: they train models,
read audio, stream, generate. Each section says what was run, so that one can judge if it is fair.
"""

_EXPLAINED = {
    "padded": "Real tokens over tokens laid out, under a budget of 16,384 tokens a batch (32,768 "
    "for *text8k*), and the largest batch over that budget. “Mix” says how unlike each other "
    "updates of 32 consecutive batches are: 1 is a plain shuffle, less is more even.",
    "packed": "Real tokens over space, in rows of 2,048 tokens (8,192 for *text8k*). A global best "
    "fit leaves hardly any space whoever does it; libraries differ in time, in scope, and in what "
    "they keep.",
    "balance": "1,024 samples shared out among 8 ranks: the largest share over the mean.",
}

_KEPT = {
    "padded": "No sample is lost or repeated, and no batch exceeds the budget.",
    "packed": "No sample is lost or repeated, and no row exceeds the capacity.",
    "balance": "No sample is lost or repeated.",
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
