"""Write ``docs/peers.md`` from the result file, so that it says nothing that was not measured.

python -m benchmarks.peers.page            write it
python -m benchmarks.peers.page --check    say whether it is that of the file; exit code 1 if not
"""

import json
import sys
from collections.abc import Collection, Iterable, Mapping
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

SHOWN = ("text2k", "code2k")
"""Sets of lengths with a table; the result file has all."""

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
        of_kind = [row for row in rows if row["kind"] == kind]
        asked = {row["peer"] for row in of_kind}
        peers = [peer for peer in PEERS if peer.name in asked]
        if not of_kind:
            continue
        parts.append(f"## {title}\n\n{_EXPLAINED[kind]}")
        parts += [
            _table_of(lengths, [row for row in of_kind if row["lengths"] == lengths])
            for lengths in dict.fromkeys(row["lengths"] for row in of_kind)
            if lengths in SHOWN or kind == "balance"
        ]
        parts.append(
            "\n".join(
                about(peer, [row for row in of_kind if row["peer"] == peer.name]) for peer in peers
            )
        )
    absent = "\n".join(f"- {title}: {reason}." for title, reason in facts["not_run"].items())
    if absent:
        parts.append(f"## Not compared\n\n{absent}")
    return "\n\n".join(part for part in parts if part) + "\n"


def about(peer: Peer, rows: list[Facts]) -> str:
    """Say of one peer what was run, which samples or budgets it got wrong, and what it lacks."""
    ran = [row for row in rows if "not_run" not in row]
    versions = dict.fromkeys(row["versions"]["version"] for row in ran)
    heading = f"**{peer.title}**" + (f" ({', '.join(versions)})" if versions else "")
    seen = ["Not run."] if not ran else _worst(_largest_of_each_set(ran).values())
    skipped = [row for row in rows if "not_run" in row]
    if skipped:
        first = min(skipped, key=lambda row: row["samples"])
        seen.append(
            f"{first['lengths']}, {first['samples']:,} samples: not run, {first['not_run']}."
        )
    return " ".join([f"- {heading}: {peer.ran}", *seen, peer.lacks])


def main(arguments: list[str]) -> int:
    facts = json.loads((RESULTS / "peers.json").read_text(encoding="utf-8"))
    after = page(facts)
    if "--check" in arguments:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != after)
    PAGE.write_text(after, encoding="utf-8")
    return 0


def _worst(rows: Collection[Facts]) -> list[str]:
    """Say what was lost, repeated or over budget, each of the set of lengths where it was worst."""
    found = []
    for what, name in (
        ("in no batch", "lost"),
        ("planned again", "twice"),
        ("not among those given", "unknown"),
    ):
        worst = max(rows, key=lambda row: row["figures"][name])
        if count := worst["figures"][name]:
            found.append(f"{_where(worst)}: {count:,} {what}.")
    over = [row for row in rows if row["figures"].get("over")]
    if over:
        worst = max(over, key=lambda row: row["figures"]["overrun"])
        figures = worst["figures"]
        found.append(
            f"{_where(worst)}: {figures['over']:,} of {figures['batches']:,} batches exceed the "
            f"budget; the largest holds {figures['overrun']:.3f} times as much."
        )
    return found


def _where(row: Facts) -> str:
    return f"{row['lengths']}, {row['samples']:,} samples"


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
# Other libraries

What other libraries plan from the same lengths. Only planning is compared: no data are read, no
model is trained. `python -m benchmarks.peers.page` writes this page from
`benchmarks/results/peers.json`, made by `{command}` on {date}, on one core of {cpu}, with
Batchwright {version}.

Each library has a pinned version and its own environment; theirs and ours take turns. Cells with
two figures are theirs / ours, “×” is their CPU time over ours. *text2k* are log-normal lengths of
at most 2,048 tokens, *code2k* the functions of Python's standard library; the result file has
*text8k* too. MB is how far memory rose in the first plan. Tables show the most samples planned
within {limit:.0f} seconds.
These libraries do much more than planning.
"""

_EXPLAINED = {
    "padded": "Efficiency is real over padded tokens, under a budget of 16,384 tokens a batch. "
    "“Mix” is the length mix of updates of 32 consecutive batches: 1 is a plain shuffle, less is "
    "more even.",
    "packed": "Efficiency is real tokens over space, in rows of 2,048 tokens.",
    "balance": "1,024 samples shared out among 8 ranks: the largest share over the mean.",
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
