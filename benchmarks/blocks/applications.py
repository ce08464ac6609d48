"""Blocks of what strategies are worth to the applications, and of what is advised."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchwright.report.compared import DENSE, arrival, interval, sentences
from benchmarks.blocks.markdown import made, source, table

Facts = Mapping[str, Any]


def application(facts: Facts) -> str:
    """Show what strategies are worth to a task: all of its figures, and what they say."""
    first = facts["summary"][0]["name"]
    head = (
        f"{len(facts['runs'])} seeds",
        f"tokens/s ÷ {first}",
        "÷ dense limit",
        "padding",
        "largest batch ÷ budget",
        "peak MB",
        "length mix of updates",
        facts["metric"],
        f"gain over {first}",
        f"time to {first}'s final metric ÷ {first}",
    )
    rows = [
        (
            strategy_name(each),
            interval(each["speed"]),
            "" if each["of_limit"] is None else f"{each['of_limit']['mean']:.2f}",
            f"{each['padding']:.1%}",
            f"{each['worst_batch']:.2f}",
            "" if each["peak_bytes"] is None else f"{each['peak_bytes'] / 1e6:.0f}",
            f"{each['dispersion']:.2f}",
            "" if each["metric"] is None else f"{each['metric']:.4f}",
            "" if each["gain"] is None else interval(each["gain"], sign="+", digits=4),
            arrival(each),
        )
        for each in facts["summary"]
    ]
    findings = "\n".join(f"- {sentence}" for sentence in sentences(facts))
    name = Path(facts["task"]).stem
    made_by = source(f"applications/{name}", facts | {"date": facts["machine"]["date"]})
    return f"{table(head, rows)}\n\n{findings}\n\n{made_by}"


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
    rows = [
        (
            row["application"].replace("_", " "),
            row["advised"] + (f", updates of {row['tokens']:,}" if "tokens" in row else ""),
            interval(row["time"]) or "not run, or did not get there",
            row["best"],
            interval(row["best_time"]),
            "" if row["over_best"] is None else f"{row['over_best']:.2f}",
            _easy_first(row["learning"].get("curriculum")),
            f"{row['price']['seconds_spent']:.0f} s",
        )
        for row in facts["rows"]
    ]
    head = (
        "",
        "advised",
        "its time ÷ baseline",
        "fastest arm",
        "its time ÷ baseline",
        "advised ÷ fastest",
        "easy first, in trials",
        "trials took",
    )
    return f"{table(head, rows)}\n\n{source('advice', facts)}"


def _easy_first(trial: Facts | None) -> str:
    """Write what short runs of a curriculum showed; nothing if there were none."""
    if trial is None:
        return ""
    runs = "1 run" if trial["runs"] == 1 else f"{trial['runs']} runs"
    sooner = interval({**trial["sooner"], "mean": trial["sooner"]["ratio"]})
    return f"{sooner}, {runs} of {trial['share']:.0%}"


def strategy_name(summary: Facts) -> str:
    """Name a strategy, and its precision where the name does not say it."""
    name, precision = summary["name"], summary["precision"]
    return name if precision == "fp32" or precision in name else f"{name} ({precision})"
