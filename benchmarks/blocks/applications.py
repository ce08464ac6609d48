"""Blocks of what strategies are worth to the applications, and of what is advised."""

from collections.abc import Mapping
from typing import Any

from batchwright.compare.verdicts import DENSE, arrival, interval, sentences
from benchmarks.blocks.markdown import made, source, table

Facts = Mapping[str, Any]


def application(facts: Facts) -> str:
    """Show what strategies are worth to a task, and what the figures say."""
    names = {DENSE: "no-padding limit", facts["summary"][0]["name"]: "baseline"}
    head = (
        f"{len(facts['runs'])} seeds",
        "padding",
        "tokens per second",
        "time to the baseline's final metric",
        f"final {facts['metric']}",
    )
    rows = [
        (
            names.get(each["name"], strategy_name(each)),
            f"{each['padding']:.0%}",
            f"{interval(each['speed'])} ×",
            arrival(each),
            "" if each["metric"] is None else f"{each['metric']:.4f}",
        )
        for each in facts["summary"]
    ]
    *judged, conclusion = sentences(facts)
    findings = "\n".join(f"- {sentence}" for sentence in judged)
    made_by = source(facts["name"], facts | {"date": facts["machine"]["date"]})
    return f"**{conclusion}**\n\n{table(head, rows)}\n\n{findings}\n\n{made_by}"


def headline(facts: Facts) -> str:
    """Say in a sentence what planned batches are worth to the translation model."""
    each = facts["translation"]
    planned = next(arm for arm in each["summary"] if arm["name"] == "planned")
    time = planned["time"]
    return (
        f"A small Transformer that learns to translate reaches the same loss in "
        f"**{time['mean']:.0%} of the time** ({time['low']:.0%} – {time['high']:.0%}, "
        f"{len(each['runs'])} seeds), with the same memory, updates and samples."
    )


def applications(facts: Facts) -> str:
    """Show what planned batches and the fastest strategy come to in every application."""
    rows = []
    for name, each in facts.items():
        first, *others = (arm for arm in each["summary"] if arm["name"] != DENSE)
        arrived = [arm for arm in (first, *others) if arm["time"] is not None]
        best = min(arrived, key=lambda arm: arm["time"]["mean"])
        planned = next((arm for arm in others if arm["name"] == "planned"), None)
        fastest = "" if best is first else f"{strategy_name(best)}: {interval(best['time'])}"
        rows.append((
            f"[{name.replace('_', ' ')}](docs/applications/{name}.md)",
            f"{first['padding']:.0%}" + ("" if planned is None else f" / {planned['padding']:.0%}"),
            "" if planned is None else f"{planned['speed']['mean']:.2f} ×",
            "" if planned is None else arrival(planned),
            fastest or "the baseline",
        ))  # fmt: skip
    head = (
        "",
        "padding before / after",
        "tokens per second",
        "time to the baseline's final loss",
        "fastest strategy: its time",
    )
    some = next(iter(facts.values()))
    seeds = sorted({len(each["runs"]) for each in facts.values()})
    notes = (
        f"Relative to the baseline (random batches of the same memory, fp32), "
        f"{' or '.join(map(str, seeds))} seeds, with 95 % intervals."
    )
    whole = {
        "command": "python -m benchmarks.applications",
        "machine": some["machine"],
        "date": some["machine"]["date"],
    }
    return f"{table(head, rows)}\n\n{notes} {made(whole)}"


def advice(facts: Facts) -> str:
    """Show what is advised beside what whole runs found to be the best."""
    head = (
        "",
        "advised",
        "time to the baseline's final metric",
        "fastest in whole runs",
        "its time",
    )
    rows = [_beside(row, facts["truth"].get(row["application"])) for row in facts["rows"]]
    seconds = [row["price"]["seconds_spent"] for row in facts["rows"]]
    note = (
        f"Times are relative to the baseline's. Trials took {min(seconds):.0f} to "
        f"{max(seconds):.0f} s."
    )
    total = f"**{facts['total']}**\n\n" if "total" in facts else ""
    return f"{table(head, rows)}\n\n{total}{note} {source('advice', facts)}"


def _beside(row: Facts, truth: Facts | None) -> tuple[str, ...]:
    """Write a row of what is advised. `truth` is the comparison of whole runs, if it is there."""
    time, best, best_time = interval(row["time"]), row["best"], row["best_time"]
    if truth is not None:
        arms = {each["name"]: each for each in truth["summary"] if each["name"] != DENSE}
        arrived = [each for each in arms.values() if each["time"] is not None]
        fastest = min(arrived, key=lambda each: each["time"]["mean"])
        best, best_time = fastest["name"], fastest["time"]
        if "tokens" not in row and row["arm"] in arms:
            time = arrival(arms[row["arm"]])
    updates = f", updates of {row['tokens']:,}" if "tokens" in row else ""
    name = row["application"].replace("_", " ")
    return name, row["advised"] + updates, time or "not run", best, interval(best_time)


def strategy_name(summary: Facts) -> str:
    """Name a strategy, and its precision where the name does not say it."""
    name, precision = summary["name"], summary["precision"]
    return name if precision == "fp32" or precision in name else f"{name} ({precision})"
