"""The advice beside the truth: what `advise` says of the six applications, and what runs showed.

\\b
python -m benchmarks.advice               some minutes; writes results/advice.json
python -m benchmarks.advice --seconds 60  longer trials

Advice is asked for anew; the truth is in results/applications, which `python -m
benchmarks.applications` writes.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from benchmarks import machine
from benchmarks.applications import APPLICATIONS
from benchmarks.reporting import RESULTS, output_path, progress_bar, table_console, write_result

Facts = dict[str, Any]


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", default=30.0, show_default=True, help="What trials of one may take.")
@click.option("--only", type=click.Choice(APPLICATIONS), multiple=True, help="These.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
def main(*, seconds: float, only: tuple[str, ...], output: Path | None) -> None:
    """Ask, look up, and print."""
    names = only or APPLICATIONS
    rows = []
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(names))
        for name in names:
            progress.update(bar, description=name, refresh=True)
            truth = json.loads((RESULTS / "applications" / f"{name}.json").read_text("utf-8"))
            rows.append({"application": name, **beside(advice_on(name, seconds), truth)})
            progress.update(bar, advance=1, refresh=True)
    table_console().print(table(rows))
    target = output_path("advice", output, quick=bool(only))
    if target is not None:
        command = f"python -m benchmarks.advice --seconds {seconds:g}"
        write_result(target, command, {"seconds": seconds, "rows": rows})


def advice_on(name: str, seconds: float) -> Facts:
    """Ask for advice on an application, in a process of its own."""
    command = ["advise", f"examples/{name}.py", "--seconds", f"{seconds:g}", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "batchwright", *command],
        cwd=machine.REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def beside(advice: Facts, truth: Facts) -> Facts:
    """Put what is advised beside what the arms of whole runs needed to plain's final metric.

    Returns:
        ``advised``: the arm that does as advised; ``time``: what it needed over plain, with its
        interval; ``best``: the arm that needed least, and ``best_time``. Arms whose order or
        batching is no matter of the advice take part as best, too. ``time`` is None where that arm
        never arrived.
    """
    verdicts = {each["technique"]: each["verdict"] for each in advice["advice"]}
    kind = "planned" if verdicts["dynamic batching"] == "use" else "plain"
    precision = "fp32"
    if verdicts["mixed precision"] == "use":
        trial = next(each for each in advice["trials"] if each["name"] == "planned+auto")
        precision = trial["precision"]
    arms = [each for each in truth["summary"] if each["name"] != "dense limit"]
    orders = {each["name"]: each["order"] for each in truth["strategies"]}
    kinds = {each["name"]: each["kind"] for each in truth["strategies"]}
    fitting = [
        each
        for each in arms
        if (kinds[each["name"]], orders[each["name"]]) == (kind, "shuffle")
        and each["precision"] == precision
    ]
    timed = [each for each in arms if each["time"] is not None]
    best = min(timed, key=lambda each: each["time"]["mean"])
    return {
        "verdicts": verdicts,
        "advised": fitting[0]["name"] if fitting else f"{kind}+{precision}",
        "time": fitting[0]["time"] if fitting else None,
        "best": best["name"],
        "best_time": best["time"],
    }


def table(rows: list[Facts]) -> Any:
    """Show them."""
    from rich.table import Table

    from batchwright.report.compared import interval

    shown = Table(title="time to plain's final metric, over plain's")
    for heading in ("", "advised", "its time", "best arm", "its time", "advised over best"):
        shown.add_column(heading)
    for row in rows:
        over = (
            "" if row["time"] is None else f"{row['time']['mean'] / row['best_time']['mean']:.2f}"
        )
        shown.add_row(
            row["application"],
            row["advised"],
            interval(row["time"]) or "not among the arms, or never there",
            row["best"],
            interval(row["best_time"]),
            over,
        )
    return shown


if __name__ == "__main__":
    main()
