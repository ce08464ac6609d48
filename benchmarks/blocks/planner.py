"""Blocks of how quickly plans are made, and of the claims."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.blocks.markdown import source, table
from benchmarks.reporting import RESULTS
from benchmarks.scale import TARGETS
from benchmarks.shards import RANKS, RANKS_PER_NODE
from benchmarks.shards import TARGETS as SHARD_TARGETS
from benchmarks.timing import PERMUTATION

Facts = Mapping[str, Any]

SHARD_NODES = RANKS // RANKS_PER_NODE

TOKENS_PER_SECOND = 20_000
"""What a rank is assumed to train on."""

BYTES_PER_TOKEN = 4
"""What a token is assumed to take in its shard."""


def constraints(facts: Facts) -> str:
    """Show what constraints cost a plan."""
    rows = []
    for row in facts["plans"]:
        (plain, kept), own = row["padding"], row["own_padding"]
        rows.append(
            (
                row["data"],
                f"`{row['constraint']}=`",
                " / ".join(f"{each:,}" for each in row["batches"]),
                f"{plain:.1%} / {kept:.1%}" + (f" ({own:.1%} in the groups)" if own else ""),
                " / ".join(f"{each:.2f}" for each in row["dispersion"]),
            )
        )
    head = ("", "", "batches", "padding", "length mix of updates")
    size = facts["plans"][0]["samples"]
    about = f"{size:,} texts in padded batches, eight per update, without / with the constraint."
    return f"{table(head, rows)}\n\n{about} {source('contrastive', facts)}"


def planning(facts: Facts) -> str:
    """Show what plans cost beside a plain shuffle, for both ways that NumPy sorts."""
    rows = [
        (
            each[0]["case"],
            f"{each[0]['samples']:,}",
            _both(each, lambda row: f"{row['ratio']['whole epoch'][PERMUTATION]['median']:.2f}"),
            _both(each, lambda row: f"{_milliseconds(row, 'first epoch'):.3g}"),
            _both(each, lambda row: f"{_milliseconds(row, 'planner(epoch)'):.2g}"),
            _both(each, lambda row: f"{_milliseconds(row, 'plan[b]') * 1e3:.0f}"),
            _both(each, lambda row: f"{_milliseconds(row, 'plan[b] in blocks') * 1e3:.1f}"),
        )
        for each in zip(*facts["sorts"].values(), strict=True)
        if each[0]["samples"] in {10_000, 1_000_000, 10_000_000}
    ]
    head = (
        "",
        "lengths",
        f"whole epoch ÷ `{PERMUTATION}`",
        "planner and first epoch, ms",
        "`planner(epoch)`, ms",
        "`plan[b]`, µs",
        "in blocks of 64, µs",
    )
    index = [
        row["ratio"]["LengthIndex.build(lengths)"][PERMUTATION]["median"]
        for sort in facts["sorts"].values()
        for row in sort
        if row["samples"] == 10_000_000
    ]
    whole = json.loads((RESULTS / "hundred_million.json").read_text(encoding="utf-8"))
    large = whole["rows"][0]
    most = max(row["peak_bytes_per_sample"] for row in whole["rows"])
    more = (
        "A whole epoch, and the first one, are all batches as arrays. Two figures: sorted as NumPy "
        'chooses / with `NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL"`. The length index of 10⁷ '
        f"takes at most {max(index):.2f} × a permutation. "
        f"10⁸ lengths are planned in memory, as arrays, in {large['seconds']:.0f} s, with at most "
        f"{most:.0f} bytes a sample above the input. "
        f"`import batchwright` takes {facts['import']['median']:.2f} × `import numpy`."
    )
    return f"{table(head, rows)}\n\n{more}\n\n{source('planning', facts)}"


def _both(rows: Sequence[Facts], shown: Callable[[Facts], str]) -> str:
    return " / ".join(dict.fromkeys(map(shown, rows)))


def _milliseconds(row: Facts, task: str) -> float:
    seconds: float = row["seconds_median"][task]
    return seconds * 1e3


def scale(facts: Facts) -> str:
    """Show what planning costs at sizes that no rank could hold as arrays."""
    head = ("", "at most", *(f"{row['samples']:,}" for row in facts["rows"]))
    rows = [
        (
            title,
            f"{most:,}",
            *("–" if row[name] is None else f"{row[name]:,.3g}" for row in facts["rows"]),
        )
        for name, (title, most) in TARGETS.items()
    ]
    checked = all(row["right"] for row in facts["rows"])
    more = (
        "Every batch was checked: each sample in one of them, none above the budget, and the "
        "same order after resuming under another number of ranks."
    )
    return f"{table(head, rows)}\n\n{more if checked else '**Wrong.**'}\n\n{source('scale', facts)}"


def shards(facts: Facts) -> str:
    """Show what plans of data in shards cost a rank, and what they keep."""
    head = ("", "target", *(f"{row['samples']:,} samples" for row in facts["rows"]))
    rows = [
        (
            title,
            f"{'≥' if is_least else '≤'} {target:g}",
            *(f"{row[name]:.3g}" if name in row else "–" for row in facts["rows"]),
        )
        for name, (title, target, is_least) in SHARD_TARGETS.items()
    ]
    counted = [
        "all" if row["nodes_checked"] == SHARD_NODES else f"{row['nodes_checked']} of {SHARD_NODES}"
        for row in facts["rows"]
    ]
    rows.append(("nodes whose batches were all checked", "", *counted))
    right = all(row["each_sample_once"] for row in facts["rows"])
    more = "No sample came twice, and where all nodes were checked each came once."
    return f"{table(head, rows)}\n\n{more if right else '**Wrong.**'}\n\n{source('shards', facts)}"


def index_parquet(facts: Facts) -> str:
    """Say how quickly words are counted, beside a plain loop of pyarrow."""
    ratio, rate = facts["ratio"], facts["rows_per_second"]["index_shards"]
    return (
        f"Words of {facts['texts']:,} texts in {facts['files']} Parquet files, on "
        f"{facts['cores']} cores: {rate:,.0f} texts a second, {ratio['median']:.1f} "
        f"({ratio['least']:.1f} – {ratio['most']:.1f}) × what a loop of pyarrow reads and counts, "
        f"sorting and writing included. {source('index_parquet', facts)}"
    )


def shards_ahead(facts: Facts) -> str:
    """Calculate larger clusters from what was measured."""
    row = facts["rows"][-1]
    per_shard = row["samples"] // row["shards"]
    number = 10**10 // per_shard
    times = number / row["shards"]
    batches = row["batches"] * times
    tokens = row["tokens"] * times
    lines = []
    for ranks in (1_024, 4_096, 16_384):
        nodes = ranks // RANKS_PER_NODE
        seconds = tokens / (ranks * TOKENS_PER_SECOND)
        read = number / nodes + 16  # the groups at both ends of its stretch are shared
        megabytes = read * tokens / number * BYTES_PER_TOKEN / 1e6
        lines.append(
            (
                f"{ranks:,}",
                f"{batches / ranks:,.0f}",
                f"{seconds / 3600:,.1f}",
                f"{read:,.0f}",
                f"{megabytes / seconds:,.2g}",
                "16",
            )
        )
    head = (
        "ranks",
        "updates an epoch",
        "hours an epoch",
        "shards a node reads",
        "MB/s a node reads",
        "open at most",
    )
    planner = row["planner_seconds"] * times
    memory = row["base_mb"] + (row["rank_private_mb"] - row["base_mb"]) * times
    more = (
        f"Calculated for 10¹⁰ samples in {number:,} shards from the last column above. Assumed: "
        f"{RANKS_PER_NODE} ranks a node, {TOKENS_PER_SECOND:,} tokens a second on each, "
        f"{BYTES_PER_TOKEN} bytes a token, one batch an update on each rank. The planner breaks "
        "first: its time and memory grow with the number of shards, to "
        f"{planner:,.0f} s and {memory / 1e3:,.1f} GB in every process."
    )
    return f"{table(head, lines)}\n\n{more}\n\n{source('shards', facts)}"


def claims(facts: Facts) -> str:
    """Count the verdicts, and name what was missed."""
    verdicts = facts["verdicts"]
    missed = [
        f"{each['subject']}: {each['claim']}"
        for each in facts["claims"]
        if each["verdict"] == "missed"
    ]
    named = f" Missed: {'; '.join(missed)}." if missed else ""
    kept, lost = verdicts.get("kept", 0), verdicts.get("missed", 0)
    return (
        f"`python -m benchmarks.claims` measures what we claim: {kept} hold, {lost} do not."
        f"{named} {source('claims', facts)}"
    )


def flat_tokens(facts: Facts) -> str:
    """Show what fetching and collating a batch takes, by how tokens are read."""
    milliseconds = facts["milliseconds_median"]
    rows = []
    for name, ratio in facts["ratio"].items():
        ours, theirs = (milliseconds[each] for each in (ratio["to"], name))
        times = f"{ratio['median']:.1f} ({ratio['least']:.1f} – {ratio['most']:.1f})"
        rows.append((f"{name} / {ratio['to']}", f"{theirs:.2f} / {ours:.2f}", times))
    head = ("usual way / FlatTokens, for the same tensors", "ms", "ratio of times")
    more = (
        f"Fetched and collated on one core: planned batches of up to {facts['max_tokens']:,} "
        f"tokens, {facts['mean_samples']:.0f} samples on average. Median (least – most) of rounds."
    )
    return f"{table(head, rows)}\n\n{more} {source('flat_tokens', facts)}"
